"""yolo_decode beside the reference and one sigmoid of the same tensor, which reads and writes as much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pydet import ops, reference

ANCHORS = torch.tensor([[81.0, 82.0], [135.0, 169.0], [344.0, 319.0]])


def close(theirs: Any, ours: Any) -> bool:
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-2) for a, b in zip(theirs, ours, strict=True))


@pytest.mark.parametrize(("batch", "cells"), [(1, 13), (1, 52), (8, 76)])
def test_yolo_decode(race: Callable[..., Any], batch: int, cells: int) -> None:
    inputs = torch.randn(batch, 255, cells, cells, generator=torch.Generator().manual_seed(0))
    size = (cells * 8, cells * 8)
    contenders = {
        "pydet": lambda: ops.yolo_decode(inputs, ANCHORS, size),
        "reference": lambda: reference.yolo_decode(inputs, ANCHORS, size),
    }
    # Each number is read once and gives one, objectness and all.
    race(contenders, close, yardsticks={"one sigmoid": inputs.sigmoid}, moved=2 * inputs.nbytes)
