"""The paper's grid; n classes; a softmax and odd numbers."""

from __future__ import annotations

import math
from typing import Any

import torch


def inputs(n: int, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(n)
    paper = torch.randn(min(n, 3), 7 * 7 * 30, generator=generator).to(dtype)
    deep = torch.randn(2, 2 * 2 * (n + 1 + 15), generator=generator).to(dtype)
    odd = deep.clone()
    odd[0, 0], odd[1, -1], odd[1, n], odd[1, 4 * (n + 1)] = math.nan, math.inf, -math.inf, math.inf
    return [
        (paper, 7, 2, (448, 448)),
        (paper, 7, 2, (448, 300), False, "softmax"),
        (deep, 2, 3, (64, 96), True, "softmax"),
        (odd, 2, 3, (64, 96), True, "softmax"),
        (odd, 2, 3, (64, 96), False),
    ]
