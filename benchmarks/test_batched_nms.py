"""batched_nms beside torchvision's and the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import peer
from op_cases import clustered_boxes

from pydet import ops, reference


@pytest.mark.parametrize(("n", "classes"), [(100, 3), (1000, 20), (20_000, 80)])
def test_batched_nms(race: Callable[..., Any], n: int, classes: int) -> None:
    g = torch.Generator().manual_seed(0)
    boxes, scores, idxs = clustered_boxes(n, g), torch.rand(n, generator=g), torch.randint(classes, (n,), generator=g)
    contenders = {"pydet": lambda: ops.batched_nms(boxes, scores, idxs, 0.5)}
    if torchvision := peer("torchvision"):
        contenders["torchvision"] = lambda: torchvision.ops.batched_nms(boxes, scores, idxs, 0.5)
    if n <= 1000:
        contenders["reference"] = lambda: reference.batched_nms(boxes, scores, idxs, 0.5)
    # torchvision adds offsets to the coordinates, whose rounding moves a box over the threshold now and then.
    race(contenders, equal=lambda a, b: abs(len(a) - len(b)) <= n / 1000)
