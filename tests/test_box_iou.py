"""box_iou beyond what every operator shares: numbers by hand, formats, batches, degenerate boxes, messages.

Where boxes are degenerate the rules are torchvision's (0.29.2, CPU): areas keep their sign, nothing is clamped but the
extent of the overlap, so that 0 / 0 is NaN.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from pydet import reference
from pydet.ops import box_iou

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INF, NAN = math.inf, math.nan


def boxes_of(*rows: tuple[float, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(rows, dtype=dtype)


A = boxes_of((0, 0, 10, 10), (5, 5, 15, 15), (20, 20, 30, 40))
B = boxes_of((0, 0, 10, 10), (0, 0, 5, 20))
A_B = [[1, 50 / 150], [25 / 175, 0], [0, 0]]


@pytest.mark.parametrize("dtype", [*FLOATING, *INTEGERS], ids=str)
def test_by_hand_in_every_dtype(dtype: torch.dtype) -> None:
    result = box_iou(A.to(dtype), B.to(dtype))
    expected = torch.tensor(A_B, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    assert result.dtype == expected.dtype
    assert torch.equal(result, expected)  # areas are exact, one division rounds


@pytest.mark.parametrize("first", [*FLOATING, torch.int32], ids=str)
@pytest.mark.parametrize("second", [*FLOATING, torch.int64], ids=str)
def test_mixed_dtypes(first: torch.dtype, second: torch.dtype) -> None:
    result = box_iou(A.to(first), B.to(second))
    wanted = torch.float64 if torch.float64 in (first, second) else torch.float32
    assert result.dtype == wanted
    assert torch.equal(result, torch.tensor(A_B, dtype=wanted))


def test_large_integers_are_computed_in_double() -> None:
    """Corners beyond 2^24 have no exact float32: the boxes differ by one pixel, which float32 would lose."""
    start = 2**24 + 1
    boxes = torch.tensor([[start, 0, start + 2, 1], [start + 1, 0, start + 3, 1]])
    assert box_iou(boxes, boxes).tolist() == torch.tensor([[1, 1 / 3], [1 / 3, 1]]).tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_does_not_overflow(dtype: torch.dtype) -> None:
    """An area of 300 x 300 is above float16's 65,504."""
    boxes = boxes_of((0, 0, 300, 300), (0, 0, 300, 150)).to(dtype)
    height = boxes[1, 3].item()  # 150 in float16 and in bfloat16
    assert box_iou(boxes, boxes).tolist() == [[1, height / 300], [height / 300, 1]]


@pytest.mark.parametrize(
    ("fmt", "a", "b"),
    [
        ("xyxy", (2, 4, 12, 24), (7, 4, 17, 24)),
        ("xywh", (2, 4, 10, 20), (7, 4, 10, 20)),
        ("cxcywh", (7, 14, 10, 20), (12, 14, 10, 20)),
    ],
)
def test_formats(fmt: str, a: tuple[float, ...], b: tuple[float, ...]) -> None:
    """10 x 20 boxes that share their half: 100 of 300."""
    result = box_iou(boxes_of(a), boxes_of(b), fmt)
    assert result.item() == torch.tensor(1 / 3).item()
    assert torch.equal(box_iou(boxes_of(a), boxes_of(b), fmt=fmt), result)


@pytest.mark.parametrize("lead", [(3,), (2, 3), (1, 1), (0,), (2, 0)])
@pytest.mark.parametrize("sizes", [(5, 7), (1, 33), (17, 1), (0, 4), (4, 0)])
def test_batches_are_a_loop(lead: tuple[int, ...], sizes: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(*lead, n, 4, generator=generator).cumsum(-1) * 50 for n in sizes)
    result = box_iou(a, b)
    assert result.shape == (*lead, *sizes)
    for entry in itertools.product(*map(range, lead)):
        assert torch.equal(result[entry], box_iou(a[entry], b[entry]))


def test_across_tasks_and_vectors() -> None:
    """Sizes around the vector widths, and enough pairs that several threads share them."""
    generator = torch.Generator().manual_seed(1)
    for n, m in ((1, 100_003), (700, 129), (3, 31), (2, 8), (1001, 1)):
        a, b = (torch.rand(k, 4, generator=generator).cumsum(-1) * 100 for k in (n, m))
        assert torch.equal(box_iou(a, b), reference.box_iou(a, b))
        assert torch.equal(box_iou(a, b), box_iou(b, a).T)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((5, 5, 5, 5), (0, 0, 10, 10), 0.0),
        ((5, 5, 5, 5), (5, 5, 5, 5), NAN),  # the union is 0
        ((10, 10, 0, 0), (10, 10, 0, 0), 0.0),  # inverted twice: a positive area, but no overlap, even with itself
        ((10, 0, 0, 10), (0, 0, 10, 10), NAN),  # inverted once: the negative area cancels the other
        ((10, 0, 0, 10), (0, 0, 10, 20), 0.0),
        ((NAN, 0, 10, 10), (0, 0, 10, 10), NAN),
        ((NAN, 0, 1, 1), (5, 5, 6, 6), NAN),  # also where they are apart
        ((0, 0, 10, NAN), (0, 0, 10, 10), NAN),
        ((0, 0, INF, 10), (0, 0, 10, 10), 0.0),
        ((0, 0, INF, INF), (0, 0, INF, INF), NAN),
        ((0, 0, 1, 1), (1, 0, 2, 1), 0.0),
    ],
)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_degenerate_boxes(a: tuple, b: tuple, expected: float, dtype: torch.dtype) -> None:
    # at every place of a vector, tail included
    x, y = boxes_of(a).to(dtype), boxes_of(*[b] * 37).to(dtype)
    for result in (box_iou(x, y), box_iou(y, x)):
        torch.testing.assert_close(result, torch.full_like(result, expected), rtol=0, atol=0, equal_nan=True)


def test_a_bad_box_spoils_only_its_own_pairs() -> None:
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.rand(40, 4, generator=generator).cumsum(-1) for _ in range(2))
    expected = box_iou(a, b)
    a[3, 0], b[17, 2] = NAN, INF
    result = box_iou(a, b)
    assert result[3].isnan().all()
    assert (result[:3, 17] == 0).all()
    rows, columns = torch.arange(40) != 3, torch.arange(40) != 17
    assert torch.equal(result[rows][:, columns], expected[rows][:, columns])


@pytest.mark.parametrize("fmt", ["xyxy", "xywh", "cxcywh"])
def test_gradient_is_that_of_the_reference(fmt: str) -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.rand(2, n, 4, generator=generator).cumsum(-1).requires_grad_() for n in (6, 5))
    weight = torch.rand(2, 6, 5, generator=generator)
    ours = torch.autograd.grad((box_iou(a, b, fmt) * weight).sum(), (a, b))
    theirs = torch.autograd.grad((reference.box_iou(a, b, fmt) * weight).sum(), (a, b))
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y)
    (only_b,) = torch.autograd.grad((box_iou(a.detach(), b, fmt) * weight).sum(), b)
    assert torch.equal(only_b, ours[1])


def test_gradient_by_hand() -> None:
    """Unit squares shifted by s share 1 - s of 1 + s: d iou / ds = -2 / (1 + s)^2; s enters x1 and x2 of the second."""
    a = boxes_of((0, 0, 1, 1), dtype=torch.float64)
    b = boxes_of((0.5, 0, 1.5, 1), dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(box_iou(a, b).sum(), b)
    assert gradient[0, 0].item() + gradient[0, 2].item() == pytest.approx(-2 / 1.5**2)


def test_gradient_with_integer_boxes() -> None:
    a = A.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(box_iou(a, B.long()).sum(), a)
    assert gradient.dtype == torch.float32
    assert gradient[:2].any(dim=1).all()
    assert not gradient[2].any()  # apart from everything: flat


@pytest.mark.parametrize(
    ("a", "b", "fmt", "message"),
    [
        (torch.zeros(7, 5), B, "xyxy", "box_iou: boxes1 must be [..., N, 4], got [7, 5]"),
        (A, torch.zeros(4), "xyxy", "box_iou: boxes2 must be [..., M, 4], got [4]"),
        (
            A[None],
            B,
            "xyxy",
            "box_iou: boxes1 and boxes2 must have the same leading dimensions, got [1, 3, 4] and [2, 4]",
        ),
        (torch.zeros(2, 3, 4), torch.zeros(3, 3, 4), "xyxy", "same leading dimensions, got [2, 3, 4] and [3, 3, 4]"),
        (A, B, "yxyx", "box_iou: fmt must be 'xyxy', 'xywh' or 'cxcywh', got 'yxyx'"),
        (A.bool(), B, "xyxy", "box_iou: boxes1 must be a floating or integer tensor, got Bool"),
        (A, B.to(torch.complex64), "xyxy", "box_iou: boxes2 must be a floating or integer tensor, got ComplexFloat"),
    ],
)
def test_messages(a: Tensor, b: Tensor, fmt: str, message: str) -> None:
    with pytest.raises(RuntimeError) as error:
        box_iou(a, b, fmt)
    assert message in str(error.value)


@pytest.mark.gpu
def test_devices_must_agree() -> None:
    with pytest.raises(RuntimeError, match="boxes1 and boxes2 must be on one device, got cuda:0 and cpu"):
        box_iou(A.cuda(), B)
