"""Several codes a box, anchors shared by images, mixed dtypes, views that begin anywhere."""

from __future__ import annotations

import math
from typing import Any

import torch
from op_cases import random_boxes


def inputs(n: int, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(n)
    boxes = random_boxes(n, generator).to(dtype)
    codes = torch.randn(3, n, 4, generator=generator).to(dtype)
    shifted = torch.cat([codes.new_zeros(1), codes.flatten()])[1:].view(3, n, 4)
    some = boxes[:40]
    few = torch.randn(min(n, 300), 3, 8, generator=generator).to(dtype)
    classes = [torch.randn(len(some), 4 * k, generator=generator).to(dtype) for k in (2, 5, 21, 33, 91)]
    return [
        (shifted, boxes),
        (codes.double(), boxes, [10.0, 10.0, 5.0, 5.0], math.inf),
        (few, random_boxes(3, generator).to(dtype), None, 0.5),
        *((several, some, [10.0, 10.0, 5.0, 5.0]) for several in classes),
    ]
