"""The boxes that SSD and RetinaNet predict from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def cell_anchors(sides: Sequence[tuple[float, float]]) -> Tensor:
    """Anchors around (0, 0): float32 [A, 4] xyxy of the (width, height) of each, in pixels of the network's input."""
    # Rounded, as in torchvision: the published weights were trained on whole pixels.
    return (torch.tensor([[-w, -h, w, h] for w, h in sides]) / 2).round()


def grid_anchors(cell: Tensor, grid: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Anchors around the top left corner of every cell, as torchvision's AnchorGenerator.

    Args:
        cell: [A, 4] of `cell_anchors`.
        grid: (rows, columns) of cells.
        stride: (height, width) of a cell in pixels.

    Returns:
        float32 [rows * columns * A, 4] xyxy in pixels of the network's input, made on the device of `cell`.
    """
    rows, columns = (torch.arange(n, device=cell.device) * step for n, step in zip(grid, stride, strict=True))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    shifts = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (shifts + cell).reshape(-1, 4)


def retinanet_sides(size: float) -> list[tuple[float, float]]:
    """(width, height) of the nine anchors of a level: three scales of each of three aspect ratios (section 4).

    Args:
        size: side of the smallest square one, in pixels: 32 for P3 to 512 for P7.
    """
    # The scales are cut to whole pixels, as in torchvision.
    scales = torch.tensor([float(int(size * 2 ** (octave / 3))) for octave in range(3)])
    root = torch.tensor([0.5, 1.0, 2.0]).sqrt()  # of height / width
    widths, heights = (1 / root)[:, None] * scales, root[:, None] * scales
    return list(zip(widths.flatten().tolist(), heights.flatten().tolist(), strict=True))


def default_boxes(
    scales: Sequence[float],
    ratios: Sequence[Sequence[int]],
    grids: Sequence[tuple[int, int]],
    steps: Sequence[int],
    image_size: tuple[int, int],
) -> Tensor:
    """SSD's default boxes (section 2.2), as torchvision's DefaultBoxGenerator.

    A cell of level k has a square of scale s_k, one of sqrt(s_k s_k+1), and two boxes for each aspect ratio.

    Args:
        scales: one more than there are levels, as fractions of the picture.
        ratios: of each level, the aspect ratios beside 1.
        grids: of each level, (rows, columns) of cells.
        steps: of each level, the side of a cell in pixels.
        image_size: (height, width) of the network's input in pixels.

    Returns:
        float32 [N, 4] xyxy in pixels of the network's input: level, row, column, box.
    """
    height, width = image_size
    boxes = []
    for k, (rows, columns) in enumerate(grids):
        between = math.sqrt(scales[k] * scales[k + 1])
        sides = [(scales[k], scales[k]), (between, between)]
        for ratio in ratios[k]:
            long, short = scales[k] * math.sqrt(ratio), scales[k] / math.sqrt(ratio)
            sides += [(long, short), (short, long)]
        x = (torch.arange(columns) + 0.5) / (width / steps[k])
        y = (torch.arange(rows) + 0.5) / (height / steps[k])
        y, x = torch.meshgrid(y, x, indexing="ij")
        centres = torch.stack([x, y], dim=-1).reshape(-1, 1, 2)
        half = 0.5 * torch.tensor(sides).clamp(max=1)
        boxes.append(torch.cat([centres - half, centres + half], dim=-1).reshape(-1, 4))
    return torch.cat(boxes) * torch.tensor([width, height, width, height])
