"""box_iou beside torchvision's, the reference and writing as many bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import peer
from op_cases import random_boxes

from pydet import ops, reference


@pytest.mark.parametrize("n", [100, 1000, 4000])
def test_box_iou(race: Callable[..., Any], n: int) -> None:
    g = torch.Generator().manual_seed(0)
    boxes1, boxes2 = random_boxes(n, g), random_boxes(n, g)
    expected = ops.box_iou(boxes1, boxes2)
    contenders = {
        "pydet": lambda: ops.box_iou(boxes1, boxes2),
        "reference": lambda: reference.box_iou(boxes1, boxes2),
        "copy of the result": expected.clone,
    }
    if torchvision := peer("torchvision"):
        contenders["torchvision"] = lambda: torchvision.ops.box_iou(boxes1, boxes2)
    race(contenders)
