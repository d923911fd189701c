"""Batch normalisation with the statistics of the batch, and the leaky rectifier behind it."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def batch_norm_leaky_relu(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Of x [B, C, H, W]: the result, and mean and (biased) variance [C], in the dtype of the weight."""
    wide = x.to(weight.dtype)
    variance, mean = wide.var((0, 2, 3), correction=0), wide.mean((0, 2, 3))
    normal = F.batch_norm(wide, None, None, weight, bias, training=True, eps=eps)
    return F.leaky_relu(normal, slope).to(x.dtype), mean, variance
