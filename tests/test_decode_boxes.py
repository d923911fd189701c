"""decode_boxes beyond what every operator shares: numbers by hand, the clip, classes, sharing, gradients, messages."""

from __future__ import annotations

import math

import pytest
import torch
from op_cases import random_boxes
from torch import Tensor

from pydet import reference
from pydet.ops import decode_boxes

ANCHOR = torch.tensor([[20.0, 10, 40, 20]])
ZERO = torch.zeros(1, 4)
CLIP = math.log(1000 / 16)


@pytest.mark.parametrize("weights", [None, [10.0, 10.0, 5.0, 5.0], [2.0, 3.0, 5.0, 7.0]])
def test_by_hand(weights: list[float] | None) -> None:
    """20 x 10 around (30, 15), moved by half a width and a height, twice as wide and half as high."""
    codes = torch.tensor([[0.5, 1.0, math.log(2), -math.log(2)]]) * torch.tensor(weights or [1.0] * 4)
    expected = torch.tensor([[20, 22.5, 60, 27.5]])
    torch.testing.assert_close(decode_boxes(codes, ANCHOR, weights), expected, rtol=1e-6, atol=0)


def test_no_code_is_the_anchor() -> None:
    boxes = random_boxes(1000, torch.Generator().manual_seed(0)).round()
    assert torch.equal(decode_boxes(torch.zeros(1000, 4), boxes, [10, 10, 5, 5]), boxes)


def test_clip_holds_after_the_weights() -> None:
    """16 pixels become 1,000 at most; the code is divided by its weight first."""
    anchor = torch.tensor([[-8.0, -8, 8, 8]])
    code = torch.tensor([[0.0, 0, 60, 4]])
    box = decode_boxes(code, anchor, [1, 1, 5, 5])
    size = 16 * math.exp(0.8)
    torch.testing.assert_close(box, torch.tensor([[-500, -size / 2, 500, size / 2]]), rtol=1e-6, atol=0)
    assert decode_boxes(code, anchor, None, math.inf)[0, 2] > 1e26
    assert decode_boxes(code, anchor, None, 0.0).tolist() == [[-8, -8, 8, 8]]


def test_no_gradient_where_the_clip_holds() -> None:
    codes = torch.tensor([[0.0, 0, 5, CLIP - 1], [0.0, 0, -200, 1]], requires_grad=True)
    boxes = decode_boxes(codes, ANCHOR.expand(2, 4))
    (gradient,) = torch.autograd.grad(boxes[:, 2:].sum(), codes)
    assert gradient[0, 2] == 0
    assert gradient[0, 3] > 0
    assert gradient[1, 2] == 0  # e^-200 is 0
    at_clip = torch.tensor([[0.0, 0, 1, 0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(decode_boxes(at_clip, ANCHOR, None, 1.0)[0, 2], at_clip)
    assert gradient[0, 2] == pytest.approx(10 * math.e)  # as torch.clamp: at the bound it passes


@pytest.mark.parametrize("classes", [2, 3, 91])
def test_classes_are_a_loop(classes: int) -> None:
    generator = torch.Generator().manual_seed(1)
    codes = torch.randn(77, 4 * classes, generator=generator).requires_grad_()
    boxes = random_boxes(77, generator).requires_grad_()
    decoded = decode_boxes(codes, boxes, [10, 10, 5, 5])
    loop = torch.cat([decode_boxes(codes[:, 4 * k : 4 * k + 4], boxes, [10, 10, 5, 5]) for k in range(classes)], dim=1)
    assert torch.equal(decoded, loop)
    weight = torch.rand(decoded.shape, generator=generator)
    for ours, theirs in zip(
        torch.autograd.grad((decoded * weight).sum(), (codes, boxes)),
        torch.autograd.grad((loop * weight).sum(), (codes, boxes)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def test_shared_anchors_are_a_loop() -> None:
    generator = torch.Generator().manual_seed(2)
    codes, anchors = torch.randn(5, 3001, 4, generator=generator), random_boxes(3001, generator)
    loop = torch.stack([decode_boxes(image, anchors) for image in codes])
    assert torch.equal(decode_boxes(codes, anchors), loop)
    assert torch.equal(decode_boxes(codes, anchors.expand(5, 3001, 4)), loop)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("place", range(4))
def test_odd_codes_as_the_definition(value: float, place: int) -> None:
    codes = torch.zeros(37, 4)
    codes[:, place] = value
    boxes = ANCHOR.expand(37, 4)
    ours, theirs = decode_boxes(codes, boxes), reference.decode_boxes(codes, boxes)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0, equal_nan=True)


def test_nothing_to_decode() -> None:
    assert decode_boxes(torch.zeros(3, 0), torch.zeros(3, 4)).shape == (3, 0)
    anchors = torch.zeros(3, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(decode_boxes(torch.zeros(3, 0), anchors).sum(), anchors)
    assert gradient.tolist() == [[0] * 4] * 3
    (gradient,) = torch.autograd.grad(decode_boxes(torch.zeros(0, 3, 4), anchors).sum(), anchors)
    assert gradient.tolist() == [[0] * 4] * 3


def test_gradient_is_that_of_the_reference() -> None:
    generator = torch.Generator().manual_seed(3)
    codes, boxes = (4 * torch.randn(4099, 4, generator=generator)).requires_grad_(), random_boxes(4099, generator)
    boxes.requires_grad_()
    weight = torch.rand(4099, 4, generator=generator)
    grads = [
        torch.autograd.grad((function(codes, boxes, [2.0, 2.0, 1.0, 1.0]) * weight).sum(), (codes, boxes))
        for function in (decode_boxes, reference.decode_boxes)
    ]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_second_derivative_with_shared_boxes() -> None:
    generator = torch.Generator().manual_seed(4)
    codes = torch.randn(2, 3, 8, generator=generator).double().requires_grad_()
    boxes = random_boxes(3, generator).double().requires_grad_()
    found = []
    for function in (decode_boxes, reference.decode_boxes):
        decoded = function(codes, boxes, [10.0, 10.0, 5.0, 5.0])
        first = torch.autograd.grad((decoded**2).sum(), (codes, boxes), create_graph=True)
        found.append(torch.autograd.grad(sum((g**2).sum() for g in first), (codes, boxes)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((torch.zeros(1, 5), ANCHOR), "decode_boxes: rel_codes must be [..., N, 4 * K], got [1, 5]"),
        ((torch.zeros(4), ANCHOR), "decode_boxes: rel_codes must be [..., N, 4 * K], got [4]"),
        ((ZERO, torch.zeros(1, 5)), "decode_boxes: boxes must be [..., N, 4], got [1, 5]"),
        ((ZERO.long(), ANCHOR), "decode_boxes: rel_codes must be a floating tensor, got Long"),
        ((ZERO, ANCHOR.bool()), "decode_boxes: boxes must be a floating tensor, got Bool"),
        ((torch.zeros(2, 4), ANCHOR), "the leading dimensions of boxes must be the last ones of rel_codes, got [1, 4]"),
        ((ZERO, ANCHOR, [1.0]), "decode_boxes: weights must be 4 numbers (x, y, width, height), got 1"),
        ((ZERO, ANCHOR, [1.0, 1.0, -5.0, 1.0]), "decode_boxes: weights must be positive and finite, got -5"),
        ((ZERO, ANCHOR, None, math.nan), "decode_boxes: bbox_xform_clip must be a number, got nan"),
    ],
)
def test_messages(args: tuple[Tensor | list[float] | float | None, ...], message: str) -> None:
    with pytest.raises(RuntimeError) as error:
        decode_boxes(*args)
    assert message in str(error.value)
