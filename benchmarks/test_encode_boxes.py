"""encode_boxes beside torchvision's BoxCoder, the reference and writing as many bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_cases import random_boxes
from peers import peer

from pydet import ops, reference

WEIGHTS = [10.0, 10.0, 5.0, 5.0]


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("n", [1000, 120_000])
def test_encode_boxes(race: Callable[..., Any], n: int) -> None:
    g = torch.Generator().manual_seed(0)
    boxes, anchors = random_boxes(n, g), random_boxes(n, g)
    contenders = {
        "pydet": lambda: ops.encode_boxes(boxes, anchors, WEIGHTS),
        "reference": lambda: reference.encode_boxes(boxes, anchors, WEIGHTS),
    }
    if peer("torchvision"):
        from torchvision.models.detection._utils import BoxCoder

        coder = BoxCoder(tuple(WEIGHTS))
        contenders["torchvision"] = lambda: coder.encode_single(boxes, anchors)
    race(contenders, close, moved=3 * boxes.nbytes)
