"""Every mode, anchors shared and of each image, one image; boxes of all kinds; several blocks and tiles."""

from __future__ import annotations

import math
from typing import Any

import torch
from op_cases import random_boxes
from torch import Tensor

NAN, INF = math.nan, math.inf
ODD = torch.tensor(
    [
        (5, 5, 5, 5),
        (-0.0, -0.0, 0.0, 0.0),
        (10, 0, 0, 10),
        (10, 10, 0, 0),
        (NAN, 0, 10, 10),
        (0, 0, 10, NAN),
        (0, 0, INF, 10),
        (0, 0, 3e19, 3e19),
    ]
)


def on_a_grid(n: int, generator: torch.Generator, odd: int) -> Tensor:
    """Boxes with many ties, in runs from left to right as anchors lie, and `odd` of the degenerate ones."""
    boxes = random_boxes(n, generator, size=400, largest=40).round()
    boxes = boxes[boxes[:, 0].argsort()]
    places = torch.randperm(n, generator=generator)[:odd]
    boxes[places] = ODD[torch.randint(len(ODD), (len(places),), generator=generator)]
    return boxes


def inputs(n: int, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(n)
    found: list[tuple[Any, ...]] = []
    for mode in ("retinanet", "ssd", "threshold"):
        for odd in (0, 3):
            anchors, truths = on_a_grid(40 * n + 1, generator, odd), on_a_grid(5 * n, generator, odd)
            found.append((anchors.to(dtype), truths.to(dtype), None, 0.5, 0.3, mode))
        counts = torch.tensor([n, 0, 3 * n, n])
        own = torch.stack([on_a_grid(17 * n, generator, image // 2) for image in range(4)]).to(dtype)
        found.append((own, truths.to(dtype), counts.int(), 0.3, -1.0, mode))
    if n == 7:  # anchors about a warp and a block, ground truths about a tile
        for count, objects in ((63, 255), (64, 256), (65, 257), (513, 300)):
            anchors, truths = on_a_grid(count, generator, 3), on_a_grid(objects, generator, 0)
            mode = ("ssd", "retinanet", "threshold")[objects % 3]
            found.append((anchors.to(dtype), truths.to(dtype), None, 0.5, 0.3, mode))
    # The first forces an anchor that the second overlaps more, and whose own best is the other anchor.
    taken = torch.tensor([(0, 0, 10, 14), (0, 0, 10, 16.0)]), torch.tensor([(0, 0, 10, 10), (0, 0, 10, 16.0)])
    found.append((taken[0].to(dtype), taken[1].to(dtype), None, 0.5, None, "ssd"))
    far = on_a_grid(5 * n, generator, 0) + 1000  # apart from every anchor: best IoUs of 0
    return [*found, *((anchors.to(dtype), far.to(dtype), counts, 0.5, 0.4, mode) for mode in ("retinanet", "ssd"))]
