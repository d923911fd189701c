"""Every method, with and without a pixel added; NaN, infinite and equal scores; degenerate boxes; nothing dropped."""

from __future__ import annotations

from typing import Any

import torch
from more_inputs import nms
from op_cases import clustered_boxes


def inputs(n: int, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    n = min(n, 100 + n // 8)  # a thousand boxes are those of the registry: the reference takes a step a box
    g = torch.Generator().manual_seed(n)
    boxes, scores = clustered_boxes(n, g), torch.rand(n, generator=g)
    tied = (scores * 4).round() / 4
    special = scores.clone()
    special[::6], special[1::6], special[2::6] = nms.NAN, nms.INF, -nms.INF
    low = torch.full((n,), -nms.INF)
    found = [
        (boxes, tied, 0.3, 0.5, 1e-3, "naive", 1),
        (boxes, scores, 0.5, 0.2, 0.1, "gaussian", 0),
        (boxes, scores, 0.3, 0.5, 2.0, "linear", 0),  # all but the best are below the least score
        (boxes, low, 0.3, 0.5, 1e-3, "linear", 0),
        (nms.odd(boxes), special, 0.3, 0.5, 1e-3, "linear", 1),
        (nms.odd(boxes), special, 0.3, 0.5, 1e-3, "gaussian", 0),
        (boxes - 400, scores - 0.5, 0.3, 0.5, -nms.INF, "linear", 0),  # nothing is dropped
        (boxes[:40].expand(-1, 4), scores[:40].double(), 0.3, 0.5, 0.0, "naive", 0),
    ]
    return [(args[0].to(dtype), args[1].to(dtype) if i < 7 else args[1], *args[2:]) for i, args in enumerate(found)]
