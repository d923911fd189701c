"""A convolution of 1 x 1 or 3 x 3 that keeps the size of the map, and what multiplies its negative results."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def conv(x: Tensor, weight: Tensor, bias: Tensor | None, slope: float) -> Tensor:
    """Of x [B, C, H, W] and weight [filters, C, k, k]: [B, filters, H, W]; below 0 multiplied by slope."""
    result = F.conv2d(x, weight, bias, padding=weight.shape[2] // 2)
    return torch.where(result < 0, result * slope, result) if slope else F.relu(result)
