"""nms beside torchvision's and the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import peer
from op_cases import clustered_boxes, random_boxes
from torch import Tensor

from pydet import ops, reference

NAN = float("nan")


def scattered(n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    return random_boxes(n, g, size=20.0 * max(n, 1) ** 0.5, largest=100), torch.rand(n, generator=g)


def clustered(n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    return clustered_boxes(n, g), torch.rand(n, generator=g)


def tied(n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    boxes, scores = clustered(n, g)
    return boxes.round(), (scores * 10).round() / 10


def degenerate(n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    boxes, scores = clustered(n, g)
    boxes[::5, 2:] = boxes[::5, :2]  # points
    boxes[1::5] = boxes[1::5].flip(1)  # inverted
    boxes[2::7, 2] = float("inf")
    return boxes, scores


def with_nan(n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    boxes, scores = clustered(n, g)
    boxes[::6, 1] = NAN
    scores[::4] = NAN
    return boxes, scores


@pytest.mark.parametrize("n", [0, 1, 2, 7, 16, 17, 100, 255, 256, 257, 1000, 4096, 20_000])
@pytest.mark.parametrize("make", [scattered, clustered, tied, degenerate, with_nan])
def test_same_keeps_as_torchvision(make: Callable[..., tuple[Tensor, Tensor]], n: int) -> None:
    torchvision = peer("torchvision")
    if torchvision is None:
        pytest.skip("torchvision is not installed")
    for seed, threshold in enumerate((0.0, 0.3, 0.5, 0.7, 1.0)):
        boxes, scores = make(n, torch.Generator().manual_seed(seed))
        assert torch.equal(ops.nms(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))


@pytest.mark.parametrize("n", [10, 100, 1000, 20_000])
@pytest.mark.parametrize("make", [scattered, clustered])
def test_nms(race: Callable[..., Any], make: Callable[..., tuple[Tensor, Tensor]], n: int) -> None:
    boxes, scores = make(n, torch.Generator().manual_seed(0))
    contenders = {"pydet": lambda: ops.nms(boxes, scores, 0.5)}
    if torchvision := peer("torchvision"):
        contenders["torchvision"] = lambda: torchvision.ops.nms(boxes, scores, 0.5)
    if n <= 1000:  # the reference takes a Python step a box
        contenders["reference"] = lambda: reference.nms(boxes, scores, 0.5)
    race(contenders)
