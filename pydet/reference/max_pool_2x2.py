"""Maximum over windows of 2 x 2."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def max_pool_2x2(x: Tensor, step: int, size: tuple[int, int]) -> Tensor:
    """Of x [B, C, H, W]: [B, C, *size], windows `step` apart; what lies outside of x does not count."""
    # What the last window needs beyond the map; negative where the last rows or columns are not looked at.
    bottom, right = ((length - 1) * step + 2 - given for length, given in zip(size, x.shape[2:], strict=True))
    if bottom or right:
        x = F.pad(x, (0, right, 0, bottom), value=-torch.inf)
    return F.max_pool2d(x, 2, step)
