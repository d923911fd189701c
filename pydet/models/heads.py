"""What the heads of SSD and RetinaNet share."""

from __future__ import annotations

import torch
from torch import Tensor


def by_anchor(maps: list[Tensor], columns: int) -> Tensor:
    """Raw maps [B, A * columns, H, W] of all levels as [B, N, columns]: level, row, column, anchor."""
    return torch.cat([m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, columns) for m in maps], dim=1)
