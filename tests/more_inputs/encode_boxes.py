"""Proposals of their own, mixed dtypes, and views that begin where no row of four can be read at once."""

from __future__ import annotations

from typing import Any

import torch
from op_cases import random_boxes


def inputs(n: int, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(n)
    targets, proposals = (random_boxes(n, generator, largest=40).to(dtype) for _ in range(2))
    shifted = torch.cat([targets.new_zeros(1), targets.flatten()])[1:].view(n, 4)
    few = torch.stack([random_boxes(3, generator).to(dtype) for _ in range(min(n, 300))]) if n else targets[None]
    return [
        (targets, proposals),
        (shifted, proposals.double(), [10.0, 10.0, 5.0, 5.0]),
        (few, few[0], [1.0, 2.0, 3.0, 4.0]),
        (targets.half(), proposals),
    ]
