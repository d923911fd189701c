"""match_anchors beside torchvision's box_iou followed by its matchers, on an anchor pyramid and on boxes anywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_cases import random_boxes
from peers import peer
from torch import Tensor
from workloads import objects, retinanet_anchors

from pydet import ops, reference


@pytest.mark.parametrize("mode", ["retinanet", "ssd"])
@pytest.mark.parametrize(
    ("kind", "n", "truths"), [("pyramid", 800, 50), ("anywhere", 120_000, 50), ("pyramid", 1136, 500)]
)
def test_match_anchors(race: Callable[..., Any], kind: str, n: int, truths: int, mode: str) -> None:
    g = torch.Generator().manual_seed(0)
    anchors = retinanet_anchors(n, n) if kind == "pyramid" else random_boxes(n, g)
    gt_boxes = random_boxes(truths, g, size=600.0 if kind == "anywhere" else n - 120.0)
    contenders = {"pydet": lambda: ops.match_anchors(anchors, gt_boxes, mode=mode)}
    yardsticks = {}
    if truths <= 50:
        contenders["reference"] = lambda: reference.match_anchors(anchors, gt_boxes, mode=mode)
    else:  # the matrix of all would take seconds and gigabytes
        yardsticks["reference, 10 objects"] = lambda: reference.match_anchors(anchors, gt_boxes[:10], mode=mode)
    if match := torchvision_matcher(mode):
        contenders["torchvision"] = lambda: match(gt_boxes, anchors)
    extra = race(contenders, yardsticks=yardsticks).extra_bytes
    assert extra is None or extra["pydet"] is None or extra["pydet"] < 4e6


def torchvision_matcher(mode: str) -> Callable[[Tensor, Tensor], Tensor] | None:
    if not (torchvision := peer("torchvision")):
        return None
    from torchvision.models.detection._utils import Matcher, SSDMatcher

    matcher = SSDMatcher(0.5) if mode == "ssd" else Matcher(0.5, 0.4, allow_low_quality_matches=True)
    return lambda gt_boxes, anchors: matcher(torchvision.ops.box_iou(gt_boxes, anchors))


@pytest.mark.parametrize("name", ["coco160", "bccd"])
def test_match_anchors_of_a_batch(race: Callable[..., Any], name: str) -> None:
    """16 images of a real data set; torchvision in a loop over the images, as its RetinaNet does it."""
    gt_boxes, counts = objects(name, 16)
    anchors = retinanet_anchors(800, 1333)
    contenders = {"pydet": lambda: ops.match_anchors(anchors, gt_boxes, counts)}
    if match := torchvision_matcher("retinanet"):
        own = gt_boxes.split(counts.tolist())
        contenders["torchvision"] = lambda: torch.stack([match(boxes, anchors) for boxes in own])
    few = gt_boxes[: int(counts[0])]
    yardsticks = {"reference, one image": lambda: reference.match_anchors(anchors, few)}
    race(contenders, yardsticks=yardsticks)
