"""Identities of NMS, IoU and its losses: what must hold between results, on inputs drawn at random."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_inputs import SEEDS, boxes, distinct_scores, generator, grid, near, same
from torch import Tensor

from pydet import ops

THRESHOLDS = st.sampled_from([0.0, 0.1, 0.3, 0.45, 0.5, 0.7, 0.95, 1.0])
SIMILARITIES = (ops.box_iou, ops.generalized_box_iou, ops.distance_box_iou, ops.complete_box_iou)
LOSSES = {
    ops.generalized_box_iou_loss: ops.generalized_box_iou,
    ops.distance_box_iou_loss: ops.distance_box_iou,
    ops.complete_box_iou_loss: ops.complete_box_iou,
}


@given(boxes(odd=True), SEEDS, THRESHOLDS)
def test_nms_is_greedy(found: Tensor, seed: int, threshold: float) -> None:
    """All of its definition: no kept box overlaps a better kept one too much, every box that fell does."""
    scores = (torch.rand(len(found), generator=generator(seed)) * 20).round() / 20
    keep = ops.nms(found, scores, threshold)
    order = scores.sort(descending=True, stable=True).indices
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    assert torch.equal(place[keep], place[keep].sort().values)
    too_much = (ops.box_iou(found, found).double() > threshold) & (place[:, None] < place[None, :])
    kept = torch.zeros(len(found), dtype=torch.bool)
    kept[keep] = True
    assert torch.equal(kept, ~(too_much & kept[:, None]).any(dim=0))


@given(boxes(odd=True), SEEDS, THRESHOLDS)
def test_nms_of_what_it_kept_keeps_all(found: Tensor, seed: int, threshold: float) -> None:
    scores = torch.rand(len(found), generator=generator(seed))
    keep = ops.nms(found, scores, threshold)
    assert ops.nms(found[keep], scores[keep], threshold).tolist() == list(range(len(keep)))


@given(boxes(least=1), SEEDS, THRESHOLDS)
def test_nms_does_not_care_for_the_order_of_the_input(found: Tensor, seed: int, threshold: float) -> None:
    g = generator(seed)
    scores, order = distinct_scores(len(found), g), torch.randperm(len(found), generator=g)
    assert torch.equal(order[ops.nms(found[order], scores[order], threshold)], ops.nms(found, scores, threshold))


@given(boxes(least=1), SEEDS, st.integers(0, 60), THRESHOLDS)
def test_worse_boxes_change_nothing(found: Tensor, seed: int, best: int, threshold: float) -> None:
    scores = distinct_scores(len(found), generator(seed))
    top = scores.sort(descending=True).indices[:best]
    keep = ops.nms(found, scores, threshold)
    assert torch.equal(top[ops.nms(found[top], scores[top], threshold)], keep[torch.isin(keep, top)])


@given(boxes(odd=True), SEEDS, st.integers(1, 9), THRESHOLDS)
def test_batched_nms_is_a_loop_over_the_classes(found: Tensor, seed: int, classes: int, threshold: float) -> None:
    g = generator(seed)
    scores, idxs = distinct_scores(len(found), g), torch.randint(-3, classes - 3, (len(found),), generator=g)
    kept = [ops.nms(found[idxs == c], scores[idxs == c], threshold) for c in range(-3, classes - 3)]
    indices = torch.cat([torch.nonzero(idxs == c)[:, 0][k] for c, k in zip(range(-3, classes - 3), kept, strict=True)])
    expected = indices[scores[indices].sort(descending=True).indices]
    assert torch.equal(ops.batched_nms(found, scores, idxs, threshold), expected)
    one_class = torch.full_like(idxs, 5)
    assert torch.equal(ops.batched_nms(found, scores, one_class, threshold), ops.nms(found, scores, threshold))


@given(st.data(), SEEDS, st.integers(1, 4), st.integers(0, 25), st.integers(1, 5), THRESHOLDS)
def test_multiclass_nms_is_the_loop_of_its_documentation(
    data: st.DataObject, seed: int, batch: int, n: int, classes: int, threshold: float
) -> None:
    found = torch.stack([data.draw(boxes(least=n, most=n)) for _ in range(batch)])
    scores = torch.rand(batch, n, classes, generator=generator(seed))
    least, top_k, most = data.draw(st.sampled_from([0.0, 0.3, 0.8])), data.draw(st.integers(1, 60)), 40
    results = ops.multiclass_nms(found, scores, least, threshold, most, top_k)
    for i in range(batch):
        row, label = torch.nonzero(scores[i] > least, as_tuple=True)
        top = scores[i, row, label].sort(descending=True, stable=True).indices[:top_k]
        row, label = row[top], label[top]
        keep = ops.batched_nms(found[i, row], scores[i, row, label], label, threshold)[:most]
        expected = found[i, row[keep]], scores[i, row[keep], label[keep]], label[keep], row[keep]
        count = int(results[4][i])
        assert count == len(keep)
        for ours, theirs in zip(results[:4], expected, strict=True):
            assert torch.equal(ours[i, :count], theirs)
            assert (ours[i, count:] == (-1 if ours is results[2] else 0)).all()


@given(boxes(most=30), SEEDS, st.integers(1, 4))
def test_a_higher_score_threshold_takes_from_the_end(found: Tensor, seed: int, classes: int) -> None:
    scores = torch.rand(1, len(found), classes, generator=generator(seed))
    many, few = (ops.multiclass_nms(found[None], scores, least, 0.5, 200) for least in (0.2, 0.6))
    count = int((many[1] > 0.6).sum())
    assert int(few[4]) == count
    assert all(torch.equal(a[0, :count], b[0, :count]) for a, b in zip(many[:4], few[:4], strict=True))


@given(boxes(), SEEDS, st.sampled_from([0.123, 0.31, 0.4567, 0.71]))
def test_naive_soft_nms_is_nms(found: Tensor, seed: int, threshold: float) -> None:
    """At a threshold that no IoU is equal to, where one says >= and the other >."""
    scores = distinct_scores(len(found), generator(seed))
    dets, inds = ops.soft_nms(found, scores, threshold, min_score=1e-6, method="naive")
    assert torch.equal(inds, ops.nms(found, scores, threshold))
    assert torch.equal(dets, torch.cat([found, scores[:, None]], dim=1)[inds])


@given(boxes(), SEEDS, st.sampled_from(["linear", "gaussian"]))
def test_soft_nms_lowers_scores_and_sorts_by_them(found: Tensor, seed: int, method: str) -> None:
    scores = torch.rand(len(found), generator=generator(seed))
    dets, inds = ops.soft_nms(found, scores, method=method)
    assert (dets[:, 4] <= scores[inds]).all()
    assert torch.equal(dets[:, 4], dets[:, 4].sort(descending=True).values)
    assert len(inds.unique()) == len(inds)


@given(boxes(), boxes())
def test_iou_is_symmetric_and_bounded(first: Tensor, second: Tensor) -> None:
    for similarity in SIMILARITIES:
        result = similarity(first, second)
        same(result, similarity(second, first).T)
        lower = 0 if similarity is ops.box_iou else -2
        assert ((result >= lower) & (result <= 1)).all()
        assert (result <= ops.box_iou(first, second) + 1e-6).all()
        near(similarity(first, first).diagonal(), torch.ones(len(first)))


@given(boxes(odd=True), boxes(odd=True), SEEDS)
def test_iou_of_permuted_boxes_is_permuted(first: Tensor, second: Tensor, seed: int) -> None:
    rows, columns = (torch.randperm(len(b), generator=generator(seed)) for b in (first, second))
    for similarity in SIMILARITIES:
        same(similarity(first[rows], second[columns]), similarity(first, second)[rows][:, columns])


@pytest.mark.parametrize("similarity", [*SIMILARITIES, ops.box_iof], ids=lambda f: f.__name__)
@given(boxes(odd=True), SEEDS)
def test_aligned_boxes_are_the_diagonal(similarity: Callable[..., Tensor], first: Tensor, seed: int) -> None:
    second = first[torch.randperm(len(first), generator=generator(seed))]
    near(similarity(first, second, aligned=True), similarity(first, second).diagonal(), 1e-6)


@given(boxes(), boxes())
def test_intersection_over_foreground_and_over_union(first: Tensor, second: Tensor) -> None:
    """I / F and I / B and I / U of the same I: 1 / IoU = 1 / IoF + 1 / IoB - 1, where the boxes overlap."""
    iof, iob, iou = ops.box_iof(first, second), ops.box_iof(second, first).T, ops.box_iou(first, second)
    assert torch.equal(iof > 0, iou > 0)
    apart = iou < 0.01
    near((1 / iof + 1 / iob - 1).masked_fill(apart, 0), (1 / iou).masked_fill(apart, 0), 1e-4)


@given(SEEDS, st.integers(0, 40), st.integers(-(2**12), 2**12), st.integers(-8, 8))
def test_translation_and_powers_of_two_change_no_bit(seed: int, n: int, shift: int, power: int) -> None:
    """On a grid of quarters of a pixel, where float32 rounds nothing but the last division."""
    g = generator(seed)
    first, second, scores = grid(n, g), grid(n + 1, g), distinct_scores(n, g)
    for move in (lambda b: b + shift, lambda b: b * 2.0**power):
        for similarity in SIMILARITIES[:2]:
            same(similarity(move(first), move(second)), similarity(first, second))
        assert torch.equal(ops.nms(move(first), scores, 0.3), ops.nms(first, scores, 0.3))
        assert torch.equal(ops.match_anchors(move(second), move(first)), ops.match_anchors(second, first))


@pytest.mark.parametrize(("loss", "similarity"), LOSSES.items(), ids=[f.__name__ for f in LOSSES])
@given(SEEDS, st.integers(0, 60))
def test_loss_is_one_less_the_diagonal(
    loss: Callable[..., Tensor], similarity: Callable[..., Tensor], seed: int, n: int
) -> None:
    g = generator(seed)
    first, second = grid(n, g), grid(n, g)
    near(loss(first, second), 1 - similarity(first, second).diagonal())


@pytest.mark.parametrize("loss", LOSSES, ids=[f.__name__ for f in LOSSES])
@given(boxes(), SEEDS)
def test_reductions(loss: Callable[..., Tensor], first: Tensor, seed: int) -> None:
    second = first + torch.randn(first.shape, generator=generator(seed))
    losses = loss(first, second).double()
    near(loss(first, second, reduction="sum").double(), losses.sum())
    near(loss(first, second, reduction="mean").double(), losses.sum() / max(len(losses), 1))
