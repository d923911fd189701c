"""yolo_decode beside the reference and one sigmoid of the same tensor, which reads and writes as much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pydet import ops, reference

ANCHORS = torch.tensor([[81.0, 82.0], [135.0, 169.0], [344.0, 319.0]])


@pytest.mark.parametrize(("batch", "cells"), [(1, 13), (1, 52), (8, 76)])
def test_yolo_decode(race: Callable[..., Any], batch: int, cells: int) -> None:
    inputs = torch.randn(batch, 255, cells, cells, generator=torch.Generator().manual_seed(0))
    size = (cells * 8, cells * 8)
    expected = ops.yolo_decode(inputs, ANCHORS, size)

    def equal(result: Any, _: Any) -> bool:
        if isinstance(result, torch.Tensor):
            return True  # the sigmoid, which is no decoder
        return all(torch.allclose(a, b, rtol=1e-4, atol=1e-2) for a, b in zip(result, expected, strict=True))

    contenders = {
        "pydet": lambda: ops.yolo_decode(inputs, ANCHORS, size),
        "reference": lambda: reference.yolo_decode(inputs, ANCHORS, size),
        "one sigmoid": inputs.sigmoid,
    }
    race(contenders, equal=equal)
