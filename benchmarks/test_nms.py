"""nms beside torchvision, powerboxes, lsnms, OpenCV and the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_cases import clustered_boxes, random_boxes
from peers import nms_peers, peer, same_keeps
from torch import Tensor
from workloads import candidates
from workloads.faces import face_candidates

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


def sort_and_gather(boxes: Tensor, scores: Tensor) -> Tensor:
    """What any NMS begins with: a yardstick where the reference, a Python step a box, takes too long."""
    return boxes[scores.sort(descending=True, stable=True).indices]


@pytest.mark.parametrize("n", [10, 100, 1000, 20_000])
@pytest.mark.parametrize("make", [scattered, clustered])
def test_nms(race: Callable[..., Any], make: Callable[..., tuple[Tensor, Tensor]], n: int) -> None:
    run(race, *make(n, torch.Generator().manual_seed(0)))


def run(race: Callable[..., Any], boxes: Tensor, scores: Tensor, threshold: float = 0.5, quadratic: bool = True) -> Any:
    contenders = {"pydet": lambda: ops.nms(boxes, scores, threshold)}
    yardsticks = {}
    if len(boxes) <= 1000:
        contenders["reference"] = lambda: reference.nms(boxes, scores, threshold)
    else:
        yardsticks["sort and gather"] = lambda: sort_and_gather(boxes, scores)
    contenders |= nms_peers(boxes, scores, threshold, quadratic)
    return race(contenders, same_keeps, yardsticks=yardsticks)


def test_nms_of_many_boxes(race: Callable[..., Any]) -> None:
    """Where the time of torchvision, and of whoever else compares all pairs, is seconds."""
    run(race, *scattered(50_000, torch.Generator().manual_seed(0)), quadratic=False)


@pytest.mark.long
def test_nms_of_a_million_boxes(race: Callable[..., Any]) -> None:
    g = torch.Generator().manual_seed(0)
    boxes, scores = random_boxes(1_000_000, g, size=40_000.0), torch.rand(1_000_000, generator=g)
    extra = run(race, boxes, scores, quadratic=False).extra_bytes
    assert extra is None or extra["pydet"] is None or extra["pydet"] < 200e6


@pytest.mark.parametrize("side", [300, 600, 900])
def test_nms_of_face_candidates(race: Callable[..., Any], side: int) -> None:
    """All that an SSD face detector scores above 0.01: nearly every prior, in dense overlap."""
    run(race, *face_candidates(side), threshold=0.45, quadratic=side < 900)


@pytest.mark.parametrize("side", [416, 1280])
def test_nms_of_yolov3_tiny(race: Callable[..., Any], side: int) -> None:
    """What YOLOv3-tiny scores above 0.001 in a photo, without regard to the classes."""
    boxes, scores, _ = candidates(side)
    run(race, boxes, scores, threshold=0.45)
