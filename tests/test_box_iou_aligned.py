"""The IoU family of aligned boxes: each with the box at the same place, the diagonal of all pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_cases import aligned_boxes
from torch import Tensor

from pydet import ops, reference

WITH_FORMAT = (ops.box_iou, ops.box_iof)
FAMILY = (*WITH_FORMAT, ops.generalized_box_iou, ops.distance_box_iou, ops.complete_box_iou)
EVERY_DTYPE = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int32, torch.int64)
each_kind = pytest.mark.parametrize("function", FAMILY, ids=lambda f: f.__name__)


def pairs(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    a, b = aligned_boxes(math.prod(shape), torch.Generator().manual_seed(seed))
    return a.reshape(*shape, 4).to(dtype), b.reshape(*shape, 4).to(dtype)


def diagonal(function: Callable[..., Tensor], a: Tensor, b: Tensor, *options: Any) -> Tensor:
    return function(a, b, *options).diagonal(dim1=-2, dim2=-1)


def test_by_hand() -> None:
    """10 x 10 boxes that share half: 50 of 150, of 100; in a hull of 15 x 10 with the centres 5 apart."""
    a, b = torch.tensor([[0.0, 0, 10, 10]] * 2), torch.tensor([[5.0, 0, 15, 10], [0, 0, 10, 10]])
    expected = [1 / 3, 1 / 2, 1 / 3, 1 / 3 - 25 / 325, 1 / 3 - 25 / 325]
    for function, value in zip(FAMILY, expected, strict=True):
        assert function(a, b, aligned=True).tolist() == pytest.approx([value, 1], abs=1e-6)


@each_kind
@pytest.mark.parametrize("dtype", EVERY_DTYPE, ids=str)
@pytest.mark.parametrize("n", [1, 7, 255, 256, 257, 1000])
def test_is_the_diagonal_of_all_pairs(function: Callable[..., Tensor], n: int, dtype: torch.dtype) -> None:
    a, b = (t.clamp(0, 250) for t in pairs(n, dtype=torch.float32))
    a, b = a.to(dtype), b.to(dtype)
    b[::5] = b[::5].flip(-1)  # inverted
    a[1::7] = b[1::7]
    for x, y in ((a, b), (a[::2], b.flip(0)[::2])):
        result, expected = function(x, y, aligned=True), diagonal(function, x, y)
        assert result.dtype == expected.dtype
        torch.testing.assert_close(result, expected, rtol=0, atol=0, equal_nan=True)


@each_kind
@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3), (2, 0, 3), (9001,)])
def test_shapes(function: Callable[..., Tensor], shape: tuple[int, ...]) -> None:
    a, b = pairs(*shape)
    result = function(a, b, aligned=True)
    assert result.shape == shape
    assert torch.equal(result.flatten(), function(a.reshape(-1, 4), b.reshape(-1, 4), aligned=True))


@pytest.mark.parametrize("fmt", ["xywh", "cxcywh"])
@pytest.mark.parametrize("function", WITH_FORMAT, ids=lambda f: f.__name__)
def test_formats(function: Callable[..., Tensor], fmt: str) -> None:
    a, b = (ops.box_convert(t, "xyxy", fmt).requires_grad_() for t in pairs(300))
    weight = torch.randn(300, generator=torch.Generator().manual_seed(1)).double()
    result = function(a, b, fmt, True)
    assert torch.equal(result, diagonal(function, a, b, fmt))
    ours = torch.autograd.grad(result, (a, b), weight)
    theirs = torch.autograd.grad(getattr(reference, function.__name__)(a, b, fmt, True), (a, b), weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@each_kind
@pytest.mark.parametrize("n", [0, 1, 17, 600, 9001])
def test_gradient_is_that_of_the_reference(function: Callable[..., Tensor], n: int) -> None:
    a, b = pairs(n, seed=n)
    b[::4] = a[::4] - torch.tensor([3, 0, 0, 0])  # shared corners: torch splits the gradient between both
    a.requires_grad_(), b.requires_grad_()
    weight = torch.randn(n, generator=torch.Generator().manual_seed(n)).double()
    ours = torch.autograd.grad(function(a, b, aligned=True), (a, b), weight)
    theirs = torch.autograd.grad(getattr(reference, function.__name__)(a, b, aligned=True), (a, b), weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)
    (only_b,) = torch.autograd.grad(function(a.detach(), b, aligned=True), b, weight)
    assert torch.equal(only_b, ours[1])


@each_kind
def test_gradient_of_integer_and_half_boxes(function: Callable[..., Tensor]) -> None:
    a, b = pairs(50)
    half, wide = a.half().requires_grad_(), a.half().float().requires_grad_()
    (of_half,) = torch.autograd.grad(function(half, b.half(), aligned=True).sum(), half)
    (of_float,) = torch.autograd.grad(function(wide, b.half(), aligned=True).sum(), wide)
    assert torch.equal(of_half, of_float.half())
    (mixed,) = torch.autograd.grad(function(wide, b.long(), aligned=True).sum(), wide)
    assert mixed.dtype == torch.float32
    assert mixed.any(dim=1).sum() > 30


@each_kind
def test_same_bits_at_any_number_of_threads(function: Callable[..., Tensor]) -> None:
    a, b = (t.requires_grad_() for t in pairs(30_000, dtype=torch.float32))
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            result = function(a, b, aligned=True)
            found.append((result, *torch.autograd.grad(result.sum(), (a, b))))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(x, y) for x, y in zip(other, found[0], strict=True))


@each_kind
def test_second_derivative(function: Callable[..., Tensor]) -> None:
    a, b = (t.requires_grad_() for t in pairs(9))
    found = []
    for f in (function, getattr(reference, function.__name__)):
        first = torch.autograd.grad(f(a, b, aligned=True).sum(), (a, b), create_graph=True)
        found.append(torch.autograd.grad(sum((g**2).sum() for g in first), (a, b)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-14)


@each_kind
def test_messages(function: Callable[..., Tensor]) -> None:
    name = function.__name__
    with pytest.raises(RuntimeError, match=rf"{name}: boxes1 must be \[..., 4\], got \[7, 5\]"):
        function(torch.zeros(7, 5), torch.zeros(7, 4), aligned=True)
    with pytest.raises(RuntimeError, match=rf"{name}: boxes2 must be \[7, 4\] as boxes1, got \[6, 4\]"):
        function(torch.zeros(7, 4), torch.zeros(6, 4), aligned=True)
    with pytest.raises(RuntimeError, match=rf"{name}: boxes2 must be \[7, 4\] as boxes1, got \[1, 7, 4\]"):
        function(torch.zeros(7, 4), torch.zeros(1, 7, 4), aligned=True)
    with pytest.raises(RuntimeError, match=rf"{name}: boxes2 must be a floating or integer tensor, got Bool"):
        function(torch.zeros(7, 4), torch.zeros(7, 4).bool(), aligned=True)
