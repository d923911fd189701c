"""box_iou beyond what every operator shares: numbers by hand, formats, batches, degenerate boxes, messages.

Where boxes are degenerate the rules are torchvision's (0.29.2, CPU): areas keep their sign, nothing is clamped but the
extent of the overlap, so that 0 / 0 is NaN.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pydet import reference
from pydet.ops import box_iof, box_iou, complete_box_iou, distance_box_iou, generalized_box_iou, set_backend
from pydet.reference.box_iou import overlap_and_union

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


FAMILY = (box_iou, generalized_box_iou, distance_box_iou, complete_box_iou, box_iof)
each_kind = pytest.mark.parametrize("function", FAMILY, ids=lambda f: f.__name__)
TURN = 4 / math.pi**2 * (math.atan(1) - math.atan(2)) ** 2  # a square and a box twice as wide


@pytest.mark.parametrize("dtype", [*FLOATING, torch.int64], ids=str)
@pytest.mark.parametrize(
    ("a", "b", "covered", "of_other"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1, 1),
        ((0, 0, 10, 10), (5, 0, 15, 20), 1 / 2, 1 / 4),
        ((2, 2, 4, 4), (0, 0, 8, 8), 1, 1 / 16),
        ((0, 0, 1, 1), (1, 0, 2, 1), 0, 0),
        ((5, 5, 5, 5), (0, 0, 10, 10), NAN, 0),  # a point has nothing to cover
    ],
)
def test_foreground_by_hand(a: tuple, b: tuple, covered: float, of_other: float, dtype: torch.dtype) -> None:
    x, y = boxes_of(a).to(dtype), boxes_of(*[b] * 19).to(dtype)
    first, second = box_iof(x, y), box_iof(y, x)
    torch.testing.assert_close(first, torch.full_like(first, covered), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(second, torch.full_like(second, of_other), rtol=0, atol=0)


@pytest.mark.parametrize("position", range(8))
def test_foreground_of_nan_is_nan(position: int) -> None:
    corners = [0.0, 0, 10, 10, 5, 5, 15, 15]
    corners[position] = NAN
    assert box_iof(boxes_of(tuple(corners[:4])), boxes_of(tuple(corners[4:]))).isnan().item()


def test_foreground_gradient_by_hand() -> None:
    """2 x 2 with half of it covered: d (1 x 2) / (w h) by the covering edge is 2 / 4; its own far edge enlarges it."""
    a = boxes_of((0, 0, 2, 2), dtype=torch.float64).requires_grad_()
    b = boxes_of((-1, -1, 1, 3), dtype=torch.float64).requires_grad_()
    of_a, of_b = torch.autograd.grad(box_iof(a, b).sum(), (a, b))
    assert of_b.tolist() == [[0, 0, 2 / 4, 0]]
    # x1 moves the overlap and the area: -2/4 + 2 * 2/16; x2 the area only: -2 * 2/16; y1, y2 cancel
    assert of_a.tolist() == [[-1 / 4, 0, -1 / 4, 0]]


@pytest.mark.parametrize("dtype", [*FLOATING, torch.int64], ids=str)
@pytest.mark.parametrize(
    ("a", "b", "iou", "hull_left", "distance", "turn"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1, 0, 0, 0),
        ((0, 0, 10, 10), (5, 0, 15, 10), 1 / 3, 0, 25 / 325, 0),
        ((0, 0, 10, 10), (0, 0, 20, 10), 1 / 2, 0, 25 / 500, TURN),
        ((0, 0, 1, 1), (2, 0, 3, 1), 0, 1 / 3, 4 / 10, 0),
        ((0, 0, 1, 1), (3, 3, 4, 4), 0, 14 / 16, 18 / 32, 0),
    ],
)
def test_kin_by_hand(
    a: tuple, b: tuple, iou: float, hull_left: float, distance: float, turn: float, dtype: torch.dtype
) -> None:
    """hull_left: what neither covers of the hull; distance: of the centres, over the diagonal, squared."""
    for x, y in ((boxes_of(a), boxes_of(b)), (boxes_of(b), boxes_of(a))):
        pair = x.to(dtype), y.to(dtype)
        assert generalized_box_iou(*pair).item() == pytest.approx(iou - hull_left, abs=1e-6)
        assert distance_box_iou(*pair).item() == pytest.approx(iou - distance, abs=1e-6)
        complete = iou - distance - (turn * turn / (1 - iou + turn) if turn else 0)
        assert complete_box_iou(*pair).item() == pytest.approx(complete, abs=1e-6)


@each_kind
def test_kin_symmetric_moved_and_scaled(function: Callable[..., Tensor]) -> None:
    generator = torch.Generator().manual_seed(4)
    a, b = (torch.rand(n, 4, generator=generator).double().cumsum(-1) * 50 for n in (40, 70))
    result = function(a, b)
    if function is not box_iof:
        assert torch.equal(result.T, function(b, a))
    torch.testing.assert_close(function(a + 300, b + 300), result, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(function(a * 8, b * 8), result, rtol=1e-8, atol=1e-9)  # but for eps
    torch.testing.assert_close(function(a, a).diagonal(), torch.ones(40).double())
    lower = -2 if function is complete_box_iou else -1
    assert result.min() >= lower
    assert result.max() <= 1 + 1e-12
    if function is box_iof:  # its divisor is part of the union
        assert (result >= box_iou(a, b) - 1e-12).all()
    else:  # a hull that is the union may round below it
        assert (result <= box_iou(a, b) + 1e-12).all()


@each_kind
def test_kin_batches_are_a_loop(function: Callable[..., Tensor]) -> None:
    generator = torch.Generator().manual_seed(5)
    a, b = (torch.rand(2, 3, n, 4, generator=generator).cumsum(-1).requires_grad_() for n in (5, 33))
    weight = torch.rand(2, 3, 5, 33, generator=generator)
    result = function(a, b)
    gradients = torch.autograd.grad(result, (a, b), weight)
    for i, j in itertools.product(range(2), range(3)):
        assert torch.equal(result[i, j], function(a[i, j], b[i, j]))
        entry = torch.autograd.grad(function(a[i, j], b[i, j]), (a, b), weight[i, j])
        assert torch.equal(entry[0][i, j], gradients[0][i, j])
        assert torch.equal(entry[1][i, j], gradients[1][i, j])


@each_kind
def test_kin_of_degenerate_boxes(function: Callable[..., Tensor]) -> None:
    rows = (5, 5, 5, 5), (10, 10, 0, 0), (10, 0, 0, 10), (3, 3, 3, 9), (0, 0, INF, 10), (0, NAN, 1, 1), (0, 0, 10, 10)
    boxes = boxes_of(*rows, *[(1, 2, 3, 4)] * 20, dtype=torch.float64)
    expected = getattr(reference, function.__name__)(boxes, boxes)
    torch.testing.assert_close(function(boxes, boxes), expected, equal_nan=True)


def test_an_infinite_generalized_iou_has_the_sign_of_the_union() -> None:
    """A hull without an area is 0, whether its sides are 0 or -0: (0 - union) / 0, of boxes turned inside out."""
    numbers = torch.tensor([-0.0, 0.0, 1.0, 2.0])
    boxes = torch.cartesian_prod(*[numbers] * 4)
    result = generalized_box_iou(boxes, boxes)
    torch.testing.assert_close(result, reference.generalized_box_iou(boxes, boxes), rtol=1e-6, atol=0, equal_nan=True)
    _, union = overlap_and_union(boxes[:, None], boxes[None])
    assert result.isinf().sum() > 1000
    assert torch.equal(result.isposinf(), result.isinf() & (union > 0))


def kin_inputs(n: int, m: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes on a coarse grid, so that many share a side, touch or are equal; a weight for each pair."""
    generator = torch.Generator().manual_seed(n + m)
    corner, size = (torch.randint(lo, hi, (n + m, 2), generator=generator) for lo, hi in ((0, 30), (1, 12)))
    boxes = torch.cat([corner, corner + size], dim=1).to(dtype)
    return boxes[:n].requires_grad_(), boxes[n:].requires_grad_(), torch.randn(n, m, generator=generator).to(dtype)


@each_kind
@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 16), (40, 17), (2, 1500), (300, 200), (0, 3), (3, 0)])
def test_kin_gradient_is_that_of_the_reference(function: Callable[..., Tensor], n: int, m: int) -> None:
    a, b, weight = kin_inputs(n, m)
    ours = torch.autograd.grad(function(a, b), (a, b), weight)
    theirs = torch.autograd.grad(getattr(reference, function.__name__)(a, b), (a, b), weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    (only_b,) = torch.autograd.grad(function(a.detach(), b), b, weight)
    assert torch.equal(only_b, ours[1])


@each_kind
def test_kin_gradient_in_other_dtypes_and_strides(function: Callable[..., Tensor]) -> None:
    a, b, weight = kin_inputs(100, 130)
    expected = torch.autograd.grad(function(a, b), (a, b), weight)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)):
        x, y = (t.detach().to(dtype).T.contiguous().T.requires_grad_() for t in (a, b))
        found = torch.autograd.grad(function(x, y), (x, y), weight.T.contiguous().T.float())
        for ours, exact in zip(found, expected, strict=True):
            assert ours.dtype == dtype
            torch.testing.assert_close(ours.double(), exact, rtol=tolerance, atol=tolerance)
    scalar = torch.autograd.grad(function(a, b).sum(), (a, b))  # an expanded gradient
    assert torch.equal(scalar[0], torch.autograd.grad(function(a, b), (a, b), torch.ones_like(weight))[0])


@each_kind
def test_kin_gradient_at_any_number_of_threads(function: Callable[..., Tensor]) -> None:
    a, b, weight = kin_inputs(700, 300, torch.float32)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(torch.autograd.grad(function(a, b), (a, b), weight))
    finally:
        torch.set_num_threads(threads)
    for ours in found[1:]:
        assert torch.equal(ours[0], found[0][0])
        assert torch.equal(ours[1], found[0][1])


@each_kind
def test_kin_second_derivative(function: Callable[..., Tensor]) -> None:
    generator = torch.Generator().manual_seed(6)
    a, b = (torch.rand(n, 4, generator=generator).double().cumsum(-1).requires_grad_() for n in (3, 4))
    weight = torch.rand(3, 4, generator=generator).double().requires_grad_()
    found = []
    for f in (function, getattr(reference, function.__name__)):
        first = torch.autograd.grad(f(a, b), (a, b), weight, create_graph=True)
        found.append(torch.autograd.grad(sum((g**2).sum() for g in first), (a, b, weight)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


@each_kind
def test_kin_pairs_without_a_gradient_do_not_spoil_one(function: Callable[..., Tensor]) -> None:
    """torchvision's gradient is NaN here: 0 times the derivative of 0 / 0."""
    a = boxes_of((0, 0, 10, 10), (5, 5, 5, 5), dtype=torch.float64).requires_grad_()
    b = boxes_of((5, 0, 15, 12), (5, 5, 5, 5), dtype=torch.float64)
    matrix = function(a, b)
    assert matrix[1, 1].isnan()
    (gradient,) = torch.autograd.grad(torch.where(matrix.isnan(), 0, matrix).sum(), a)
    assert gradient.isfinite().all()
    assert gradient[0].any()


@each_kind
def test_kin_reference_backend_also_serves_the_gradient(function: Callable[..., Tensor]) -> None:
    a, b, weight = kin_inputs(5, 7)
    ours = torch.autograd.grad(function(a, b), (a, b), weight)
    with set_backend("reference"):
        theirs = torch.autograd.grad(function(a, b), (a, b), weight)
    torch.testing.assert_close(ours, theirs)


def test_kin_eps() -> None:
    a, b = boxes_of((0, 0, 10, 10)), boxes_of((0, 0, 20, 10))
    assert distance_box_iou(a, b, eps=500.0).item() == pytest.approx(0.5 - 25 / 1000)
    expected = 0.5 - 25 / 501 - TURN * TURN / (1.5 + TURN)
    assert complete_box_iou(a, b, eps=1.0).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("function", FAMILY[1:], ids=lambda f: f.__name__)
def test_kin_messages(function: Callable[..., Tensor]) -> None:
    name = function.__name__
    with pytest.raises(RuntimeError, match=rf"{name}: boxes1 must be \[..., N, 4\], got \[7, 5\]"):
        function(torch.zeros(7, 5), B)
    with pytest.raises(RuntimeError, match=rf"{name}: boxes1 and boxes2 must have the same leading dimensions"):
        function(A[None], B)
    with pytest.raises(RuntimeError, match=rf"{name}: boxes2 must be a floating or integer tensor, got Bool"):
        function(A, B.bool())


def test_a_result_that_no_memory_has_room_for() -> None:
    """In the words of torch, by which programs know that they may try again with less. 2^47 bytes have no addresses."""
    boxes = torch.zeros(6_000_000, 4)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        box_iou(boxes, boxes)
