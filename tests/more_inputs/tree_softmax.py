"""Maps and crops, groups longer than a tile of the GPU kernel, groups at its ends."""

from __future__ import annotations

from typing import Any

import torch
from op_cases import random_tree


def inputs(n: int, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(n)
    nodes = 4 * n + 1
    head = torch.randn(2, 2, 3 + nodes, 3, n // 16 + 1, generator=generator).to(dtype)[:, :, 3:]
    rows = 5 * torch.randn(35, nodes, generator=generator).to(dtype)
    sizes = [n % 7 + 1, 300 if n > 30 else 3, 1, 127, 128, 2][: n + 1]
    long = torch.cat([torch.full((size,), group - 1) for group, size in enumerate(sizes)])
    return [
        (head.movedim(2, -1), random_tree(nodes, generator)),
        (head.movedim(2, -1)[..., :2, :, :].movedim(1, 2), random_tree(nodes, generator).int()),
        (rows[::2], torch.full((nodes,), -1)),
        (rows.T.contiguous().T[:, : min(nodes, 40)], random_tree(min(nodes, 40), generator)),
        (torch.randn(33, len(long), generator=generator).to(dtype), long),
        (torch.randn(len(long), 33, generator=generator).to(dtype).T, long),
    ]
