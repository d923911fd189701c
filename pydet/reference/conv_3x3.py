"""A 3 x 3 convolution of maps that keeps their size, and what multiplies its negative results."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def conv_3x3(x: Tensor, weight: Tensor, bias: Tensor | None, slope: float) -> Tensor:
    """Of x [B, C, H, W] and weight [filters, C, 3, 3]: [B, filters, H, W]; below 0 multiplied by slope."""
    result = F.conv2d(x, weight, bias, padding=1)
    return torch.where(result < 0, result * slope, result)
