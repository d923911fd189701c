"""encode_boxes beyond what every operator shares: numbers by hand, sharing, degenerate boxes, gradients, messages."""

from __future__ import annotations

import math

import pytest
import torch
from op_cases import random_boxes
from torch import Tensor

from pydet import reference
from pydet.ops import decode_boxes, encode_boxes

# 20 x 10 around (30, 15); seen from it, a box twice as wide and half as high, moved by half a width and a height
PROPOSAL = torch.tensor([[20.0, 10, 40, 20]])
BOX = torch.tensor([[20.0, 22.5, 60, 27.5]])
CODE = [0.5, 1.0, math.log(2), -math.log(2)]


@pytest.mark.parametrize("weights", [None, [1.0, 1, 1, 1], [10.0, 10, 5, 5], [2.0, 3, 5, 7]])
def test_by_hand(weights: list[float] | None) -> None:
    expected = torch.tensor([[c * w for c, w in zip(CODE, weights or [1.0] * 4, strict=True)]])
    torch.testing.assert_close(encode_boxes(BOX, PROPOSAL, weights), expected, rtol=3e-7, atol=0)


def test_ssd_variances_are_inverse_weights() -> None:
    """SSD divides by variances of 0.1 and 0.2."""
    generator = torch.Generator().manual_seed(0)
    boxes, priors = random_boxes(100, generator), random_boxes(100, generator)
    plain = encode_boxes(boxes, priors)
    variances = torch.tensor([0.1, 0.1, 0.2, 0.2])
    torch.testing.assert_close(encode_boxes(boxes, priors, [10, 10, 5, 5]), plain / variances, rtol=1e-6, atol=1e-6)


def test_a_box_seen_from_itself_is_zero() -> None:
    boxes = random_boxes(1000, torch.Generator().manual_seed(1))
    assert not encode_boxes(boxes, boxes, [10, 10, 5, 5]).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_decode_is_the_inverse(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    boxes, proposals = (random_boxes(5000, generator).to(dtype) for _ in range(2))
    weights = [10.0, 10.0, 5.0, 5.0]
    back = decode_boxes(encode_boxes(boxes, proposals, weights), proposals, weights, math.inf)
    torch.testing.assert_close(back, boxes, rtol=0, atol=5e-3 if dtype == torch.float32 else 1e-11)


def test_shared_proposals_are_a_loop() -> None:
    """Rows of several images in one task, and the gradient summed over them."""
    generator = torch.Generator().manual_seed(3)
    boxes = random_boxes(5 * 3001, generator).reshape(5, 3001, 4)
    proposals = random_boxes(3001, generator).requires_grad_()
    codes = encode_boxes(boxes, proposals)
    loop = torch.stack([encode_boxes(image, proposals) for image in boxes])
    assert torch.equal(codes, loop)
    weight = torch.rand(codes.shape, generator=generator)
    (ours,) = torch.autograd.grad((codes * weight).sum(), proposals)
    (theirs,) = torch.autograd.grad((loop * weight).sum(), proposals)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "box", [(5, 5, 5, 8), (5, 5, 3, 8), (0, 0, math.inf, 1), (math.nan, 0, 1, 1), (0, 0, 1e-30, 1e30)], ids=str
)
def test_degenerate_boxes_as_the_definition(box: tuple[float, ...]) -> None:
    odd = torch.tensor([box] * 19, dtype=torch.float32)
    for boxes, proposals in ((odd, PROPOSAL.expand(19, 4)), (PROPOSAL.expand(19, 4), odd)):
        ours, theirs = encode_boxes(boxes, proposals), reference.encode_boxes(boxes, proposals)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_gives_float(dtype: torch.dtype) -> None:
    codes = encode_boxes(BOX.to(dtype), PROPOSAL.to(dtype))
    assert codes.dtype == torch.float32
    torch.testing.assert_close(codes, torch.tensor([CODE]), rtol=3e-7, atol=0)  # the boxes are exact in both


def test_gradient_is_that_of_the_reference() -> None:
    generator = torch.Generator().manual_seed(4)
    boxes, proposals = (random_boxes(4099, generator).requires_grad_() for _ in range(2))
    weight = torch.rand(4099, 4, generator=generator)
    grads = [
        torch.autograd.grad((function(boxes, proposals, [10.0, 10.0, 5.0, 5.0]) * weight).sum(), (boxes, proposals))
        for function in (encode_boxes, reference.encode_boxes)
    ]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_second_derivative_with_shared_proposals() -> None:
    generator = torch.Generator().manual_seed(4)
    boxes = torch.stack([random_boxes(3, generator) for _ in range(2)]).double().requires_grad_()
    proposals = random_boxes(3, generator).double().requires_grad_()
    found = []
    for function in (encode_boxes, reference.encode_boxes):
        codes = function(boxes, proposals, [10.0, 10.0, 5.0, 5.0])
        first = torch.autograd.grad((codes**2).sum(), (boxes, proposals), create_graph=True)
        found.append(torch.autograd.grad(sum((g**2).sum() for g in first), (boxes, proposals)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((torch.zeros(3, 5), BOX), "encode_boxes: reference_boxes must be [..., N, 4], got [3, 5]"),
        ((BOX, torch.zeros(4)), "encode_boxes: proposals must be [..., N, 4], got [4]"),
        ((BOX.long(), BOX), "encode_boxes: reference_boxes must be a floating tensor, got Long"),
        ((BOX, BOX.int()), "encode_boxes: proposals must be a floating tensor, got Int"),
        ((BOX, BOX[None]), "leading dimensions of proposals must be the last ones of reference_boxes, got [1, 1, 4]"),
        ((BOX, torch.zeros(2, 4)), "must be the last ones of reference_boxes, got [2, 4] for [1, 4]"),
        ((BOX, BOX, [1.0, 1.0]), "encode_boxes: weights must be 4 numbers (x, y, width, height), got 2"),
        ((BOX, BOX, [1.0, 0.0, 1.0, 1.0]), "encode_boxes: weights must be positive and finite, got 0"),
        ((BOX, BOX, [1.0, math.nan, 1.0, 1.0]), "encode_boxes: weights must be positive and finite, got nan"),
    ],
)
def test_messages(args: tuple[Tensor | list[float], ...], message: str) -> None:
    with pytest.raises(RuntimeError) as error:
        encode_boxes(*args)
    assert message in str(error.value)
