"""match_cells beside what is written where there is no such operator: torchvision's box_iou image by image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_cases import random_boxes
from peers import peer
from torch import Tensor

from pydet import ops, reference

PRIORS = torch.tensor(
    [[10, 13], [16, 30], [33, 23], [30, 61], [62, 45], [59, 119], [116, 90], [156, 198], [373, 326.0]]
)
"""YOLOv3 section 2.3."""
SIDE, IGNORE = 608, 0.7


def same(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def with_box_iou(
    box_iou: Callable[[Tensor, Tensor], Tensor],
    predictions: Tensor,
    truths: Tensor,
    counts: Tensor,
    cells: int,
    mask: list[int],
) -> tuple[Tensor, Tensor]:
    """Vectorised inside an image, a matrix of predictions x ground truths each."""
    matches = torch.full(predictions.shape[:2], -1)
    predictors = []
    for image, own in enumerate(truths.split(counts.tolist())):
        matches[image, (box_iou(predictions[image], own) > IGNORE).any(dim=1)] = -2
        shape = own[:, 2:] - own[:, :2]
        overlap = torch.minimum(shape[:, None], PRIORS).prod(dim=-1)
        prior = (overlap / (shape.prod(dim=1)[:, None] + PRIORS.prod(dim=1) - overlap)).argmax(dim=1)
        place = (prior[:, None] == torch.tensor(mask)).long()
        column, row = ((own[:, :2] + own[:, 2:]) * (0.5 * cells / SIDE)).long().unbind(dim=1)
        found = torch.where(place.any(dim=1), (row * cells + column) * len(mask) + place.argmax(dim=1), -1)
        for index, prediction in enumerate(found.tolist()):
            if prediction >= 0:
                matches[image, prediction] = index
        predictors.append(torch.where(found < 0, -1, found + image * predictions.shape[1]))
    return matches, torch.cat(predictors)


@pytest.mark.parametrize(("cells", "mask"), [(19, [6, 7, 8]), (76, [0, 1, 2])])
@pytest.mark.parametrize("objects", [7, 60])
def test_match_cells(race: Callable[..., Any], cells: int, mask: list[int], objects: int) -> None:
    """A batch of 8 at 608 x 608; 7 objects an image are COCO's average."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(objects // 2, objects + objects // 2 + 1, (8,), generator=generator)
    truths = random_boxes(int(counts.sum()), generator, size=480)
    predictions = random_boxes(8 * cells * cells * 3, generator, size=480).reshape(8, -1, 4)
    args = (predictions, truths, counts, (cells, cells), (SIDE, SIDE), "shape", PRIORS, mask, IGNORE)
    contenders: dict[str, Callable[[], Any]] = {
        "pydet": lambda: ops.match_cells(*args),
        "reference": lambda: reference.match_cells(*args),
    }
    if torchvision := peer("torchvision"):
        box_iou = torchvision.ops.box_iou
        contenders["torchvision's box_iou"] = lambda: with_box_iou(box_iou, predictions, truths, counts, cells, mask)
    race(contenders, equal=same)
