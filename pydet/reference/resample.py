"""A picture made larger or smaller."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def resample(
    image: Tensor,
    rows: Tensor,
    row_parts: Tensor,
    columns: Tensor,
    column_parts: Tensor,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> Tensor:
    """A picture [C, H, W] looked at where the taps say, each pixel mixed of four.

    Only the pixels that are looked at are converted, so that a huge uint8 picture never becomes a huge float one.

    Args:
        image: uint8 in 0..255 or floating point in 0..1.
        rows: int64 [2, height], the two rows that each one of the result is mixed of.
        row_parts: float32 [2, height], how much of each.
        columns: int64 [2, width].
        column_parts: float32 [2, width].
        mean, std: of each colour, taken off and divided by; empty to leave the colours as they are.

    Returns:
        [C, height, width], float32, float64 for float64.
    """
    height, width = rows.shape[1], columns.shape[1]
    across = columns.flatten().expand(image.shape[0], 2 * height, -1)
    corners = _unit(image.index_select(1, rows.flatten()).gather(2, across))
    if len(mean):
        corners = (corners - corners.new_tensor(mean)[:, None, None]) / corners.new_tensor(std)[:, None, None]
    left, right = corners[..., :width], corners[..., width:]
    lines = left * column_parts[0] + right * column_parts[1]
    return lines[:, :height] * row_parts[0, :, None] + lines[:, height:] * row_parts[1, :, None]


def _unit(pixels: Tensor) -> Tensor:
    """Pixels as floating point in 0..1."""
    if pixels.dtype == torch.uint8:
        return pixels.float() / 255
    return pixels if pixels.dtype == torch.float64 else pixels.float()
