"""Every threshold, chains, duplicates, slivers, NaN, infinite, degenerate, tiny, huge and far boxes."""

from __future__ import annotations

from typing import Any

import torch
from op_cases import clustered_boxes, random_boxes
from torch import Tensor

NAN, INF = float("nan"), float("inf")


def chain(n: int) -> Tensor:
    """A grid of equal boxes, 40 to a row: with equal scores each waits for the one before it."""
    i = torch.arange(n)
    corner = torch.stack([i % 40, i // 40], dim=1) * 8.0
    return torch.cat([corner, corner + 32], dim=1)


def odd(boxes: Tensor) -> Tensor:
    """Points, lines, inverted, infinite and NaN boxes among others."""
    boxes = boxes.clone()
    boxes[::7, 2:] = boxes[::7, :2]
    boxes[1::7, 2] = boxes[1::7, 0]
    boxes[2::7] = boxes[2::7].flip(1)
    boxes[3::11, 2] = INF
    boxes[4::11, 0] = -INF
    boxes[5::13] = NAN
    return boxes


def slivers(n: int, generator: torch.Generator) -> Tensor:
    """Widths and heights over six decades."""
    centre = torch.randn(n, 2, generator=generator) * 100
    extent = 10 ** (torch.rand(n, 2, generator=generator) * 6 - 3)
    return torch.cat([centre - extent / 2, centre + extent / 2], dim=1)


def inputs(n: int, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    g = torch.Generator().manual_seed(n)
    clustered, scattered = clustered_boxes(n, g), random_boxes(n, g, size=20.0 * max(n, 1) ** 0.5)
    scores = torch.rand(n, generator=g)
    tied = (scores * 4).round() / 4 - 0.25  # 0 and -0 among them
    tied[::5] *= -1
    special = scores.clone()
    special[::6], special[1::6], special[2::6] = NAN, INF, -INF
    equal = torch.full((n,), 0.5)
    found: list[tuple[Tensor, Tensor, float]] = [
        (clustered, tied, 0.5),
        (clustered, special, 0.3),
        (scattered, scores, 0.0),
        (clustered, scores, 1.0),
        (clustered.repeat_interleave(2, 0)[:n], scores, 1.0 - 1e-9),
        (clustered, scores, 2.0),
        (clustered, scores, 1e-42),
        (odd(clustered), scores, 0.4),
        (odd(clustered), tied, -1.0),
        (clustered[:1].expand(n, 4), equal, 0.5),
        (chain(n), equal, 0.5),
        (slivers(n, g), scores, 0.2),
        (clustered - 700, scores, 0.5),
    ]
    if dtype in (torch.float32, torch.float64):
        found += [(clustered * scale + shift, scores, 0.5) for scale, shift in ((1500, 1e6), (1e-22, 0), (1e16, 0))]
    return [(boxes.to(dtype), values.to(dtype), threshold) for boxes, values, threshold in found]
