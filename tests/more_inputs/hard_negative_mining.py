"""All bit patterns, few values so that the last of equal ones is decided, NaN and infinities, all or no positives."""

from __future__ import annotations

import math
from typing import Any

import torch


def inputs(n: int, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(n)
    bits = torch.randint(-(2**31), 2**31, (2, n), generator=generator)
    positive = torch.rand(2, n, generator=generator) < 0.15
    special = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0])
    drawn = special[torch.randint(len(special), (2, n), generator=generator)]
    patterns = (bits, bits & 0x7FF, bits & 0x3FF800, bits & 0x7F800000)
    found: list[tuple[Any, ...]] = [(p.int().view(torch.float32).to(dtype), positive, 2.5) for p in patterns]
    found += [(drawn.to(dtype), positive, 1.0), (torch.ones(2, n).to(dtype), positive, 3.0)]
    found += [(drawn[0].to(dtype), torch.full((n,), flag), 3.0) for flag in (False, True)]
    return found
