"""batched_nms beside torchvision, lsnms, OpenCV and the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_cases import clustered_boxes
from peers import batched_nms_peers, same_keeps
from torch import Tensor
from workloads import candidates

from pydet import ops, reference


def run(race: Callable[..., Any], boxes: Tensor, scores: Tensor, idxs: Tensor, threshold: float = 0.5) -> None:
    contenders = {"pydet": lambda: ops.batched_nms(boxes, scores, idxs, threshold)}
    yardsticks = {}
    if len(boxes) <= 1000:
        contenders["reference"] = lambda: reference.batched_nms(boxes, scores, idxs, threshold)
    else:
        yardsticks["sort and gather"] = lambda: boxes[scores.sort(descending=True, stable=True).indices]
    contenders |= batched_nms_peers(boxes, scores, idxs, threshold)

    def same(theirs: Any, ours: Tensor) -> bool:
        """torchvision's offsets round the coordinates: of a thousand boxes one may cross the threshold."""
        return same_keeps(theirs, ours) or abs(len(theirs) - len(ours)) <= len(boxes) / 1000

    race(contenders, same, yardsticks=yardsticks)


@pytest.mark.parametrize(("n", "classes"), [(100, 3), (1000, 20), (20_000, 80)])
def test_batched_nms(race: Callable[..., Any], n: int, classes: int) -> None:
    g = torch.Generator().manual_seed(0)
    boxes, scores, idxs = clustered_boxes(n, g), torch.rand(n, generator=g), torch.randint(classes, (n,), generator=g)
    run(race, boxes, scores, idxs)


@pytest.mark.parametrize("side", [416, 608, 1280])
def test_batched_nms_of_yolov3_tiny(race: Callable[..., Any], side: int) -> None:
    """What YOLOv3-tiny scores above 0.001 in a photo: as a rule there is one more box of a class, or none."""
    run(race, *candidates(side), threshold=0.45)
