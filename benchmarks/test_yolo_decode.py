"""yolo_decode and yolo_grid_decode beside the reference, and beside what only moves as many bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pydet import ops, reference

ANCHORS = torch.tensor([[81.0, 82.0], [135.0, 169.0], [344.0, 319.0]])
COCO_ANCHORS = torch.tensor([[0.57273, 0.677385], [1.87446, 2.06253], [3.33843, 5.47434], [7.88282, 3.52778]])


def equal(result: Any, expected: Any) -> bool:
    if isinstance(result, Tensor):
        return True  # a copy or a sigmoid, which is no decoder
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-2) for a, b in zip(result, expected, strict=True))


def movers(inputs: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Work that reads and writes as much: into new memory, whose pages come first, and into old."""
    old = torch.empty_like(inputs)
    return {"one sigmoid": inputs.sigmoid, "copy": inputs.clone, "copy into old memory": lambda: old.copy_(inputs)}


@pytest.mark.parametrize(("batch", "cells"), [(1, 13), (1, 52), (8, 76)])
def test_yolo_decode(race: Callable[..., Any], batch: int, cells: int) -> None:
    inputs = torch.randn(batch, 255, cells, cells, generator=torch.Generator().manual_seed(0))
    size = (cells * 8, cells * 8)
    channels_last = inputs.contiguous(memory_format=torch.channels_last)
    contenders = {
        "pydet": lambda: ops.yolo_decode(inputs, ANCHORS, size),
        "pydet, channels last": lambda: ops.yolo_decode(channels_last, ANCHORS, size),
        "reference": lambda: reference.yolo_decode(inputs, ANCHORS, size),
        **movers(inputs),
    }
    race(contenders, equal=equal)


@pytest.mark.parametrize(("batch", "cells"), [(1, 13), (8, 38)])
def test_yolov2_decode(race: Callable[..., Any], batch: int, cells: int) -> None:
    inputs = torch.randn(batch, 340, cells, cells, generator=torch.Generator().manual_seed(0))
    arguments = (COCO_ANCHORS, (cells * 32, cells * 32), "softmax", True)
    channels_last = inputs.contiguous(memory_format=torch.channels_last)
    contenders = {
        "pydet": lambda: ops.yolo_decode(inputs, *arguments),
        "pydet, channels last": lambda: ops.yolo_decode(channels_last, *arguments),
        "reference": lambda: reference.yolo_decode(inputs, *arguments),
        **movers(inputs),
    }
    race(contenders, equal=equal)


@pytest.mark.parametrize("batch", [1, 64])
def test_yolo_grid_decode(race: Callable[..., Any], batch: int) -> None:
    inputs = torch.randn(batch, 7 * 7 * 30, generator=torch.Generator().manual_seed(0))
    contenders = {
        "pydet": lambda: ops.yolo_grid_decode(inputs, 7, 2, (448, 448)),
        "reference": lambda: reference.yolo_grid_decode(inputs, 7, 2, (448, 448)),
    }
    race(contenders, equal=equal)
