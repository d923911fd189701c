"""Maps and crops, a chain as deep as it is long, rows alone."""

from __future__ import annotations

from typing import Any

import torch
from op_cases import random_tree


def inputs(n: int, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(n)
    nodes = 2 * n + 1
    head = torch.rand(2, 2, 3 + nodes, 3, n // 16 + 1, generator=generator).to(dtype)[:, :, 3:]
    return [
        (head.movedim(2, -1), random_tree(nodes, generator)),
        (head[0, 0, :, :, 0].T, random_tree(nodes, generator).int()),
        (torch.rand(nodes, generator=generator).to(dtype), torch.arange(-1, nodes - 1)),
        (torch.rand(3, 5, nodes, generator=generator).to(dtype)[:, ::2], random_tree(nodes, generator)),
    ]
