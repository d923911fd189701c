"""The IoU losses and their gradients beside torchvision's and the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_cases import aligned_boxes
from peers import peer
from torch import Tensor

from pydet import ops, reference

LOSSES = ("generalized_box_iou_loss", "distance_box_iou_loss", "complete_box_iou_loss")


def loss_and_gradients(function: Callable[..., Tensor], boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, ...]:
    loss = function(boxes1, boxes2, reduction="mean")
    return loss, *torch.autograd.grad(loss, (boxes1, boxes2))


def close(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.allclose(a, b, rtol=1e-4, atol=1e-6)
    return all(torch.allclose(x, y, rtol=1e-3, atol=1e-8) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("n", [100, 10_000, 100_000])
@pytest.mark.parametrize("name", LOSSES)
def test_box_iou_loss(race: Callable[..., Any], name: str, n: int) -> None:
    boxes1, boxes2 = aligned_boxes(n, torch.Generator().manual_seed(0))
    contenders = {
        "pydet": lambda: getattr(ops, name)(boxes1, boxes2, reduction="sum"),
        "reference": lambda: getattr(reference, name)(boxes1, boxes2, reduction="sum"),
    }
    if torchvision := peer("torchvision"):
        contenders["torchvision"] = lambda: getattr(torchvision.ops, name)(boxes1, boxes2, reduction="sum")
    race(contenders, equal=close, moved=32 * n)


@pytest.mark.parametrize("n", [100, 10_000, 100_000])
@pytest.mark.parametrize("name", LOSSES)
def test_box_iou_loss_forward_and_backward(race: Callable[..., Any], name: str, n: int) -> None:
    boxes1, boxes2 = (b.requires_grad_() for b in aligned_boxes(n, torch.Generator().manual_seed(0)))
    contenders = {
        "pydet": lambda: loss_and_gradients(getattr(ops, name), boxes1, boxes2),
        "reference": lambda: loss_and_gradients(getattr(reference, name), boxes1, boxes2),
    }
    if torchvision := peer("torchvision"):
        contenders["torchvision"] = lambda: loss_and_gradients(getattr(torchvision.ops, name), boxes1, boxes2)
    race(contenders, equal=close, moved=(32 + 64) * n)
