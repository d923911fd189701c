from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from op_cases import clustered_boxes, random_boxes
from torch import Tensor

from pydet import ops, reference

NAN, INF = float("nan"), float("inf")
METHODS = ("linear", "gaussian", "naive")


def test_worked_by_hand() -> None:
    # Boxes 0 and 1 have an IoU of 0.8, boxes 0 and 2 one of 0.25, boxes 1 and 2 one of 25 / 80.
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 5, 5]])
    scores = torch.tensor([0.9, 0.8, 0.5])
    dets, inds = ops.soft_nms(boxes, scores)
    assert inds.tolist() == [0, 2, 1]
    # 2: IoU 0.25 < 0.3 with box 0, stays 0.5; 1: 0.8 * (1 - 0.8), then 1 - 25 / 80 beside box 2.
    torch.testing.assert_close(dets[:, 4], torch.tensor([0.9, 0.5, 0.16 * (1 - 0.3125)]))
    assert torch.equal(dets[:, :4], boxes[inds])

    dets, inds = ops.soft_nms(boxes, scores, method="gaussian", sigma=0.5)
    assert inds.tolist() == [0, 2, 1]
    by_first = 0.5 * math.exp(-(0.25**2) / 0.5), 0.8 * math.exp(-(0.8**2) / 0.5)
    torch.testing.assert_close(dets[:, 4], torch.tensor([0.9, by_first[0], by_first[1] * math.exp(-(0.3125**2) / 0.5)]))

    assert ops.soft_nms(boxes, scores, method="naive")[1].tolist() == [0, 2]
    assert ops.soft_nms(boxes, scores, min_score=0.2)[1].tolist() == [0, 2]


def test_an_iou_equal_to_the_threshold_lowers_the_score() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 1], [0, 0, 2, 1]])  # IoU 0.5, exactly: nms would keep the second one
    assert ops.soft_nms(boxes, torch.tensor([0.9, 0.8]), 0.5, method="naive")[1].tolist() == [0]
    assert ops.soft_nms(boxes, torch.tensor([0.9, 0.8]), 0.5)[0][1, 4] == 0.4


def test_offset_counts_the_last_pixel() -> None:
    boxes = torch.tensor([[0.0, 0, 3, 0], [0, 0, 1, 0]])  # without area, or with offset 1: 4 x 1 and 2 x 1 pixels
    scores = torch.tensor([0.9, 0.8])
    assert torch.equal(ops.soft_nms(boxes, scores)[0][:, 4], scores)
    torch.testing.assert_close(ops.soft_nms(boxes, scores, offset=1)[0][:, 4], torch.tensor([0.9, 0.4]))


def test_the_best_box_stays_whatever_its_score() -> None:
    far = torch.tensor([[0.0, 0, 1, 1], [9, 9, 10, 10]])
    assert ops.soft_nms(far, torch.tensor([1e-5, 1e-4]))[1].tolist() == [1]
    assert ops.soft_nms(far, torch.tensor([-INF, -INF]))[1].tolist() == [0]


def test_naive_is_nms_of_boxes_above_the_least_score() -> None:
    g = torch.Generator().manual_seed(0)
    boxes, scores = clustered_boxes(3000, g), torch.rand(3000, generator=g) + 0.01
    dets, inds = ops.soft_nms(boxes, scores, 0.5, method="naive")
    assert torch.equal(inds, ops.nms(boxes, scores, 0.5))
    assert torch.equal(dets, torch.cat([boxes[inds], scores[inds, None]], dim=1))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("n", [1, 15, 16, 17, 33, 500])
def test_every_method(method: str, dtype: torch.dtype, n: int) -> None:
    g = torch.Generator().manual_seed(n)
    boxes = torch.cat([clustered_boxes(n // 2, g), random_boxes(n - n // 2, g)]).to(dtype)
    scores = torch.rand(n, generator=g).to(dtype)
    for offset, least in ((0, 1e-3), (1, 0.2)):
        args = boxes, scores, 0.3, 0.5, least, method, offset
        dets, inds = ops.soft_nms(*args)
        expected, expected_inds = reference.soft_nms(*args)
        assert torch.equal(inds, expected_inds)
        torch.testing.assert_close(dets, expected, rtol=2e-5 if method == "gaussian" else 0, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_nan_infinite_and_equal_scores_and_degenerate_boxes(method: str) -> None:
    g = torch.Generator().manual_seed(0)
    boxes, scores = clustered_boxes(200, g), (torch.rand(200, generator=g) * 10).round() / 10
    boxes[::11, 2:] = boxes[::11, :2]  # points
    boxes[1::13, 0] = NAN
    scores[::17], scores[3::29], scores[4::31] = NAN, INF, -INF
    dets, inds = ops.soft_nms(boxes, scores, method=method)
    expected, expected_inds = reference.soft_nms(boxes, scores, method=method)
    assert inds[: int(scores.isnan().sum())].unique().numel() == int(scores.isnan().sum())
    assert torch.equal(inds, expected_inds)
    torch.testing.assert_close(dets, expected, rtol=1e-5, atol=0, equal_nan=True)


def test_least_score_of_zero_or_less_keeps_every_box() -> None:
    g = torch.Generator().manual_seed(0)
    boxes, scores = clustered_boxes(300, g), torch.rand(300, generator=g)
    for least in (0.0, -1.0, -INF):
        dets, inds = ops.soft_nms(boxes, scores, min_score=least, method="naive")
        assert sorted(inds.tolist()) == list(range(300))
        assert torch.all(dets[:-1, 4] >= dets[1:, 4])


BOXES, SCORES = torch.zeros(7, 4), torch.zeros(7)


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((torch.zeros(7, 5), SCORES), {}, r"boxes must be \[N, 4\], got \[7, 5\]"),
        ((BOXES, torch.zeros(6)), {}, r"scores must be \[N\] with N = 7 as in boxes, got \[6\]"),
        ((BOXES, SCORES), {"method": "soft"}, "method must be 'naive', 'linear' or 'gaussian', got 'soft'"),
        ((BOXES, SCORES), {"sigma": 0.0}, "sigma must be positive, got 0"),
        ((BOXES, SCORES), {"min_score": NAN}, "min_score must be a number, got nan"),
        ((BOXES, SCORES), {"iou_threshold": NAN}, "iou_threshold must be a number, got nan"),
        ((BOXES, SCORES), {"offset": 2}, "offset must be 0 or 1, got 2"),
    ],
)
def test_bad_input(args: tuple[Tensor, Tensor], options: dict[str, Any], message: str) -> None:
    with pytest.raises(RuntimeError, match="soft_nms: " + message):
        ops.soft_nms(*args, **options)
