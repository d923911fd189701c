"""The IoU of all pairs, its kin and their gradients beside torchvision's, the reference and writing as many bytes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bandwidth import NEW, WRITE, fill_of, new_fill_of
from op_cases import aligned_boxes, random_boxes
from peers import peer
from torch import Tensor

from pydet import ops, reference

FAMILY = ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou")


def test_box_iou_has_the_bits_of_torchvision() -> None:
    torchvision = peer("torchvision")
    if torchvision is None:
        pytest.skip("torchvision is not installed")
    g = torch.Generator().manual_seed(1)
    boxes1, boxes2 = random_boxes(500, g), random_boxes(700, g)
    boxes2[::7] = boxes2[::7].flip(1)  # inverted
    boxes1[::5, 2:] = boxes1[::5, :2]  # points
    for name in FAMILY[:2]:
        theirs, ours = getattr(torchvision.ops, name)(boxes1, boxes2), getattr(ops, name)(boxes1, boxes2)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("n", [100, 1000, pytest.param(4000, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", FAMILY)
def test_box_iou(race: Callable[..., Any], name: str, n: int) -> None:
    g = torch.Generator().manual_seed(0)
    boxes1, boxes2 = random_boxes(n, g), random_boxes(n, g)
    expected = getattr(ops, name)(boxes1, boxes2)
    contenders = {
        "pydet": functools.partial(getattr(ops, name), boxes1, boxes2),
        "reference": functools.partial(getattr(reference, name), boxes1, boxes2),
    }
    if torchvision := peer("torchvision"):
        contenders["torchvision"] = functools.partial(getattr(torchvision.ops, name), boxes1, boxes2)
    contenders |= powerboxes_of(name, boxes1, boxes2)
    written = 4 * n * n
    yardsticks = {WRITE: fill_of(written), NEW: new_fill_of(written), "copy of the result": expected.clone}
    equal = functools.partial(close_to, name=name)
    race(contenders, equal, yardsticks=yardsticks, moved=written + 32 * n, again=n == 4000)


def powerboxes_of(name: str, boxes1: Tensor, boxes2: Tensor) -> dict[str, Callable[[], Any]]:
    """powerboxes gives 1 - IoU in float64, on all threads. Its distance and complete IoU are not those of the paper."""
    function = {"box_iou": "parallel_iou_distance", "generalized_box_iou": "parallel_giou_distance"}.get(name)
    if function is None or not (powerboxes := peer("powerboxes")):
        return {}
    return {"powerboxes": functools.partial(getattr(powerboxes, function), boxes1.numpy(), boxes2.numpy())}


def close_to(theirs: Any, ours: Tensor, name: str) -> bool:
    if not isinstance(theirs, Tensor):
        return torch.allclose(1 - torch.from_numpy(theirs).float(), ours, rtol=1e-5, atol=1e-5)
    return torch.equal(theirs, ours) if name in FAMILY[:2] else torch.allclose(theirs, ours, rtol=1e-5, atol=1e-6)


def gradients(function: Callable[..., Tensor], boxes1: Tensor, boxes2: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(function(boxes1, boxes2), (boxes1, boxes2), weight)


def close(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> bool:
    """Sums of as many terms of both signs as there are boxes."""
    return all(torch.allclose(x, y, rtol=1e-3, atol=1e-5) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", FAMILY)
def test_box_iou_forward_and_backward(race: Callable[..., Any], name: str) -> None:
    g = torch.Generator().manual_seed(0)
    boxes1, boxes2 = (random_boxes(1000, g).requires_grad_() for _ in range(2))
    weight = torch.rand(1000, 1000, generator=g)
    contenders = {
        "pydet": lambda: gradients(getattr(ops, name), boxes1, boxes2, weight),
        "reference": lambda: gradients(getattr(reference, name), boxes1, boxes2, weight),
    }
    if torchvision := peer("torchvision"):
        contenders["torchvision"] = lambda: gradients(getattr(torchvision.ops, name), boxes1, boxes2, weight)
    race(contenders, equal=close)


def test_box_iof(race: Callable[..., Any]) -> None:
    g = torch.Generator().manual_seed(0)
    boxes1, boxes2 = random_boxes(4000, g), random_boxes(4000, g)
    names = {"pydet": ops.box_iof, "reference": reference.box_iof}
    race({name: functools.partial(function, boxes1, boxes2) for name, function in names.items()})


@pytest.mark.parametrize("name", [*FAMILY, "box_iof"])
def test_aligned_box_iou(race: Callable[..., Any], name: str) -> None:
    boxes1, boxes2 = aligned_boxes(100_000, torch.Generator().manual_seed(0))
    contenders = {
        "pydet": functools.partial(getattr(ops, name), boxes1, boxes2, aligned=True),
        "reference": functools.partial(getattr(reference, name), boxes1, boxes2, aligned=True),
    }
    race(contenders, equal=functools.partial(torch.allclose, rtol=1e-5, atol=1e-6))
