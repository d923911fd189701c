"""The IoU losses: numbers by hand, identities, reductions, degenerate pairs, gradients, messages.

Where torchvision's losses (0.29.2) differ from its functions of all pairs, these do too: eps in every divisor, a hull
that is not clamped.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from op_cases import aligned_boxes
from torch import Tensor

from pydet import ops, reference
from pydet.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

LOSSES = (generalized_box_iou_loss, distance_box_iou_loss, complete_box_iou_loss)
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)


def boxes_of(*rows: tuple[float, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(rows, dtype=dtype)


def pairs(n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    a, b = aligned_boxes(n, torch.Generator().manual_seed(seed))
    return a.to(dtype), b.to(dtype)


# 10 x 10 boxes shifted by 5 share 50 of 150; the hull is 15 x 10, so that GIoU = IoU; the centres are 5 apart.
# The third pair is 10 x 10 and 20 x 10 at the same corner: 100 of 200 in a hull of 200, centres 5 apart.
A = boxes_of((0, 0, 10, 10), (0, 0, 10, 10), (0, 0, 10, 10), (0, 0, 1, 1))
B = boxes_of((5, 0, 15, 10), (0, 0, 10, 10), (0, 0, 20, 10), (2, 0, 3, 1))
GENERALIZED = [1 - 1 / 3, 0, 0.5, 1 + 1 / 3]
DISTANCE = [1 - 1 / 3 + 25 / 325, 0, 0.5 + 25 / 500, 1 + 4 / 10]
TURN = 4 / math.pi**2 * (math.atan(1) - math.atan(2)) ** 2
COMPLETE = [DISTANCE[0], 0, DISTANCE[2] + TURN * TURN / (0.5 + TURN), DISTANCE[3]]


@each_dtype
@pytest.mark.parametrize(("loss", "expected"), list(zip(LOSSES, (GENERALIZED, DISTANCE, COMPLETE), strict=True)))
def test_by_hand(loss: Callable[..., Tensor], expected: list[float], dtype: torch.dtype) -> None:
    wanted = torch.tensor(expected, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    for a, b in ((A, B), (B, A)):
        torch.testing.assert_close(loss(a.to(dtype), b.to(dtype)), wanted, rtol=0, atol=5e-7)
        torch.testing.assert_close(loss(a.to(dtype), b.to(dtype), "sum"), wanted.sum(), rtol=0, atol=1e-6)
        torch.testing.assert_close(loss(a.to(dtype), b.to(dtype), reduction="mean"), wanted.mean(), rtol=0, atol=5e-7)


@each_loss
def test_is_one_minus_the_diagonal_of_all_pairs(loss: Callable[..., Tensor]) -> None:
    a, b = pairs(200)
    matrix = getattr(ops, loss.__name__.removesuffix("_loss"))(a, b)
    torch.testing.assert_close(loss(a, b), 1 - matrix.diagonal(), rtol=1e-8, atol=1e-8)  # but for eps


@each_loss
def test_translation_and_scale_do_not_matter(loss: Callable[..., Tensor]) -> None:
    a, b = pairs(100)
    expected = loss(a, b)
    torch.testing.assert_close(loss(a - 1000, b - 1000), expected, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(loss(a * 64, b * 64), expected, rtol=1e-6, atol=1e-7)  # but for eps


@each_loss
@pytest.mark.parametrize("shape", [(4,), (1, 4), (3, 5, 4), (0, 4), (2, 0, 4), (5000, 4)])
def test_shapes(loss: Callable[..., Tensor], shape: tuple[int, ...]) -> None:
    n = math.prod(shape) // 4
    a, b = (t.reshape(shape).requires_grad_() for t in pairs(n))
    result = loss(a, b)
    assert result.shape == shape[:-1]
    torch.testing.assert_close(result.flatten(), loss(a.reshape(-1, 4), b.reshape(-1, 4)), rtol=0, atol=0)
    torch.testing.assert_close(loss(a, b, "sum"), result.sum())
    mean = loss(a, b, "mean")
    assert mean.shape == ()
    torch.testing.assert_close(mean, result.mean() if n else torch.zeros((), dtype=a.dtype))
    for gradient in torch.autograd.grad(mean, (a, b)):
        assert gradient.shape == shape
        assert gradient.isfinite().all()


@each_loss
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("n", [1, 17, 600])
def test_gradient_is_that_of_the_reference(loss: Callable[..., Tensor], reduction: str, n: int) -> None:
    a, b = (t.requires_grad_() for t in pairs(n, seed=n))
    a.data[::4, 2:] = b.data[::4, 2:]  # shared corners: torch splits the gradient between both
    weight = torch.rand(
        n if reduction == "none" else (), dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    ours = torch.autograd.grad(loss(a, b, reduction, 1e-3), (a, b), weight)
    theirs = torch.autograd.grad(getattr(reference, loss.__name__)(a, b, reduction, 1e-3), (a, b), weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)
    (only_b,) = torch.autograd.grad(loss(a.detach(), b, reduction, 1e-3), b, weight)
    assert torch.equal(only_b, ours[1])


@each_loss
def test_gradient_of_equal_and_of_touching_boxes(loss: Callable[..., Tensor]) -> None:
    a = boxes_of((1, 2, 11, 32), (0, 0, 1, 1))
    b = boxes_of((1, 2, 11, 32), (1, 0, 2, 1))
    leaves = [t.clone().requires_grad_() for t in (a, b, a, b)]
    ours = torch.autograd.grad(loss(*leaves[:2]).sum(), leaves[:2])
    theirs = torch.autograd.grad(getattr(reference, loss.__name__)(*leaves[2:]).sum(), leaves[2:])
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


@each_loss
def test_second_derivative(loss: Callable[..., Tensor]) -> None:
    a, b = (t.requires_grad_() for t in pairs(6))
    name = loss.__name__
    ours, theirs = [], []
    for function, into in ((loss, ours), (getattr(reference, name), theirs)):
        first = torch.autograd.grad(function(a, b, "mean"), (a, b), create_graph=True)
        into.extend(torch.autograd.grad(sum((g**2).sum() for g in first), (a, b)))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-14)


@each_loss
def test_half_precision_gradient_has_its_dtype(loss: Callable[..., Tensor]) -> None:
    a, b = pairs(20, dtype=torch.bfloat16)
    a.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(a, b, "sum"), a)
    assert gradient.dtype == torch.bfloat16
    wide = a.detach().float().requires_grad_()
    (expected,) = torch.autograd.grad(loss(wide, b.float(), "sum"), wide)
    assert torch.equal(gradient, expected.bfloat16())


@each_loss
def test_points_and_inverted_boxes(loss: Callable[..., Tensor]) -> None:
    degenerate = boxes_of((5, 5, 5, 5), (10, 10, 0, 0), (10, 0, 0, 10), (3, 3, 3, 9), (0, 0, math.nan, 1))
    for a, b in ((degenerate, degenerate.roll(1, 0)), (degenerate, degenerate), (degenerate, A[:1].expand(5, 4))):
        torch.testing.assert_close(loss(a, b), getattr(reference, loss.__name__)(a, b), equal_nan=True)
    assert (
        generalized_box_iou_loss(degenerate[:1], degenerate[:1]).item() == 1
    )  # a point has no IoU with itself: 0 / eps


def test_eps_of_the_complete_loss_is_that_of_alpha_only() -> None:
    """As in torchvision, whose distance part always has the default."""
    assert torch.equal(complete_box_iou_loss(A[:2], B[:2], "none", 10.0), complete_box_iou_loss(A[:2], B[:2]))
    large = complete_box_iou_loss(A[2:3], B[2:3], eps=1.0).item()
    assert large == pytest.approx(DISTANCE[2] + TURN * TURN / (1.5 + TURN), abs=1e-8)


@each_loss
def test_reference_backend_also_serves_the_gradient(loss: Callable[..., Tensor]) -> None:
    a, b = (t.requires_grad_() for t in pairs(10))
    ours = torch.autograd.grad(loss(a, b, "sum"), (a, b))
    with ops.set_backend("reference"):
        theirs = torch.autograd.grad(loss(a, b, "sum"), (a, b))
    torch.testing.assert_close(ours, theirs)


@each_loss
@pytest.mark.parametrize(
    ("a", "b", "reduction", "message"),
    [
        (torch.zeros(7, 5), torch.zeros(7, 5), "none", "boxes1 must be [..., 4], got [7, 5]"),
        (torch.zeros(7, 4), torch.zeros(6, 4), "none", "boxes2 must be [7, 4] as boxes1, got [6, 4]"),
        (torch.zeros(7, 4), torch.zeros(7, 4), "max", "reduction must be 'none', 'mean' or 'sum', got 'max'"),
        (torch.zeros(7, 4).bool(), torch.zeros(7, 4), "sum", "boxes1 must be a floating or integer tensor, got Bool"),
    ],
)
def test_messages(loss: Callable[..., Tensor], a: Tensor, b: Tensor, reduction: str, message: str) -> None:
    with pytest.raises(RuntimeError) as error:
        loss(a, b, reduction)
    assert f"{loss.__name__}: {message}" in str(error.value)
