"""Batch normalisation in training, with the activation behind it; no operator for users, whose is torch's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pydet.ops import _autograd
from pydet.ops._backend import has_internal
from pydet.ops._fakes import register_fake
from pydet.ops._gradients import of_reference
from pydet.reference.batch_norm_leaky_relu import batch_norm_leaky_relu as reference

OPERATOR = "_batch_norm_leaky_relu"


def batch_norm_leaky_relu(
    x: Tensor,
    running: tuple[Tensor, Tensor],
    weight: Tensor,
    bias: Tensor,
    momentum: float,
    eps: float,
    slope: float,
) -> Tensor:
    """Batch normalisation with the statistics of the batch, then max(y, slope y) (Ioffe and Szegedy 2015, algorithm 1).

    torch goes through the map three times more, and on the CPU sums millions of float32 in a row: of a gradient by a
    weight 3 digits were right. Ours serves what it is for, maps that are channels last on the CPU, where no program is
    compiled.

    Args:
        x: [B, C, H, W].
        running: mean and variance [C], moved towards those of the batch by `momentum`.
        weight, bias: [C], float32 (float64 for float64 x).
        momentum: how much of the batch's statistics enters the running ones.
        eps: added to the variance.
        slope: below 0; 1 for no activation, 0 for ReLU.

    Returns:
        [B, C, H, W], of x's dtype.
    """
    mean, variance = running
    if not _served(x, weight, bias):
        normal = F.batch_norm(x, mean, variance, weight, bias, training=True, momentum=momentum, eps=eps)
        return normal if slope == 1 else F.leaky_relu_(normal, slope)
    out, batch_mean, batch_variance = torch.ops.pydet._batch_norm_leaky_relu(x, weight, bias, eps, slope)
    with torch.no_grad():
        count = x.numel() // x.shape[1]
        mean.lerp_(batch_mean.to(mean.dtype), momentum)
        # As torch: what is kept for evaluation is the unbiased estimate.
        variance.lerp_((batch_variance * (count / (count - 1))).to(variance.dtype), momentum)
    return out


def _served(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    return (
        _autograd.is_plain_call()
        and x.device.type == "cpu" == weight.device.type
        and x.dim() == 4
        and x.numel() > x.shape[1]  # one number has no variance, of which torch complains
        and x.is_contiguous(memory_format=torch.channels_last)
        and weight.dtype == bias.dtype == (torch.float64 if x.dtype == torch.float64 else torch.float32)
        and has_internal(OPERATOR, x.device)
    )


@register_fake("pydet::_batch_norm_leaky_relu")
def _(x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)


@register_fake("pydet::_batch_norm_leaky_relu_backward")
def _(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.eps, ctx.slope = inputs
    _, mean, variance = output
    ctx.mark_non_differentiable(mean, variance)
    ctx.save_for_backward(*tensors, mean, variance)


def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    x, weight, bias, mean, variance = ctx.saved_tensors
    if torch.is_grad_enabled():  # somebody wants the gradient of the gradient

        def out(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return reference(x, weight, bias, ctx.eps, ctx.slope)[0]

        return *of_reference(out, (x, weight, bias), grad), None, None
    grad = grad.to(x.dtype).contiguous(memory_format=torch.channels_last)
    backward = torch.ops.pydet._batch_norm_leaky_relu_backward
    return *backward(grad, x, weight, bias, mean, variance, ctx.eps, ctx.slope), None, None


_autograd.register(OPERATOR, _backward, _setup_context)
