"""mmcv's call forms: numbers by hand, definitions written out, and mmcv itself where it is installed."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from op_cases import clustered_boxes

from pydet import ops
from pydet.ops import mmcv

# 10 pixels wide each where x2 is the last pixel, 5 x 10 of them shared: IoU 50 / 150. Else 36 / 126.
PAIR = torch.tensor([[0.0, 0, 9, 9], [5, 0, 14, 9]])
SCORES = torch.tensor([0.5, 0.9])


def inputs(n: int = 400) -> tuple[Any, Any, Any]:
    g = torch.Generator().manual_seed(0)
    return clustered_boxes(n, g), torch.rand(n, generator=g), torch.randint(0, 7, (n,), generator=g)


def test_nms_returns_detections_and_indices() -> None:
    dets, inds = mmcv.nms(PAIR, SCORES, 0.3)
    assert dets.tolist() == [[5, 0, 14, 9, pytest.approx(0.9)], [0, 0, 9, 9, 0.5]]
    assert inds.tolist() == [1, 0]


@pytest.mark.parametrize(("offset", "kept"), [(0, [1, 0]), (1, [1])])
def test_offset_counts_the_last_pixel(offset: int, kept: list[int]) -> None:
    assert mmcv.nms(PAIR, SCORES, 0.3, offset=offset)[1].tolist() == kept
    labels = torch.zeros(2, dtype=torch.int64)
    assert mmcv.batched_nms(PAIR, SCORES, labels, {"iou_threshold": 0.3, "offset": offset})[1].tolist() == kept


def test_score_threshold_and_max_num() -> None:
    boxes, scores, _ = inputs()
    everything = mmcv.nms(boxes, scores, 0.5)[1]
    above = everything[scores[everything] > 0.4]
    assert 0 < len(above) < len(everything)
    assert torch.equal(mmcv.nms(boxes, scores, 0.5, score_threshold=0.4)[1], above)
    assert torch.equal(mmcv.nms(boxes, scores, 0.5, 0, 0.4, 3)[1], above[:3])


def test_iou_thr_is_the_older_name() -> None:
    """mmcv: @deprecated_api_warning({"iou_thr": "iou_threshold"})."""
    boxes, scores, labels = inputs()
    for function in (mmcv.nms, mmcv.soft_nms):
        for ours, expected in zip(function(boxes, scores, iou_thr=0.45), function(boxes, scores, 0.45), strict=True):
            assert torch.equal(ours, expected)
        with pytest.raises(TypeError, match=f"^{function.__name__}: iou_thr is an older name .* only one of them"):
            function(boxes, scores, 0.5, iou_thr=0.5)
        with pytest.raises(TypeError, match="only one of them may be given"):
            function(boxes, scores, iou_threshold=0.5, iou_thr=0.5)
    with pytest.raises(TypeError, match=r"^batched_nms: .* only one of them may be given"):
        mmcv.batched_nms(boxes, scores, labels, {"iou_thr": 0.5, "iou_threshold": 0.5})
    soft = {"type": "soft_nms", "min_score": 0.05}
    ours, expected = (mmcv.batched_nms(boxes, scores, labels, soft | {k: 0.4}) for k in ("iou_thr", "iou_threshold"))
    assert torch.equal(ours[0], expected[0])


def test_numpy_in_numpy_out() -> None:
    boxes, scores, _ = inputs()
    for name in ("nms", "soft_nms"):
        dets, inds = getattr(mmcv, name)(boxes.numpy(), scores.numpy(), 0.5)
        expected = getattr(mmcv, name)(boxes, scores, 0.5)
        assert isinstance(dets, np.ndarray)
        assert isinstance(inds, np.ndarray)
        assert np.array_equal(dets, expected[0].numpy())
        assert np.array_equal(inds, expected[1].numpy())


def test_batched_nms_is_nms_of_each_class() -> None:
    boxes, scores, labels = inputs()
    dets, keep = mmcv.batched_nms(boxes, scores, labels, {"type": "nms", "iou_thr": 0.5, "split_thr": 100})
    by_class = [torch.nonzero(labels == c)[:, 0] for c in range(7)]
    expected = torch.cat([own[ops.nms(boxes[own], scores[own], 0.5)] for own in by_class])
    assert sorted(keep.tolist()) == sorted(expected.tolist())
    assert torch.equal(dets, torch.cat([boxes[keep], scores[keep, None]], dim=1))
    assert torch.equal(dets[:, 4], dets[:, 4].sort(descending=True).values)


@pytest.mark.parametrize("agnostic", [{"class_agnostic": True}, {}])
def test_batched_nms_over_all_classes(agnostic: dict[str, bool]) -> None:
    boxes, scores, labels = inputs()
    cfg = {"iou_threshold": 0.5, "max_num": 9, **agnostic}
    keep = mmcv.batched_nms(boxes, scores, labels, cfg, class_agnostic=not agnostic)[1]
    assert torch.equal(keep, ops.nms(boxes, scores, 0.5)[:9])
    assert cfg == {"iou_threshold": 0.5, "max_num": 9, **agnostic}


def test_batched_nms_without_a_configuration_sorts() -> None:
    boxes, scores, labels = inputs(9)
    dets, keep = mmcv.batched_nms(boxes, scores, labels, None)
    assert torch.equal(keep, scores.argsort(descending=True))
    assert torch.equal(dets[:, :4], boxes[keep])


def test_batched_soft_nms_is_soft_nms_of_boxes_far_apart() -> None:
    """mmcv's own definition: soft_nms of boxes that an offset for each class has moved apart."""
    boxes, scores, labels = inputs()
    cfg = {"type": "soft_nms", "iou_threshold": 0.3, "method": "gaussian", "min_score": 0.05}
    dets, keep = mmcv.batched_nms(boxes, scores, labels, cfg)
    apart = boxes.double() + 4096 * labels[:, None]
    expected, inds = ops.soft_nms(apart, scores, 0.3, 0.5, 0.05, "gaussian")
    assert torch.equal(keep, inds)
    torch.testing.assert_close(dets[:, 4], expected[:, 4].float(), rtol=1e-5, atol=1e-7)
    assert mmcv.batched_nms(boxes, scores, labels, cfg | {"max_num": 5})[1].tolist() == keep[:5].tolist()


def test_batched_soft_nms_leaves_one_box_whatever_its_score() -> None:
    labels = torch.tensor([0, 1])
    assert mmcv.batched_nms(PAIR, SCORES / 1e6, labels, {"type": "soft_nms"})[1].tolist() == [1]


def focal_by_definition(x: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Lin et al. 2017, equation 5, gamma 2 and alpha 0.25."""
    labels = F.one_hot(classes, x.shape[1] + 1)[:, :-1].double()
    p = x.double().sigmoid()
    p_t, alpha_t = torch.where(labels > 0, p, 1 - p), torch.where(labels > 0, 0.25, 0.75)
    return -alpha_t * (1 - p_t) ** 2 * p_t.log()


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_sigmoid_focal_loss(reduction: str) -> None:
    g = torch.Generator().manual_seed(1)
    x, classes = torch.randn(50, 4, generator=g, requires_grad=True), torch.randint(0, 5, (50,), generator=g)
    weight = torch.tensor([1.0, 2, 3, 4])
    reduce = {"none": lambda t: t, "mean": lambda t: t.sum() / 50, "sum": torch.Tensor.sum}[reduction]
    plain = focal_by_definition(x, classes)
    for w, rows in ((None, 1.0), (weight, torch.tensor([1.0, 2, 3, 4, 1])[classes][:, None])):
        loss, expected = mmcv.sigmoid_focal_loss(x, classes, 2.0, 0.25, w, reduction), reduce(plain * rows)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-7)
        ours, theirs = (torch.autograd.grad(t.sum(), x, retain_graph=True)[0] for t in (loss, expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_softmax_focal_loss_is_the_operator() -> None:
    x = torch.tensor([[0.0, 0.0]])
    loss = mmcv.softmax_focal_loss(x, torch.tensor([1]), gamma=2.0, alpha=0.25, reduction="none")
    torch.testing.assert_close(loss, 0.25 * 0.5**2 * torch.log(torch.tensor([2.0])))


def test_bbox_overlaps() -> None:
    """An area of 100, of which half lies in a box of 200."""
    first, second = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[0.0, 5, 10, 25], [20, 20, 30, 30]])
    assert mmcv.bbox_overlaps(first, second).tolist() == [[pytest.approx(0.2), 0]]
    assert mmcv.bbox_overlaps(first, second, mode="iof").tolist() == [[0.5, 0]]
    assert mmcv.bbox_overlaps(second, first, "iof").tolist() == [[0.25], [0]]
    assert mmcv.bbox_overlaps(first, second[:1], aligned=True).tolist() == [pytest.approx(0.2)]
    assert mmcv.bbox_overlaps(PAIR[:1], PAIR[1:], offset=1).item() == pytest.approx(1 / 3)
    assert mmcv.bbox_overlaps(first[:0], second).shape == (0, 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mmcv.nms(PAIR, SCORES, 0.5, offset=2), RuntimeError, "nms: offset must be 0 or 1, got 2"),
        (lambda: mmcv.nms(PAIR[:, :3], SCORES, 0.5), RuntimeError, r"nms: boxes must be \[N, 4\], got \[2, 3\]"),
        (lambda: mmcv.bbox_overlaps(PAIR, PAIR, "giou"), RuntimeError, "mode must be 'iou' or 'iof', got 'giou'"),
        (
            lambda: mmcv.batched_nms(PAIR, SCORES, SCORES, {"type": "eval", "iou_threshold": 0.5}),
            ValueError,
            "type'\\] must be 'nms' or 'soft_nms', got 'eval'",
        ),
        (
            lambda: mmcv.batched_nms(PAIR, SCORES, SCORES, {"sigma": 1}),
            ValueError,
            "nms_cfg for nms may have .* 'sigma'",
        ),
        (lambda: mmcv.batched_nms(PAIR, SCORES, SCORES, {}), ValueError, "must have an 'iou_threshold'"),
        (
            lambda: mmcv.sigmoid_focal_loss(PAIR, torch.tensor([0, 1]), weight=torch.ones(3)),
            RuntimeError,
            r"weight must be \[C\] with C = 4, got \[3\]",
        ),
    ],
)
def test_bad_input(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.skipif(importlib.util.find_spec("mmcv") is None, reason="mmcv is not installed")
def test_equals_mmcv() -> None:
    theirs = importlib.import_module("mmcv.ops")
    boxes, scores, labels = inputs()
    for name, args in (
        ("nms", (boxes, scores, 0.5, 1, 0.2, 20)),
        ("batched_nms", (boxes, scores, labels, {"type": "nms", "iou_threshold": 0.5})),
        ("bbox_overlaps", (boxes[:50], boxes[50:], "iof", False, 1)),
    ):
        torch.testing.assert_close(getattr(mmcv, name)(*args), getattr(theirs, name)(*args))
