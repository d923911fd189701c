"""A convolution, what multiplies its negative results, and max pooling of those."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pydet.reference.max_pool_2x2 import max_pool_2x2


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    slope: float,
    stride: int = 1,
    padding: int | None = None,
    pools: bool = False,
) -> Tensor:
    """Of x [B, C, H, W] and weight [filters, C, k, k]: [B, filters, H', W']; below 0 multiplied by slope.

    Without `padding` it is k // 2. If it pools, only the largest of 2 x 2 pixels is kept, in the last row and column of
    those that there are.
    """
    result = F.conv2d(x, weight, bias, stride, weight.shape[2] // 2 if padding is None else padding)
    result = torch.where(result < 0, result * slope, result) if slope else F.relu(result)
    height, width = result.shape[2:]
    return max_pool_2x2(result, 2, ((height + 1) // 2, (width + 1) // 2)) if pools else result
