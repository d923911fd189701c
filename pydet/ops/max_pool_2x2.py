"""Max pooling of maps as they lie in a fused network; no operator for users, whose is `torch.nn.functional`'s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pydet.ops import _autograd
from pydet.ops._backend import has_internal
from pydet.ops._fakes import register_fake
from pydet.ops._gradients import of_reference
from pydet.reference.max_pool_2x2 import max_pool_2x2 as reference


def max_pool_2x2(x: Tensor, step: int, size: tuple[int, int]) -> Tensor:
    """Maximum over windows of 2 x 2, those of the last row and column perhaps half outside of the map.

    torch's max pooling of channels-last maps also writes down where the maximum is, in 8 bytes, which takes most of its
    time. Ours looks for it once more when the gradient comes. It serves outside of compiled and exported programs,
    which have their own, and where windows with a gradient do not overlap.

    Args:
        x: [B, C, H, W].
        step: From one window to the next, 1 or 2.
        size: (height, width) of the result.

    Returns:
        [B, C, *size].
    """
    served = (
        _autograd.is_plain_call()
        and (step == 2 or not (x.requires_grad and torch.is_grad_enabled()))
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.stride(1) == 1
        and has_internal("_max_pool_2x2", x.device)
    )
    return torch.ops.pydet._max_pool_2x2(x, step, size) if served else reference(x, step, size)


@register_fake("pydet::_max_pool_2x2")
def _(x: Tensor, step: int, size: Sequence[int]) -> Tensor:
    shape = (x.shape[0], x.shape[1], *size)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


@register_fake("pydet::_max_pool_2x2_backward")
def _(grad: Tensor, x: Tensor) -> Tensor:
    return torch.empty_like(x)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ctx.step, ctx.size = inputs
    ctx.save_for_backward(x)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (x,) = ctx.saved_tensors
    if ctx.step == 2 and not torch.is_grad_enabled():
        grad = grad.contiguous(memory_format=torch.channels_last)
        return torch.ops.pydet._max_pool_2x2_backward(grad, x), None, None
    return *of_reference(lambda x: reference(x, ctx.step, ctx.size), (x,), grad), None, None


_autograd.register("_max_pool_2x2", _backward, _setup_context)
