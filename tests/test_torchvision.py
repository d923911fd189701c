"""torchvision as the oracle, on thousands of inputs drawn at random: sizes, dtypes, layouts, degenerate boxes.

Where torchvision is known to be wrong the test says so, and what it should give is worked out from its other functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from random_inputs import LAYOUTS, SEEDS, boxes, distinct_scores, generator, laid_out, near, same
from torch import Tensor

from pydet import ops

torchvision = pytest.importorskip("torchvision", reason="the oracle, torchvision, is not installed: make oracle")
theirs = torchvision.ops


def given(*strategies: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """hypothesis.given with four times as many examples as elsewhere."""
    many = hypothesis.settings(max_examples=4 * hypothesis.settings().max_examples)
    return lambda test: many(hypothesis.given(*strategies)(test))


THRESHOLDS = st.sampled_from([-0.5, 0.0, 0.1, 0.3, 0.45, 0.5, 0.7, 0.95, 1.0])
WIDE = st.sampled_from([torch.float32, torch.float64])
EXACT = ("box_iou", "generalized_box_iou")
CLOSE = ("distance_box_iou", "complete_box_iou")
LOSSES = ("generalized_box_iou_loss", "distance_box_iou_loss", "complete_box_iou_loss")
REDUCTIONS = st.sampled_from(["none", "mean", "sum"])


def loop_over_the_classes(found: Tensor, scores: Tensor, idxs: Tensor, threshold: float) -> Tensor:
    """What batched_nms means: torchvision's `nms` on each class."""
    members = [torch.nonzero(idxs == label)[:, 0] for label in idxs.unique()]
    kept = [m[theirs.nms(found[m], scores[m], threshold)] for m in members]
    indices = torch.cat([idxs.new_zeros(0), *kept])
    return indices[scores[indices].sort(descending=True).indices]


@given(boxes(most=150, odd=True), SEEDS, THRESHOLDS, WIDE, LAYOUTS)
def test_nms(found: Tensor, seed: int, threshold: float, dtype: torch.dtype, layout: str) -> None:
    """Equal scores, NaN scores and odd boxes; torchvision has no half precision here."""
    scores = (torch.rand(len(found), generator=generator(seed)) * 20).round() / 20
    scores[scores == 0.35] = torch.nan
    found, scores = laid_out(found.to(dtype), layout), laid_out(scores.to(dtype), layout)
    assert torch.equal(ops.nms(found, scores, threshold), theirs.nms(found, scores, threshold))


@given(boxes(most=150), SEEDS, THRESHOLDS, st.integers(1, 12), LAYOUTS)
def test_batched_nms(found: Tensor, seed: int, threshold: float, classes: int, layout: str) -> None:
    """Against a loop: for up to 1,000 boxes torchvision adds offsets to the coordinates instead, which round."""
    g = generator(seed)
    scores, idxs = distinct_scores(len(found), g), torch.randint(-2, classes, (len(found),), generator=g)
    ours = ops.batched_nms(laid_out(found, layout), laid_out(scores, layout), laid_out(idxs, layout), threshold)
    assert torch.equal(ours, loop_over_the_classes(found, scores, idxs, threshold))


@given(SEEDS, st.integers(0, 100), st.integers(1, 12))
def test_batched_nms_where_offsets_are_exact(seed: int, n: int, classes: int) -> None:
    """Whole numbers, none of them negative: torchvision's own function."""
    g = generator(seed)
    corner = torch.randint(0, 100, (n, 2), generator=g).float()
    found = torch.cat([corner, corner + torch.randint(1, 50, (n, 2), generator=g)], dim=1)
    scores, idxs = distinct_scores(n, g), torch.randint(classes, (n,), generator=g)
    assert torch.equal(ops.batched_nms(found, scores, idxs, 0.5), theirs.batched_nms(found, scores, idxs, 0.5))


def test_batched_nms_where_torchvisions_offsets_fail() -> None:
    """Boxes left of the origin: class 1 is moved by 1 + the largest coordinate, -9, and lands on class 0."""
    found = torch.tensor([[-20.0, -20, -10, -10], [-12.0, -12, -2, -2]]) - 7
    scores, idxs = torch.tensor([0.9, 0.8]), torch.tensor([0, 1])
    assert loop_over_the_classes(found, scores, idxs, 0.5).tolist() == [0, 1]
    assert ops.batched_nms(found, scores, idxs, 0.5).tolist() == [0, 1]
    assert theirs.batched_nms(found, scores, idxs, 0.5).tolist() == [0]


@pytest.mark.parametrize("name", EXACT + CLOSE)
@given(boxes(odd=True), boxes(odd=True), WIDE, LAYOUTS)
def test_iou(name: str, first: Tensor, second: Tensor, dtype: torch.dtype, layout: str) -> None:
    first, second = laid_out(first.to(dtype), layout), second.to(dtype)
    check = same if name in EXACT else near
    check(getattr(ops, name)(first, second), getattr(theirs, name)(first, second))


@given(boxes(), boxes(), st.sampled_from(["xyxy", "xywh", "cxcywh"]), st.integers(1, 3))
def test_iou_in_other_formats_and_batches(first: Tensor, second: Tensor, fmt: str, batch: int) -> None:
    """Areas are w * h in torchvision, those of the corners here; of two dtypes we compute all in the wider one."""
    first, second = torch.stack([first] * batch), torch.stack([second + i for i in range(batch)])
    check = same if fmt == "xyxy" else near
    check(ops.box_iou(first, second, fmt), theirs.box_iou(first, second, fmt))
    near(ops.box_iou(first, second.double()), theirs.box_iou(first.double(), second.double()))
    near(ops.box_iou(first, second.double()), theirs.box_iou(first, second.double()))


@given(boxes(), boxes(), st.sampled_from([torch.float16, torch.bfloat16, torch.uint8, torch.int16, torch.int32]))
def test_iou_of_half_precision_and_integers(first: Tensor, second: Tensor, dtype: torch.dtype) -> None:
    """torchvision subtracts in half precision, which rounds: ours is what it gives for the same boxes in float32."""
    first, second = (b.clamp(min=0, max=250).to(dtype) for b in (first, second))
    same(ops.box_iou(first, second), theirs.box_iou(first.float(), second.float()))


def gradients(function: Callable[..., Tensor], weight_seed: int, *args: Any) -> tuple[Tensor, ...]:
    """Result and its gradients, for a random upstream gradient."""
    leaves = [a.detach().clone().requires_grad_() for a in args if isinstance(a, Tensor) and a.is_floating_point()]
    rest = [a for a in args if not (isinstance(a, Tensor) and a.is_floating_point())]
    result = function(*leaves, *rest)
    upstream = torch.rand(result.shape, generator=generator(weight_seed), dtype=torch.float64).to(result.dtype)
    found = torch.autograd.grad(result, leaves, upstream, allow_unused=True)
    return result, *(torch.zeros(()) if f is None else f for f in found)


@pytest.mark.parametrize("name", EXACT + CLOSE)
@given(boxes(most=20), boxes(most=20), SEEDS)
def test_gradients_of_iou(name: str, first: Tensor, second: Tensor, seed: int) -> None:
    ours, reference = (gradients(getattr(o, name), seed, first.double(), second.double()) for o in (ops, theirs))
    for a, b in zip(ours, reference, strict=True):
        near(a, b, 1e-9)


@pytest.mark.parametrize("name", LOSSES)
@given(boxes(), SEEDS, REDUCTIONS, WIDE, LAYOUTS)
def test_losses(name: str, first: Tensor, seed: int, reduction: str, dtype: torch.dtype, layout: str) -> None:
    second = (first + 5 * torch.randn(first.shape, generator=generator(seed))).to(dtype)
    args = laid_out(first.to(dtype), layout), laid_out(second, layout), reduction
    near(getattr(ops, name)(*args), getattr(theirs, name)(*args))


@pytest.mark.parametrize("name", LOSSES)
@given(boxes(), SEEDS, REDUCTIONS)
def test_gradients_of_losses(name: str, first: Tensor, seed: int, reduction: str) -> None:
    second = first + 5 * torch.randn(first.shape, generator=generator(seed))
    args = first.double(), second.double(), reduction
    for a, b in zip(
        gradients(getattr(ops, name), seed, *args), gradients(getattr(theirs, name), seed, *args), strict=True
    ):
        near(a, b, 1e-9)


FOCAL = given(
    SEEDS,
    st.lists(st.integers(0, 9), min_size=1, max_size=3),
    st.sampled_from([-1.0, 0.0, 0.25, 1.0]),
    st.sampled_from([0.0, 1.0, 1.5, 2.0, 4.0]),
    st.sampled_from([0.5, 4.0, 30.0]),
    REDUCTIONS,
)


@FOCAL
def test_focal(seed: int, shape: list[int], alpha: float, gamma: float, scale: float, reduction: str) -> None:
    logits = torch.randn(shape, generator=generator(seed)) * scale
    labels = (torch.rand(shape, generator=generator(seed + 1)) < 0.3).float()
    if logits.numel() == 0 and reduction == "mean":
        assert ops.sigmoid_focal_loss(logits, labels, alpha, gamma, reduction) == 0  # torchvision: NaN
        return
    args = labels, alpha, gamma, reduction
    near(ops.sigmoid_focal_loss(logits, *args), theirs.sigmoid_focal_loss(logits, *args))
    ours, reference = (
        gradients(lambda x, o=o: o.sigmoid_focal_loss(x, labels.double(), *args[1:]), seed, logits.double())
        for o in (ops, theirs)
    )
    near(ours[0], reference[0], 1e-9)
    near(ours[1], reference[1], 1e-9)


@given(SEEDS, st.sampled_from([0.25, 0.5, 0.9]))
def test_focal_below_one_where_torchvision_has_no_gradient(seed: int, gamma: float) -> None:
    """Saturated logits: 1 - p_t is 0 in float32, whose power has an infinite derivative: torchvision gives NaN."""
    logits = torch.randn(40, generator=generator(seed)) * 60
    labels = (logits > 0).float()
    ours, reference = (
        gradients(lambda x, o=o: o.sigmoid_focal_loss(x, labels, 0.25, gamma), seed, logits)[1] for o in (ops, theirs)
    )
    assert ours.isfinite().all()
    moderate = logits.abs() < 12
    near(ours[moderate], reference[moderate], 1e-4)
    assert (ours[logits.abs() > 40].abs() < 1e-6).all()


def matcher(mode: str, high: float, low: float) -> Callable[[Tensor], Tensor]:
    from torchvision.models.detection._utils import Matcher, SSDMatcher

    return SSDMatcher(high) if mode == "ssd" else Matcher(high, low, allow_low_quality_matches=mode == "retinanet")


@given(
    boxes(least=1, most=120, odd=True),
    boxes(least=1, most=9, odd=True),
    st.sampled_from(["retinanet", "ssd", "threshold"]),
    st.sampled_from([(0.5, 0.4), (0.7, 0.3), (0.5, 0.5), (0.1, 0.0)]),
    LAYOUTS,
)
def test_match_anchors(
    anchors: Tensor, truths: Tensor, mode: str, thresholds: tuple[float, float], layout: str
) -> None:
    high, low = thresholds if mode != "ssd" else (thresholds[0],) * 2
    ours = ops.match_anchors(laid_out(anchors, layout), laid_out(truths, layout), None, high, low, mode)
    assert torch.equal(ours, matcher(mode, high, low)(theirs.box_iou(truths, anchors)))


@given(SEEDS, st.integers(0, 60), st.integers(1, 4), st.sampled_from([(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)]))
def test_box_codes(seed: int, n: int, classes: int, weights: tuple[float, ...]) -> None:
    from torchvision.models.detection._utils import BoxCoder

    coder, g = BoxCoder(weights), generator(seed)
    corner = torch.rand(2, n, 2, generator=g, dtype=torch.float64) * 300
    found, anchors = torch.cat([corner, corner + 1 + torch.rand(2, n, 2, generator=g) * 90], dim=-1)
    codes = torch.randn(n, 4 * classes, generator=g, dtype=torch.float64) * 10
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 2e-4)):
        b, a, c = found.to(dtype), anchors.to(dtype), codes.to(dtype)
        near(ops.encode_boxes(b, a, list(weights)), coder.encode_single(b, a), tolerance)
        near(ops.decode_boxes(c, a, list(weights)), coder.decode_single(c, a), tolerance)
    ours = gradients(lambda c: ops.decode_boxes(c, anchors, list(weights)), seed, codes)
    reference = gradients(lambda c: coder.decode_single(c, anchors), seed, codes)
    near(ours[1], reference[1], 1e-9)


@given(boxes(odd=True), st.integers(1, 400), st.integers(1, 400), st.floats(0, 50))
def test_box_utilities(found: Tensor, height: int, width: int, least: float) -> None:
    same(ops.box_area(found), theirs.box_area(found))
    same(ops.clip_boxes_to_image(found, (height, width)), theirs.clip_boxes_to_image(found, (height, width)))
    assert torch.equal(ops.remove_small_boxes(found, least), theirs.remove_small_boxes(found, least))
    for source in ("xyxy", "xywh", "cxcywh"):
        for target in ("xyxy", "xywh", "cxcywh"):
            same(ops.box_convert(found, source, target), theirs.box_convert(found, source, target))
