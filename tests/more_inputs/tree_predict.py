"""Maps, groups of more than 32 children, ties, NaN, walks to the last node and of one step."""

from __future__ import annotations

import math
from typing import Any

import torch
from op_cases import random_tree


def inputs(n: int, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(n)
    nodes = 3 * n + 1
    parents = random_tree(nodes, generator)
    head = torch.rand(2, 2, 3 + nodes, 3, 3, generator=generator).to(dtype)[:, :, 3:].movedim(2, -1)
    odd = (4 * torch.rand(11, nodes, generator=generator)).round() / 4
    odd[torch.rand(11, nodes, generator=generator) < 0.3] = math.nan
    wide = torch.cat([torch.full((40,), -1), torch.full((70,), 39), torch.full((33,), 109)])
    return [
        (head, parents, 0.3, "darknet"),
        (head.movedim(1, 2), parents, -1.0),
        (odd.to(dtype), parents, 0.2),
        (odd.to(dtype), parents, math.inf, "darknet"),
        (torch.rand(9, len(wide), generator=generator).to(dtype), wide, 0.1),
        (torch.ones(3, len(wide)).to(dtype).flip(0), wide.int(), 0.5),
        (torch.full((nodes,), math.nan).to(dtype), parents.long(), 0.5),
    ]
