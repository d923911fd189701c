"""yolo_decode beside the reference and one sigmoid of the same tensor, which reads and writes as much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pydet import ops, reference

ANCHORS = torch.tensor([[81.0, 82.0], [135.0, 169.0], [344.0, 319.0]])
COCO_ANCHORS = torch.tensor([[0.57273, 0.677385], [1.87446, 2.06253], [3.33843, 5.47434], [7.88282, 3.52778]])


def close(theirs: Any, ours: Any) -> bool:
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-2) for a, b in zip(theirs, ours, strict=True))


@pytest.mark.parametrize(("batch", "cells"), [(1, 13), (1, 52), (8, 76)])
def test_yolo_decode(race: Callable[..., Any], batch: int, cells: int) -> None:
    inputs = torch.randn(batch, 255, cells, cells, generator=torch.Generator().manual_seed(0))
    race_layouts(race, inputs, ANCHORS, (cells * 8, cells * 8))


@pytest.mark.parametrize(("batch", "cells"), [(1, 13), (8, 38)])
def test_yolov2_decode(race: Callable[..., Any], batch: int, cells: int) -> None:
    inputs = torch.randn(batch, 340, cells, cells, generator=torch.Generator().manual_seed(0))
    race_layouts(race, inputs, COCO_ANCHORS, (cells * 32, cells * 32), "softmax", True)


def race_layouts(race: Callable[..., Any], inputs: Tensor, *arguments: Any) -> None:
    channels_last = inputs.contiguous(memory_format=torch.channels_last)
    contenders = {
        "pydet": lambda: ops.yolo_decode(inputs, *arguments),
        "pydet, channels last": lambda: ops.yolo_decode(channels_last, *arguments),
        "reference": lambda: reference.yolo_decode(inputs, *arguments),
    }
    # Each number is read once and gives one, objectness and all.
    race(contenders, close, yardsticks={"one sigmoid": inputs.sigmoid}, moved=2 * inputs.nbytes)


@pytest.mark.parametrize("batch", [1, 64])
def test_yolo_grid_decode(race: Callable[..., Any], batch: int) -> None:
    inputs = torch.randn(batch, 7 * 7 * 30, generator=torch.Generator().manual_seed(0))
    contenders = {
        "pydet": lambda: ops.yolo_grid_decode(inputs, 7, 2, (448, 448)),
        "reference": lambda: reference.yolo_grid_decode(inputs, 7, 2, (448, 448)),
    }
    race(contenders, close)
