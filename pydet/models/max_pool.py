"""Max pooling that halves a map."""

from __future__ import annotations

from torch import Tensor, nn

from pydet.ops.max_pool_2x2 import max_pool_2x2


class MaxPool2x2(nn.Module):
    """Max pooling that halves a map; an odd last row or column is dropped, or with `ceil_mode` pooled by itself."""

    def __init__(self, ceil_mode: bool = False) -> None:
        super().__init__()
        self.ceil_mode = ceil_mode

    def forward(self, x: Tensor) -> Tensor:
        height, width = (side + int(self.ceil_mode) for side in x.shape[2:])  # int: torch.jit.trace adds no bool
        return max_pool_2x2(x, 2, (height // 2, width // 2))
