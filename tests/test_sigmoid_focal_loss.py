"""sigmoid_focal_loss beyond what every operator shares: numbers by hand, classes, saturation, gradients, messages."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pydet import ops, reference
from pydet.ops import sigmoid_focal_loss

GAMMAS = (0.0, 0.01, 0.5, 1.0, 1.5, 2.0, 5.0)
INF, NAN = math.inf, math.nan


def sample(rows: int = 300, classes: int = 13, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, classes (ignored -1, background `classes`), and the same as labels; ignored rows have label 0."""
    g = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, classes, generator=g) * 5
    targets = torch.randint(-1, classes + 1, (rows,), generator=g)
    dense = F.one_hot(targets.clamp(min=0), classes + 1)[:, :-1].float()
    return inputs, targets, dense


def gradient_of(function: Any, inputs: Tensor, *args: Any) -> Tensor:
    leaf = inputs.clone().requires_grad_()
    loss = function(leaf, *args)
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    return gradient


def test_by_hand() -> None:
    """sigmoid(log 3) = 3/4: label 1 misses by 1/4, label 0 by 3/4."""
    inputs, targets = torch.full((2,), math.log(3)), torch.tensor([1.0, 0.0])
    expected = [0.25 * (1 / 16) * -math.log(3 / 4), 0.75 * (9 / 16) * -math.log(1 / 4)]
    assert sigmoid_focal_loss(inputs, targets).tolist() == pytest.approx(expected, rel=1e-6)
    assert sigmoid_focal_loss(inputs, targets, reduction="sum").item() == pytest.approx(sum(expected), rel=1e-6)
    assert sigmoid_focal_loss(inputs, targets, reduction="mean").item() == pytest.approx(sum(expected) / 2, rel=1e-6)
    unweighted = [4 * expected[0], expected[1] / 0.75]
    assert sigmoid_focal_loss(inputs, targets, -1).tolist() == pytest.approx(unweighted, rel=1e-6)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_without_focus_it_is_cross_entropy(reduction: str) -> None:
    inputs, _, dense = sample()
    expected = F.binary_cross_entropy_with_logits(inputs, dense, reduction=reduction)
    torch.testing.assert_close(sigmoid_focal_loss(inputs, dense, -1, 0.0, reduction), expected)
    theirs = gradient_of(lambda x: F.binary_cross_entropy_with_logits(x, dense, reduction=reduction), inputs)
    ours = gradient_of(sigmoid_focal_loss, inputs, dense, -1, 0.0, reduction)
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("alpha", [0.25, 1.0, -1.0])
def test_against_float64(gamma: float, reduction: str, alpha: float) -> None:
    inputs, targets, dense = sample()
    for labels in (targets, dense):
        wide = labels.double() if labels.is_floating_point() else labels
        expected = reference.sigmoid_focal_loss(inputs.double(), wide, alpha, gamma, reduction)
        ours = sigmoid_focal_loss(inputs, labels, alpha, gamma, reduction)
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-12)
        slope = gradient_of(reference.sigmoid_focal_loss, inputs.double(), wide, alpha, gamma, reduction)
        ours = gradient_of(sigmoid_focal_loss, inputs, labels, alpha, gamma, reduction)
        torch.testing.assert_close(ours.double(), slope, rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_classes_are_their_one_hot_form(gamma: float) -> None:
    inputs, targets, dense = sample(rows=1000, classes=91)
    counted = (targets >= 0)[:, None]
    ours, expected = (sigmoid_focal_loss(inputs, t, gamma=gamma) for t in (targets, dense))
    assert torch.equal(ours, torch.where(counted, expected, 0))
    a, b = (gradient_of(sigmoid_focal_loss, inputs, t, 0.25, gamma) for t in (targets, dense))
    assert torch.equal(a, torch.where(counted, b, 0))
    mean = sigmoid_focal_loss(inputs, targets, gamma=gamma, reduction="mean")
    torch.testing.assert_close(
        mean, sigmoid_focal_loss(inputs[counted[:, 0]], dense[counted[:, 0]], gamma=gamma).mean()
    )


@pytest.mark.parametrize("classes", [1, 3, 1024, 1500, 5000])
def test_rows_across_blocks(classes: int) -> None:
    inputs, targets, dense = sample(rows=7, classes=classes, seed=classes)
    expected = torch.where((targets >= 0)[:, None], sigmoid_focal_loss(inputs, dense), 0)
    assert torch.equal(sigmoid_focal_loss(inputs, targets), expected)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_a_value_does_not_depend_on_its_neighbours(gamma: float) -> None:
    """Whether the others have labels, soft ones or saturated logits decides how they are computed, not what."""
    inputs, _, dense = sample(rows=400, classes=13)
    odd = inputs.clone()
    odd.view(-1)[torch.arange(1500, 5200, 50)] = torch.tensor([88.0, -100, INF, -INF, NAN, 87]).repeat(13)[:74]
    soft = dense.clone()
    soft.view(-1)[torch.arange(3000, 5200, 30)] = 0.25
    mixed, grad = sigmoid_focal_loss(odd, soft, 0.25, gamma), gradient_of(sigmoid_focal_loss, odd, soft, 0.25, gamma)
    for logits, labels in ((inputs, torch.zeros_like(dense)), (inputs, dense), (inputs, soft), (odd, soft)):
        same = (logits == odd) & (labels == soft)
        assert same[:100].float().mean() > 0.8
        assert torch.equal(sigmoid_focal_loss(logits, labels, 0.25, gamma)[same], mixed[same])
        assert torch.equal(gradient_of(sigmoid_focal_loss, logits, labels, 0.25, gamma)[same], grad[same])
    for i in range(3000, 3100):
        one = sigmoid_focal_loss(odd.view(-1)[i : i + 1], soft.view(-1)[i : i + 1], 0.25, gamma)
        torch.testing.assert_close(one, mixed.view(-1)[i : i + 1], rtol=0, atol=0, equal_nan=True)


def test_leading_dimensions_and_integer_types() -> None:
    inputs, targets, _ = sample(rows=24)
    expected = sigmoid_focal_loss(inputs, targets)
    for dtype in (torch.int8, torch.int16, torch.int32):
        assert torch.equal(
            sigmoid_focal_loss(inputs.view(2, 3, 4, 13), targets.view(2, 3, 4).to(dtype)).view(24, 13), expected
        )
    assert torch.equal(sigmoid_focal_loss(inputs[0], targets[0]), expected[0])


def test_ignored_rows_count_for_nothing() -> None:
    inputs = torch.tensor([[NAN, INF], [1, 2], [0, -INF]]).requires_grad_()
    targets = torch.tensor([-1, 0, -7])
    loss = sigmoid_focal_loss(inputs, targets, reduction="mean")
    assert loss.item() == sigmoid_focal_loss(inputs[1:2].detach(), targets[1:2], reduction="mean").item()
    (gradient,) = torch.autograd.grad(loss, inputs)
    assert not gradient[[0, 2]].any()
    assert gradient[1].all()
    assert sigmoid_focal_loss(inputs, targets.clamp(max=-1), reduction="mean").item() == 0


@pytest.mark.parametrize("shape", [(0,), (0, 80), (4, 0)])
def test_the_mean_of_nothing_is_zero(shape: tuple[int, ...]) -> None:
    inputs = torch.zeros(shape, requires_grad=True)
    loss = sigmoid_focal_loss(inputs, torch.zeros(shape), reduction="mean")
    loss.backward()
    assert (loss.item(), inputs.grad.shape) == (0, shape)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_saturated_logits_are_finite(gamma: float, dtype: torch.dtype) -> None:
    big = torch.tensor([20, 50, 88, 100, 1000, 6e4, INF], dtype=dtype)
    inputs = torch.cat([big, -big])
    for label in (0.0, 0.4, 1.0):
        targets = torch.full_like(inputs, label)
        assert sigmoid_focal_loss(inputs, targets, gamma=gamma).isfinite().all()
        slope = gradient_of(sigmoid_focal_loss, inputs, targets, 0.25, gamma)
        assert slope.isfinite().all()
        expected = gradient_of(reference.sigmoid_focal_loss, inputs, targets, 0.25, gamma)
        torch.testing.assert_close(slope, expected, rtol=1e-2 if dtype.itemsize == 2 else 2e-5, atol=1e-7)
    for label in (0, 1):  # of one class
        targets = torch.full((len(inputs),), label)
        assert gradient_of(sigmoid_focal_loss, inputs[:, None], targets, 0.25, gamma).isfinite().all()


def test_nan_stays_where_it_is() -> None:
    inputs, _, dense = sample(rows=4, classes=20)
    inputs[1, 3], dense[2, 5] = NAN, NAN
    for result in (sigmoid_focal_loss(inputs, dense), gradient_of(sigmoid_focal_loss, inputs, dense)):
        assert result.isnan().nonzero().tolist() == [[1, 3], [2, 5]]


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("gamma", [0.5, 2.0, 3.0])
def test_gradcheck_once_and_twice(reduction: str, gamma: float) -> None:
    inputs, targets, dense = sample(rows=4, classes=3)
    leaf = inputs.double().requires_grad_()
    for labels in (targets, dense.double() * 0.8 + 0.1):

        def loss(x: Tensor, labels: Tensor = labels) -> Tensor:
            return sigmoid_focal_loss(x, labels, 0.25, gamma, reduction)

        assert torch.autograd.gradcheck(loss, leaf)
        assert torch.autograd.gradgradcheck(loss, leaf)


def test_backward_twice_and_upstream() -> None:
    """The gradient that forward wrote is handed over once; a kept graph computes it again."""
    inputs, _, dense = sample()
    for reduction in ("none", "sum"):
        leaf = inputs.clone().requires_grad_()
        loss = sigmoid_focal_loss(leaf, dense, reduction=reduction)
        upstream = torch.linspace(-2, 2, loss.numel()).view(loss.shape)
        first, second, third = (torch.autograd.grad(loss, leaf, upstream, retain_graph=True)[0] for _ in range(3))
        expected = upstream * gradient_of(sigmoid_focal_loss, inputs, dense)
        torch.testing.assert_close(first, expected)
        torch.testing.assert_close(second, expected)
        assert torch.equal(second, third)
        assert first.data_ptr() != second.data_ptr()


def test_half_precision_is_rounded_after_the_loss_scale() -> None:
    """A gradient of 1.7e-9 is 0 in float16, 65,536 times as much is not."""
    inputs = torch.tensor([-7.0], dtype=torch.float16, requires_grad=True)
    loss = sigmoid_focal_loss(inputs, torch.zeros_like(inputs), reduction="sum")
    assert loss.dtype == torch.float32
    (gradient,) = torch.autograd.grad(loss * 65536, inputs)
    wide = gradient_of(sigmoid_focal_loss, inputs.detach().double(), torch.zeros(1, dtype=torch.float64))
    assert wide.half().item() == 0
    assert gradient.dtype == torch.float16
    assert gradient.item() == pytest.approx(65536 * wide.item(), rel=0.01)


def test_soft_targets_have_a_gradient() -> None:
    inputs, _, dense = sample()
    targets = (dense * 0.6 + 0.2).requires_grad_()
    (ours,) = torch.autograd.grad(sigmoid_focal_loss(inputs, targets).sum(), targets)
    (theirs,) = torch.autograd.grad(reference.sigmoid_focal_loss(inputs, targets).sum(), targets)
    torch.testing.assert_close(ours, theirs)
    leaves = [t.detach()[:3, :4].double().requires_grad_() for t in (inputs, targets)]
    assert torch.autograd.gradgradcheck(sigmoid_focal_loss, leaves)


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_gradient_compiled_and_by_reference(reduction: str) -> None:
    inputs, targets, dense = sample()
    for labels in (targets, dense):
        expected = gradient_of(sigmoid_focal_loss, inputs, labels, 0.25, 2.0, reduction)
        compiled = torch.compile(sigmoid_focal_loss, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(gradient_of(compiled, inputs, labels, 0.25, 2.0, reduction), expected)
        with ops.set_backend("reference"):
            by_reference = gradient_of(sigmoid_focal_loss, inputs, labels, 0.25, 2.0, reduction)
        torch.testing.assert_close(by_reference, expected, rtol=2e-5, atol=1e-9)
        assert torch.equal(
            gradient_of(torch.jit.script(sigmoid_focal_loss), inputs, labels, 0.25, 2.0, reduction), expected
        )


@pytest.mark.parametrize("kind", ["labels", "classes"])
def test_sum_and_gradient_are_the_same_bits_at_any_number_of_threads(kind: str) -> None:
    inputs, targets, dense = sample(rows=20_000, classes=17)
    labels = dense if kind == "labels" else targets
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            leaf = inputs.clone().requires_grad_()
            loss = sigmoid_focal_loss(leaf, labels, reduction="sum")
            found.append((loss, *torch.autograd.grad(loss, leaf)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
    exact = reference.sigmoid_focal_loss(inputs.double(), labels.double() if kind == "labels" else labels).sum()
    assert found[0][0].item() == pytest.approx(exact.item(), rel=1e-6)


ONE = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((ONE.long(), ONE), "sigmoid_focal_loss: inputs must be a floating tensor, got Long"),
        ((ONE, ONE.bool()), "sigmoid_focal_loss: targets must be a floating or integer tensor, got Bool"),
        ((ONE, ONE[:1]), "floating targets must have the shape of inputs, with inputs [2, 3], got [1, 3]"),
        (
            (ONE, ONE.long()),
            "integer targets must be classes of shape inputs.shape[:-1], with inputs [2, 3], got [2, 3]",
        ),
        (
            (ONE, torch.tensor([3, 4])),
            "targets must be classes up to C (the background), or negative to be ignored, got 4 at row 1",
        ),
        ((ONE, ONE, 1.5), "alpha must be in [0, 1], or -1 for no weights, got 1.5"),
        ((ONE, ONE, NAN), "alpha must be in [0, 1], or -1 for no weights, got nan"),
        ((ONE, ONE, 0.25, -1.0), "gamma must be finite and not negative, got -1"),
        ((ONE, ONE, 0.25, INF), "gamma must be finite and not negative, got inf"),
        ((ONE, ONE, 0.25, 2.0, "avg"), "reduction must be 'none', 'mean' or 'sum', got 'avg'"),
    ],
)
def test_messages(args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RuntimeError) as error:
        sigmoid_focal_loss(*args)
    assert message in str(error.value)
    if args[0].is_floating_point():
        with pytest.raises(RuntimeError) as error:
            sigmoid_focal_loss(args[0].clone().requires_grad_(), *args[1:])
        assert message in str(error.value)
