"""sigmoid_focal_loss beside torchvision's and the reference: forward, and forward with backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peers import peer
from torch import Tensor

from pydet import ops, reference

CLASSES = 80


def detector_outputs(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits as of a detector in training, classes (1 % foreground) and their one-hot form."""
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, CLASSES, generator=g) * 2 - 3
    foreground = torch.rand(rows, generator=g) < 0.01
    classes = torch.where(foreground, torch.randint(CLASSES, (rows,), generator=g), CLASSES)
    return logits, classes, F.one_hot(classes, CLASSES + 1)[:, :-1].float()


def close(a: Any, b: Any) -> bool:
    torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-7)
    return True


def contenders(call: Callable[[Any, Tensor], Any], classes: Tensor, labels: Tensor) -> dict[str, Callable[[], Any]]:
    """`call` with every library; torchvision and the reference have the one-hot form ready, which flatters them."""
    found = {
        "pydet": lambda: call(ops.sigmoid_focal_loss, labels),
        "pydet, integer classes": lambda: call(ops.sigmoid_focal_loss, classes),
        "reference": lambda: call(reference.sigmoid_focal_loss, labels),
    }
    if torchvision := peer("torchvision"):
        found["torchvision"] = lambda: call(torchvision.ops.sigmoid_focal_loss, labels)
    return found


@pytest.mark.parametrize("gamma", [2.0, pytest.param(1.5, marks=pytest.mark.long)])
@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_focal_forward(race: Callable[..., Any], reduction: str, gamma: float) -> None:
    logits, classes, labels = detector_outputs(100_000)
    with torch.no_grad():
        moved = 4 * logits.numel() * (3 if reduction == "none" else 2)  # logits, labels, losses
        race(contenders(lambda f, t: f(logits, t, 0.25, gamma, reduction), classes, labels), close, moved=moved)


@pytest.mark.parametrize("rows", [1000, 100_000])
@pytest.mark.parametrize("reduction", [pytest.param("none", marks=pytest.mark.long), "sum"])
def test_focal_forward_and_backward(race: Callable[..., Any], reduction: str, rows: int) -> None:
    """Divided by the number of foreground rows, as detectors do: the gradient that forward wrote is multiplied."""
    logits, classes, labels = detector_outputs(rows)
    logits.requires_grad_()
    upstream = torch.tensor(1 / max(int((classes < CLASSES).sum()), 1))

    def gradient(function: Any, targets: Tensor) -> Tensor:
        loss = function(logits, targets, 0.25, 2.0, reduction)
        return torch.autograd.grad(loss, logits, upstream.expand(loss.shape))[0]

    # Logits, labels and gradient, the gradient once more to multiply it, and the losses where they are wanted.
    race(contenders(gradient, classes, labels), close, moved=4 * logits.numel() * (6 if reduction == "none" else 5))
