"""match_anchors beside torchvision's box_iou followed by its matchers, on an anchor pyramid and on boxes anywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_cases import random_boxes
from peers import peer
from torch import Tensor

from pydet import ops, reference


def retinanet_anchors(height: int, width: int) -> Tensor:
    """[A, 4]: five levels, three ratios and three sizes a cell, as in RetinaNet section 4."""
    levels = []
    for stride in (8, 16, 32, 64, 128):
        sizes = [4 * stride * 2 ** (octave / 3) for octave in range(3)]
        roots = (0.5**0.5, 1, 2**0.5)  # of height / width
        half = torch.tensor([[size / root / 2, size * root / 2] for size in sizes for root in roots])
        y, x = (torch.arange(-(-extent // stride)) * stride for extent in (height, width))
        centre = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 1, 2)
        levels.append(torch.cat([centre - half, centre + half], dim=-1).reshape(-1, 4))
    return torch.cat(levels)


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
    if torchvision := peer("torchvision"):
        from torchvision.models.detection._utils import Matcher, SSDMatcher

        matcher = SSDMatcher(0.5) if mode == "ssd" else Matcher(0.5, 0.4, allow_low_quality_matches=True)
        contenders["torchvision"] = lambda: matcher(torchvision.ops.box_iou(gt_boxes, anchors))
    extra = race(contenders, yardsticks=yardsticks).extra_bytes
    assert extra is None or extra["pydet"] is None or extra["pydet"] < 4e6
