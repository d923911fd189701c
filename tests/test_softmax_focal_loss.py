"""softmax_focal_loss beyond what every operator shares: numbers by hand, weights, saturation, gradients, messages."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pydet import ops, reference
from pydet.ops import softmax_focal_loss

GAMMAS = (0.0, 0.01, 0.5, 1.0, 2.0, 3.5)
INF, NAN = math.inf, math.nan


def sample(rows: int = 300, classes: int = 21) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    inputs = torch.randn(rows, classes, generator=g) * 4
    return inputs, torch.randint(-1, classes, (rows,), generator=g), torch.rand(classes, generator=g)


def gradient_of(function: Any, inputs: Tensor, *args: Any) -> Tensor:
    leaf = inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(leaf, *args).sum(), leaf)
    return gradient


def test_by_hand() -> None:
    """Softmax of (0, log 2, log 5) is 1/8, 1/4, 5/8."""
    inputs = torch.tensor([[0, math.log(2), math.log(5)]]).expand(3, 3)
    targets, weight = torch.arange(3), torch.tensor([1.0, 2.0, 4.0])
    expected = [0.25 * (1 - p) ** 2 * -math.log(p) for p in (1 / 8, 1 / 4, 5 / 8)]
    assert softmax_focal_loss(inputs, targets, reduction="none").tolist() == pytest.approx(expected, rel=1e-6)
    assert softmax_focal_loss(inputs, targets).item() == pytest.approx(sum(expected) / 3, rel=1e-6)
    weighted = softmax_focal_loss(inputs, targets, 2.0, 0.25, weight, "sum").item()
    assert weighted == pytest.approx(expected[0] + 2 * expected[1] + 4 * expected[2], rel=1e-6)
    assert softmax_focal_loss(inputs, targets, alpha=-1).item() == pytest.approx(4 * sum(expected) / 3, rel=1e-6)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_without_focus_it_is_cross_entropy(reduction: str) -> None:
    inputs, targets, _ = sample()
    targets = targets.clamp(min=0)
    expected = F.cross_entropy(inputs, targets, reduction=reduction)
    torch.testing.assert_close(softmax_focal_loss(inputs, targets, 0.0, 1.0, None, reduction), expected)
    theirs = gradient_of(lambda x: F.cross_entropy(x, targets, reduction=reduction), inputs)
    ours = gradient_of(softmax_focal_loss, inputs, targets, 0.0, 1.0, None, reduction)
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("classes", [1, 2, 16, 21, 300])
def test_against_float64(gamma: float, reduction: str, classes: int) -> None:
    inputs, targets, weight = sample(classes=classes)
    for weights in (None, weight):
        wide = None if weights is None else weights.double()
        expected = reference.softmax_focal_loss(inputs.double(), targets, gamma, 0.25, wide, reduction)
        ours = softmax_focal_loss(inputs, targets, gamma, 0.25, weights, reduction)
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-12)
        slope = gradient_of(reference.softmax_focal_loss, inputs.double(), targets, gamma, 0.25, wide, reduction)
        ours = gradient_of(softmax_focal_loss, inputs, targets, gamma, 0.25, weights, reduction)
        torch.testing.assert_close(ours.double(), slope, rtol=2e-5, atol=1e-8)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_saturated_rows_are_finite(gamma: float, dtype: torch.dtype) -> None:
    rows = [[big, 0.0, -big] for big in (1, 15, 20, 90, 110, 1000, 6e4, INF)]
    inputs = torch.tensor(rows, dtype=dtype)
    for label in range(3):
        targets = torch.full((len(rows),), label)
        assert softmax_focal_loss(inputs, targets, gamma, reduction="none").isfinite().all()
        slope = gradient_of(softmax_focal_loss, inputs, targets, gamma)
        assert slope.isfinite().all()
        expected = gradient_of(reference.softmax_focal_loss, inputs.double(), targets, gamma)
        torch.testing.assert_close(slope.double(), expected, rtol=1e-2 if dtype.itemsize == 2 else 2e-5, atol=1e-6)
    # What is very wrong keeps its gradient: -alpha for the class, alpha for the one that won.
    wrong = gradient_of(softmax_focal_loss, inputs[4:5], torch.tensor([2]), gamma, 0.5)
    assert wrong[0].tolist() == pytest.approx([0.5, 0, -0.5], abs=1e-30)


@pytest.mark.parametrize("value", [INF, -INF, 1e30, -1e30])
def test_rows_of_nothing_but_saturated_logits(value: float) -> None:
    inputs = torch.full((3, 40), value)
    inputs[2, 7] = -value
    targets = torch.tensor([0, 39, 7])
    ours = softmax_focal_loss(inputs, targets, reduction="none")
    torch.testing.assert_close(ours, reference.softmax_focal_loss(inputs, targets, reduction="none"))
    slope = gradient_of(softmax_focal_loss, inputs, targets)
    torch.testing.assert_close(slope, gradient_of(reference.softmax_focal_loss, inputs, targets))


def test_the_gradient_of_a_row_adds_up_to_nothing() -> None:
    inputs, targets, _ = sample()
    slope = gradient_of(softmax_focal_loss, inputs, targets, 2.0, 1.0, None, "none")
    assert slope.sum(1).abs().max() < 1e-6
    assert slope[targets >= 0].any(dim=1).all()


def test_ignored_rows_and_nan() -> None:
    inputs, targets, weight = sample(rows=5)
    targets[:] = torch.tensor([0, -1, 3, -100, 2])
    inputs[1, 2] = inputs[2, 4] = NAN
    loss = softmax_focal_loss(inputs, targets, weight=weight, reduction="none")
    assert loss.isnan().tolist() == [False, False, True, False, False]
    assert (loss[[1, 3]] == 0).all()
    slope = gradient_of(softmax_focal_loss, inputs, targets)
    assert not slope[[1, 3]].any()
    assert slope[2].isnan().all()
    assert slope[[0, 4]].isfinite().all()
    for nothing in (inputs[:0], inputs[3:4]):
        assert softmax_focal_loss(nothing, targets[3:4][: len(nothing)]).item() == 0


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("gamma", [0.5, 2.0, 3.0])
def test_gradcheck_once_and_twice(reduction: str, gamma: float) -> None:
    inputs, targets, weight = sample(rows=4, classes=5)
    leaves = inputs.double().requires_grad_(), weight.double().requires_grad_()

    def loss(x: Tensor, w: Tensor) -> Tensor:
        return softmax_focal_loss(x, targets, gamma, 0.25, w, reduction)

    assert torch.autograd.gradcheck(loss, leaves)
    assert torch.autograd.gradgradcheck(loss, leaves)


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_backward_twice_compiled_and_by_reference(reduction: str) -> None:
    inputs, targets, weight = sample()
    options = targets, 2.0, 0.25, weight, reduction
    leaf = inputs.clone().requires_grad_()
    loss = softmax_focal_loss(leaf, *options)
    upstream = torch.linspace(-2, 2, loss.numel()).view(loss.shape)
    first, second = (torch.autograd.grad(loss, leaf, upstream, retain_graph=True)[0] for _ in range(2))
    slope = gradient_of(softmax_focal_loss, inputs, *options)
    torch.testing.assert_close(first, slope * (upstream[:, None] if upstream.dim() else upstream))
    torch.testing.assert_close(second, first)
    compiled = torch.compile(softmax_focal_loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradient_of(compiled, inputs, *options), slope)
    with ops.set_backend("reference"):
        torch.testing.assert_close(gradient_of(softmax_focal_loss, inputs, *options), slope, rtol=2e-5, atol=1e-8)


ONE, CLASSES = torch.zeros(2, 3), torch.tensor([0, 2])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((ONE.long(), CLASSES), "softmax_focal_loss: inputs must be a floating tensor, got Long"),
        ((ONE[0], CLASSES), "softmax_focal_loss: inputs must be [N, C] with C >= 1, got [3]"),
        ((ONE[:, :0], CLASSES), "softmax_focal_loss: inputs must be [N, C] with C >= 1, got [2, 0]"),
        ((ONE, CLASSES.float()), "softmax_focal_loss: targets must be an integer tensor, got Float"),
        ((ONE, CLASSES[:1]), "softmax_focal_loss: targets must be [N] with N = 2 as in inputs, got [1]"),
        ((ONE, CLASSES + 1), "targets must be classes below C, or negative to be ignored, got 3 at row 1"),
        ((ONE, CLASSES, -0.5), "softmax_focal_loss: gamma must be finite and not negative, got -0.5"),
        ((ONE, CLASSES, 2.0, -0.5), "alpha must be finite and not negative, or -1 for no weight, got -0.5"),
        ((ONE, CLASSES, 2.0, 0.25, ONE), "softmax_focal_loss: weight must be [C] with C = 3 as in inputs, got [2, 3]"),
        ((ONE, CLASSES, 2.0, 0.25, ONE[0].long()), "softmax_focal_loss: weight must be a floating tensor, got Long"),
        ((ONE, CLASSES, 2.0, 0.25, None, "avg"), "reduction must be 'none', 'mean' or 'sum', got 'avg'"),
    ],
)
def test_messages(args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RuntimeError) as error:
        softmax_focal_loss(*args)
    assert message in str(error.value)
