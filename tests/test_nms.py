from __future__ import annotations

import math

import pytest
import torch
from op_cases import clustered_boxes, random_boxes
from torch import Tensor

from pydet import ops, reference

INF, NAN = float("inf"), float("nan")


def kept(boxes: list[list[float]], scores: list[float], threshold: float = 0.5) -> list[int]:
    return ops.nms(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(scores), threshold).tolist()


def test_worked_by_hand() -> None:
    # Box 1 covers 80 of the 100 pixels of box 0 and no others: IoU 0.8. Box 2 is elsewhere.
    boxes = [[0, 0, 10, 10], [0, 0, 10, 8], [20, 20, 30, 30]]
    assert kept(boxes, [0.9, 0.8, 0.7], 0.5) == [0, 2]
    assert kept(boxes, [0.8, 0.9, 0.95], 0.5) == [2, 1]
    assert kept(boxes, [0.9, 0.8, 0.7], 0.85) == [0, 1, 2]


def test_suppressed_boxes_do_not_suppress() -> None:
    # A chain: each overlaps the next by 5/7 = 0.71, every second one by 4/8 = 0.5.
    boxes = [[float(i), 0, float(i) + 6, 1] for i in range(3)]
    assert kept(boxes, [0.9, 0.8, 0.7], 0.6) == [0, 2]


def test_iou_equal_to_the_threshold_is_kept() -> None:
    boxes = [[0, 0, 4, 1], [0, 0, 2, 1]]  # IoU 0.5, exactly
    assert kept(boxes, [0.9, 0.8], 0.5) == [0, 1]
    assert kept(boxes, [0.9, 0.8], math.nextafter(0.5, 0)) == [0]


def test_threshold_is_compared_in_double() -> None:
    boxes = [[0, 0, 10, 1], [0, 0, 1, 1]]  # IoU is float32(0.1), which is above the double 0.1
    assert kept(boxes, [0.9, 0.8], 0.1) == [0]
    assert ops.nms(torch.tensor(boxes, dtype=torch.float64), torch.tensor([0.9, 0.8]), 0.1).tolist() == [0, 1]


def test_equal_scores_keep_the_order_of_the_input() -> None:
    far = [[20.0 * i, 0, 20.0 * i + 10, 10] for i in range(400)]
    assert kept(far, [0.5] * 400) == list(range(400))
    assert kept([[0, 0, 1, 1]] * 300, [0.5] * 300) == [0]
    assert kept(far[:3], [0.0, -0.0, 0.0]) == [0, 1, 2]


def test_nan_scores_sort_first_and_suppress() -> None:
    same = [[0, 0, 10, 10]] * 3
    assert kept(same, [0.9, NAN, INF]) == [1]
    assert kept([[20.0 * i, 0, 20.0 * i + 1, 1] for i in range(4)], [-INF, 1, NAN, NAN]) == [2, 3, 1, 0]


@pytest.mark.parametrize(
    "box",
    [
        pytest.param([5, 5, 5, 5], id="a point"),
        pytest.param([9, 9, 1, 1], id="doubly inverted"),
        pytest.param([9, 1, 1, 9], id="inverted"),
        pytest.param([NAN, 0, 10, 10], id="nan"),
        pytest.param([0, 0, INF, 10], id="infinite"),
    ],
)
def test_degenerate_boxes_neither_suppress_nor_fall(box: list[float]) -> None:
    ordinary = [0, 0, 10, 10]
    assert kept([box, box, ordinary, ordinary], [0.9, 0.8, 0.7, 0.6]) == [0, 1, 2]


@pytest.mark.parametrize("size", [1e-20, 1e-12, 1e-3, 1.0, 1e6, 1e12, 3e18])
def test_any_scale_of_the_boxes(size: float) -> None:
    """Areas of 1e-40 (denormal) to 9e36: the fast path hands over to the definition where a product could overflow."""
    g = torch.Generator().manual_seed(3)
    boxes = clustered_boxes(400, g) / 640 * size
    scores = torch.rand(400, generator=g)
    assert torch.equal(ops.nms(boxes, scores, 0.5), reference.nms(boxes, scores, 0.5))


def scattered_and_clustered(n: int, seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    boxes = torch.cat([clustered_boxes(n // 2, g), random_boxes(n - n // 2, g, size=15.0 * n**0.5)])
    return boxes, torch.rand(n, generator=g)


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 1e-6, 0.01, 0.1, 0.3, 0.45, 0.5, 0.7, 0.9, 0.999, 1.0, 2.0, INF])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_any_threshold(threshold: float, dtype: torch.dtype) -> None:
    boxes, scores = scattered_and_clustered(700, seed=1)
    boxes = boxes.to(dtype)
    assert torch.equal(ops.nms(boxes, scores, threshold), reference.nms(boxes, scores, threshold))


@pytest.mark.parametrize("seed", range(12))
def test_boxes_of_very_different_sizes_and_shapes(seed: int) -> None:
    """Where a grid could go wrong: sizes over six decades, slivers, negative and far coordinates, duplicates."""
    g = torch.Generator().manual_seed(seed)
    n = 900
    centre = torch.randn(n, 2, generator=g) * 10 ** (torch.rand(1, generator=g) * 4)
    extent = 10 ** (torch.rand(n, 2, generator=g) * 6 - 3)
    boxes = torch.cat([centre - extent / 2, centre + extent / 2], dim=1)
    boxes = torch.cat([boxes, boxes[: n // 2] * 1.02 + 0.01, boxes[: n // 4]])
    scores = torch.rand(len(boxes), generator=g)
    threshold = [0.05, 0.2, 0.5, 0.8][seed % 4]
    assert torch.equal(ops.nms(boxes, scores, threshold), reference.nms(boxes, scores, threshold))


def test_far_from_the_origin() -> None:
    """Near 1e7 a float32 pixel has no fraction: centres round, boxes do not."""
    g = torch.Generator().manual_seed(0)
    boxes = (clustered_boxes(800, g) + 1e7).round()
    scores = torch.rand(800, generator=g)
    assert torch.equal(ops.nms(boxes, scores, 0.5), reference.nms(boxes, scores, 0.5))


def outermost_pairs(inner: float, outer: float, shift: float) -> Tensor:
    """[4000, 4]: 2,000 boxes of `outer` x 10, far apart, each followed by one of `inner` x 10 at one of its ends.

    Nothing with the same IoU has its centre farther from the other's.
    """
    g = torch.Generator().manual_seed(0)
    start = torch.arange(2000) * 97.0 + torch.randint(8, (2000,), generator=g)
    at_end = torch.rand(2000, generator=g) < 0.5
    inner_start = start + at_end * (outer - inner)
    across = torch.randint(5000, (2000,), generator=g).float()
    outer_boxes = torch.stack([start, across, start + outer, across + 10], dim=1)
    inner_boxes = torch.stack([inner_start, across, inner_start + inner, across + 10], dim=1)
    turned = torch.rand(2000, generator=g) < 0.5
    boxes = torch.stack([outer_boxes, inner_boxes], dim=1)
    boxes[turned] = boxes[turned][..., [1, 0, 3, 2]]
    return boxes.flatten(0, 1) + shift


@pytest.mark.parametrize("shift", [0.0, -1e5, 1e7])
@pytest.mark.parametrize(("inner", "outer"), [(9, 79), (9, 29), (9, 19), (9, 17), (9, 13), (27, 29)])
def test_the_centre_of_what_suppresses_may_be_this_far(inner: float, outer: float, shift: float) -> None:
    """The inner box covers inner / outer of the outer one. Near 1e7 centres of odd widths are rounded."""
    boxes = outermost_pairs(inner, outer, shift)
    scores = torch.arange(4000.0, 0, -1)
    assert torch.equal(ops.nms(boxes, scores, 0.998 * inner / outer), torch.arange(0, 4000, 2))
    assert torch.equal(ops.nms(boxes, scores, 1.002 * inner / outer), torch.arange(4000))
    assert torch.equal(ops.nms(boxes, scores.flip(0), 0.998 * inner / outer), torch.arange(3999, 0, -2))


def test_half_precision_does_not_overflow() -> None:
    boxes = torch.tensor([[0, 0, 600, 600], [0, 0, 600, 590]], dtype=torch.float16)  # areas beyond 65,504
    assert ops.nms(boxes, torch.tensor([0.9, 0.8], dtype=torch.float16), 0.5).tolist() == [0]


def test_a_million_boxes() -> None:
    g = torch.Generator().manual_seed(0)
    boxes = random_boxes(1_000_000, g, size=40_000.0)
    scores = torch.rand(1_000_000, generator=g)
    keep = ops.nms(boxes, scores, 0.5)
    assert torch.all(scores[keep][:-1] >= scores[keep][1:])
    # What is kept among the boxes of one corner cannot depend on those far away.
    corner = torch.nonzero((boxes[:, :2] < 1500).all(dim=1))[:, 0]
    alone = corner[ops.nms(boxes[corner], scores[corner], 0.5)]
    inner = boxes[alone].amax(dim=1) < 1000
    assert torch.isin(alone[inner], keep).all()


@pytest.mark.parametrize(
    ("boxes", "scores", "threshold", "message"),
    [
        (torch.zeros(7, 5), torch.zeros(7), 0.5, r"nms: boxes must be \[N, 4\], got \[7, 5\]"),
        (torch.zeros(4), torch.zeros(1), 0.5, r"nms: boxes must be \[N, 4\], got \[4\]"),
        (torch.zeros(7, 4), torch.zeros(6), 0.5, r"nms: scores must be \[N\] with N = 7 as in boxes, got \[6\]"),
        (torch.zeros(7, 4), torch.zeros(7, 1), 0.5, r"nms: scores must be \[N\] with N = 7 as in boxes, got \[7, 1\]"),
        (torch.zeros(7, 4, dtype=torch.int64), torch.zeros(7), 0.5, "nms: boxes must be a floating tensor, got Long"),
        (torch.zeros(7, 4), torch.zeros(7, dtype=torch.bool), 0.5, "nms: scores must be a floating tensor, got Bool"),
        (torch.zeros(7, 4), torch.zeros(7), NAN, "nms: iou_threshold must be a number, got nan"),
    ],
)
def test_bad_input(boxes: Tensor, scores: Tensor, threshold: float, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        ops.nms(boxes, scores, threshold)
