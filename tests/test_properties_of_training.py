"""Identities of focal losses, matching, box codes, decoding and box utilities, on inputs drawn at random."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from op_cases import random_tree
from random_inputs import SEEDS, boxes, generator, grid, near, same
from torch import Tensor

from pydet import ops

MODES = st.sampled_from(["retinanet", "ssd", "threshold"])


def logits_and_classes(seed: int, rows: int, classes: int, scale: float) -> tuple[Tensor, Tensor]:
    g = generator(seed)
    return torch.randn(rows, classes, generator=g) * scale, torch.randint(-1, classes + 1, (rows,), generator=g)


FOCAL = given(SEEDS, st.integers(0, 40), st.integers(1, 30), st.sampled_from([0.1, 2.0, 30.0]))


@FOCAL
def test_sigmoid_focal_loss_without_focus_is_cross_entropy(seed: int, rows: int, classes: int, scale: float) -> None:
    logits, _ = logits_and_classes(seed, rows, classes, scale)
    labels = torch.rand(rows, classes, generator=generator(seed))
    plain = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    near(ops.sigmoid_focal_loss(logits, labels, -1, 0), plain)
    near(ops.sigmoid_focal_loss(logits, labels, 0.3, 0), (0.3 * labels + 0.7 * (1 - labels)) * plain)
    sharp = ops.sigmoid_focal_loss(logits, labels, -1, 2)
    assert (sharp <= plain + 1e-6).all()


@FOCAL
def test_integer_classes_are_their_one_hot_form(seed: int, rows: int, classes: int, scale: float) -> None:
    logits, target = logits_and_classes(seed, rows, classes, scale)
    dense = F.one_hot(target.clamp(min=0), classes + 1)[:, :-1].float()
    expected = ops.sigmoid_focal_loss(logits, dense) * (target >= 0)[:, None]
    near(ops.sigmoid_focal_loss(logits, target), expected, 1e-6)
    near(ops.sigmoid_focal_loss(logits, target, reduction="sum"), expected.sum(), 1e-4)
    counted = max(int((target >= 0).sum()) * classes, 1)
    near(ops.sigmoid_focal_loss(logits, target, reduction="mean"), expected.sum() / counted, 1e-4)


@FOCAL
def test_softmax_focal_loss_without_focus_is_cross_entropy(seed: int, rows: int, classes: int, scale: float) -> None:
    logits, target = logits_and_classes(seed, rows, classes, scale)
    target = target.clamp(max=classes - 1)
    weight = torch.rand(classes, generator=generator(seed))
    losses = ops.softmax_focal_loss(logits, target, 0.0, -1.0, weight, "none")
    near(losses, F.cross_entropy(logits, target, weight, ignore_index=-1, reduction="none"))


@given(st.lists(boxes(most=8), max_size=5), boxes(most=60), MODES)
def test_matching_a_batch_is_a_loop_over_the_images(truths: list[Tensor], anchors: Tensor, mode: str) -> None:
    counts = torch.tensor([len(t) for t in truths], dtype=torch.int64)
    together = torch.cat([torch.zeros(0, 4), *truths])
    result = ops.match_anchors(anchors, together, counts, mode=mode)
    assert result.shape == (len(truths), len(anchors))
    for ours, own in zip(result, truths, strict=True):
        assert torch.equal(ours, ops.match_anchors(anchors, own, mode=mode))


@given(boxes(), boxes(most=8), SEEDS, st.sampled_from(["retinanet", "threshold"]))
def test_matching_permuted_anchors_is_permuted(anchors: Tensor, truths: Tensor, seed: int, mode: str) -> None:
    order = torch.randperm(len(anchors), generator=generator(seed))
    ours = ops.match_anchors(anchors[order], truths, mode=mode)
    assert torch.equal(ours, ops.match_anchors(anchors, truths, mode=mode)[order])


@given(boxes(), boxes(least=1, most=8), st.floats(0.05, 0.9), st.floats(0.05, 0.9))
def test_a_higher_threshold_matches_fewer(anchors: Tensor, truths: Tensor, one: float, other: float) -> None:
    low, high = sorted((one, other))
    many, few = (ops.match_anchors(anchors, truths, None, t, t, "threshold") for t in (low, high))
    assert torch.equal(few[few >= 0], many[few >= 0])
    between = ops.match_anchors(anchors, truths, None, high, low, "threshold")
    assert torch.equal(between == -2, (many >= 0) & (few < 0))


@given(SEEDS, st.integers(0, 50), st.sampled_from([None, [10.0, 10.0, 5.0, 5.0], [1.0, 2.0, 3.0, 4.0]]))
def test_decoding_is_the_inverse_of_encoding(seed: int, n: int, weights: list[float] | None) -> None:
    g = generator(seed)
    truths, anchors = grid(n, g), grid(n, g)
    codes = ops.encode_boxes(truths, anchors, weights)
    near(ops.decode_boxes(codes, anchors, weights), truths, 1e-3)
    near(ops.encode_boxes(ops.decode_boxes(codes, anchors, weights), anchors, weights), codes, 1e-3)
    near(ops.encode_boxes(anchors, anchors, weights), torch.zeros(n, 4), 0)


@given(SEEDS, st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))
def test_decoding_a_batch_of_maps_is_a_loop(seed: int, batch: int, classes: int, height: int, width: int) -> None:
    g = generator(seed)
    maps = torch.randn(batch, 3 * (5 + classes), height, width, generator=g)
    anchors = torch.rand(3, 2, generator=g) * 50 + 1
    whole = ops.yolo_decode(maps, anchors, (height * 8, width * 16))
    parts = [ops.yolo_decode(one[None], anchors, (height * 8, width * 16)) for one in maps]
    for ours, theirs in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(ours, torch.cat(theirs))
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            whole,
            ops.yolo_decode(maps.contiguous(memory_format=torch.channels_last), anchors, (height * 8, width * 16)),
            strict=True,
        )
    )


@given(SEEDS, st.integers(1, 60), st.integers(0, 4))
def test_a_tree_shares_the_probability_out(seed: int, nodes: int, rows: int) -> None:
    """Siblings add up to 1, children to their parent; moving a group of logits changes nothing."""
    g = generator(seed)
    parents, logits = random_tree(nodes, g), 3 * torch.randn(rows, nodes, generator=g)
    conditional = ops.tree_softmax(logits, parents)
    absolute = ops.tree_probabilities(conditional, parents)
    whole = torch.cat([torch.ones(rows, 1), absolute], dim=1)  # the root's parent, -1, comes first
    for parent in parents.unique():
        group = parents == parent
        near(conditional[:, group].sum(dim=1), torch.ones(rows))
        near(absolute[:, group].sum(dim=1), whole[:, parent + 1])
    near(ops.tree_softmax(logits + torch.randn(nodes + 1, generator=g)[parents + 1], parents), conditional)
    found, probability = ops.tree_predict(conditional, parents, -1.0)
    assert torch.equal(probability, absolute.gather(1, found[:, None])[:, 0])
    assert not torch.isin(found, parents).any()  # leaves


@given(SEEDS, st.integers(0, 4), st.integers(0, 40), st.sampled_from([0.0, 0.5, 1.0, 3.0]))
def test_hard_negatives_are_the_hardest_and_so_many(seed: int, images: int, anchors: int, ratio: float) -> None:
    g = generator(seed)
    loss = (torch.rand(images, anchors, generator=g) * 10).round() / 10
    positive = torch.rand(images, anchors, generator=g) < 0.2
    chosen = ops.hard_negative_mining(loss, positive, ratio)
    assert not (chosen & positive).any()
    wanted = (ratio * positive.sum(dim=1)).long().minimum((~positive).sum(dim=1))
    assert torch.equal(chosen.sum(dim=1), wanted)
    easiest = loss.masked_fill(~chosen, 2).amin(dim=1) if anchors else loss.sum(dim=1)
    assert (loss <= easiest[:, None]).logical_or(chosen | positive).all()


@given(SEEDS, st.integers(2, 60), st.integers(1, 5))
def test_kmeans_reports_the_fit_of_its_anchors_and_keeps_the_best(seed: int, n: int, k: int) -> None:
    """A step may fit worse than the one before it, but more steps only add to those of which the best is returned."""
    wh = torch.rand(n, 2, generator=generator(seed), dtype=torch.float64) * 90 + 1
    k = min(k, n)
    fits = []
    for steps in (0, 1, 50):
        anchors, fit = ops.anchor_kmeans(wh, k, seed=seed % 7, max_iterations=steps)
        areas = anchors.prod(dim=1)
        assert torch.equal(areas, areas.sort().values)
        centred = torch.cat([-wh, wh], dim=1), torch.cat([-anchors, anchors], dim=1)
        near(fit, ops.box_iou(*centred).max(dim=1).values.mean())
        fits.append(float(fit))
    assert fits == sorted(fits)


@given(SEEDS, st.integers(0, 40), st.sampled_from(["xywh", "cxcywh"]))
def test_converting_there_and_back_changes_no_bit(seed: int, n: int, fmt: str) -> None:
    found = grid(n, generator(seed))
    there = ops.box_convert(found, "xyxy", fmt)
    assert torch.equal(ops.box_convert(there, fmt, "xyxy"), found)
    assert torch.equal(ops.box_area(there, fmt), ops.box_area(found))
    same(ops.box_iou(there, there, fmt), ops.box_iou(found, found))


@given(boxes(), st.integers(1, 200), st.integers(1, 200))
def test_clipped_boxes_are_inside_and_stay(found: Tensor, height: int, width: int) -> None:
    assume(len(found))
    inside = ops.clip_boxes_to_image(found, (height, width))
    assert inside.min() >= 0
    assert (inside <= torch.tensor([width, height, width, height])).all()
    assert torch.equal(ops.clip_boxes_to_image(inside, (height, width)), inside)
    large = ops.remove_small_boxes(inside, 3.0)
    sides = inside[:, 2:] - inside[:, :2]
    assert torch.equal(large, torch.nonzero(sides.min(dim=1).values >= 3.0)[:, 0])
