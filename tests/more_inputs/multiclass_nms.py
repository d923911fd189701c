"""Every option; scores inside of wider rows; boxes for every class; ties, NaN, infinite and negative scores."""

from __future__ import annotations

from typing import Any

import torch
from more_inputs import nms
from op_cases import clustered_boxes


def inputs(n: int, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    n = min(n, 100 + n // 4)
    g = torch.Generator().manual_seed(n)
    boxes = torch.stack([clustered_boxes(n, g) for _ in range(3)])
    few, many = torch.rand(3, n, 3, generator=g), torch.rand(3, n, 81, generator=g) ** 8
    tied = (few * 4).round() / 4
    special = few - 0.5
    special[0, ::3], special[1, 1::4], special[1, ::5] = nms.NAN, nms.INF, -nms.INF
    wide = torch.cat([boxes, few.repeat(1, 1, 3)], dim=2).to(dtype)
    per_class = clustered_boxes(9 * n, g).reshape(3, n, 3, 4)
    other = torch.float32 if dtype == torch.float64 else torch.float64
    found: list[tuple[Any, ...]] = [
        (boxes, tied, 0.3, 0.5, 20),
        (boxes, many, 0.2, 0.5, 30, 200, False, False),
        (wide[..., :4], wide[..., 6:], 0.4, 0.4, n + 3, None, True, True),
        (wide[1:, :, :4], wide[1:, :, 5:6], -1.0, 0.5, 10, 7),  # one class, not aligned
        (per_class, few, 0.1, 0.5, 1, n + 1, False, False),
        (per_class, tied, 0.1, 0.5, 50, 3 * n // 2 + 1, True, False),
        (boxes[:1] - 300, special[:1], -nms.INF, 0.0, 40),
        (boxes, special, -0.25, 0.5, 3 * n + 1, None, False, False),
        (torch.stack([nms.odd(b) for b in boxes]), special, 1.5, 0.5, 9),
        (torch.stack([nms.odd(b) for b in boxes]), few, 0.0, -1.0, 9),
    ]
    found = [(a[0].to(dtype), a[1].to(dtype), *a[2:]) for a in found]
    return [*found, (boxes.to(dtype), few.to(other), 0.5, 0.5, 11), (boxes.to(other), few.to(dtype), 0.5, 0.5, 11, 99)]
