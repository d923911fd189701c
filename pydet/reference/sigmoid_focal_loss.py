from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class _Finite(torch.autograd.Function):
    """clamp, except that the gradient passes: that of an infinite logit is that of a very large one."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clamp(-(2.0**64), 2.0**64)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def finite(inputs: Tensor) -> Tensor:
    """float64 for float64, float32 for narrower logits; all beyond 2^64 count as that, since inf * 0 is NaN."""
    return _Finite.apply(inputs.to(torch.float64 if inputs.dtype == torch.float64 else torch.float32))


def modulation(miss: Tensor, gamma: float) -> Tensor:
    """miss^gamma, whose derivative is infinite at 0 for gamma < 1: there it counts as flat."""
    if gamma == 0:
        return torch.ones_like(miss)
    flat = miss < torch.finfo(miss.dtype).tiny
    return torch.where(flat, 0.0, torch.where(flat, 1.0, miss) ** gamma)


def sigmoid_focal_loss(
    inputs: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2, reduction: str = "none"
) -> Tensor:
    """Focal loss (Lin et al. 2017), equation 5. Integer targets [...] are classes of inputs [..., C]: C is the
    background, negative ones are ignored.
    """
    x = finite(inputs)
    counted = torch.ones_like(x, dtype=torch.bool)
    if not targets.is_floating_point():
        classes = torch.arange(x.shape[-1], device=x.device)
        counted = (targets >= 0)[..., None].expand_as(x)
        targets = targets[..., None] == classes
    t = targets.to(x.dtype)
    p, not_p = torch.sigmoid(x), torch.sigmoid(-x)
    cross_entropy = -t * F.logsigmoid(x) - (1 - t) * F.logsigmoid(-x)
    loss = modulation(p * (1 - t) + not_p * t, gamma) * cross_entropy
    if alpha >= 0:
        loss = (alpha * t + (1 - alpha) * (1 - t)) * loss
    loss = torch.where(counted, loss, 0.0)
    if reduction == "none":
        return loss
    return loss.sum() / counted.sum().clamp(min=1) if reduction == "mean" else loss.sum()
