"""The inputs of nms in one class, in three and in as many as there are boxes; classes of every dtype."""

from __future__ import annotations

from typing import Any

import torch
from more_inputs import nms


def inputs(n: int, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    g = torch.Generator().manual_seed(n)
    ends = torch.tensor([torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max, 0, -1])
    classes = [
        torch.zeros(n, dtype=torch.int32),
        torch.randint(3, (n,), generator=g),
        torch.randint(n + 1, (n,), generator=g),
        ends[torch.randint(4, (n,), generator=g)],
        torch.randint(-2, 3, (n,), generator=g).half() * 0.0,  # 0 and -0 are one class
        torch.randint(-9, 9, (n,), generator=g).double() / 8,
        torch.randint(200, (n,), generator=g, dtype=torch.uint8),
    ]
    found = nms.inputs(n, dtype)
    return [(boxes, scores, classes[i % 7], threshold) for i, (boxes, scores, threshold) in enumerate(found)]
