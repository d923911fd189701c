"""Formats, batches, degenerate boxes; integers too."""

from __future__ import annotations

from typing import Any

import torch
from op_cases import random_boxes


def inputs(n: int, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(n)
    a, b = (random_boxes(k, generator, size=60, largest=60).to(dtype) for k in (n, 37))
    batch = torch.stack([a[:33], a[:33].flip(0)]), torch.stack([b, b.flip(0)])
    degenerate = a.clone()
    degenerate[::3, 2] = torch.inf
    degenerate[1::5] = 0
    degenerate[2::7, 1] = torch.nan
    integers = (a.long(), b.long()), (a.to(torch.int16), b.to(torch.uint8)), (a, b.int())
    return [(b, a, "xywh"), (*batch, "cxcywh"), (degenerate, degenerate[:40]), *integers]
