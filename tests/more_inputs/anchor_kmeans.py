"""A centre that loses all of its boxes, k = N, boxes that are equal, more boxes for a block than it has threads."""

from __future__ import annotations

from typing import Any

import torch


def inputs(n: int, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    distinct = torch.arange(1.0, 1 + min(n, 5))[:, None] * torch.tensor([1.0, 3.0])
    found: list[tuple[Any, ...]] = [
        (distinct.to(dtype), len(distinct), -1, 2),
        (distinct.repeat(n // 5 + 1, 1).to(dtype), len(distinct) // 2 + 1, n, 2),
    ]
    if n == 33:
        powers = torch.randint(0, 12, (60, 2), generator=torch.Generator().manual_seed(1778))
        found.append(((2.0**powers).to(dtype), 8, 1778))  # the second step leaves a cluster empty, which is rare
    if n > 1000 and dtype == torch.float32:
        sizes = torch.randn(8 * n, 2, generator=torch.Generator().manual_seed(n)).exp()
        found.append((sizes, 3, 1, 3))
    return found
