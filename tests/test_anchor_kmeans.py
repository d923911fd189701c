"""anchor_kmeans beyond what every operator shares: numbers by hand, what a clustering must do, messages."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pydet import reference
from pydet.ops import anchor_elbow, anchor_kmeans


def sizes(n: int, seed: int = 0) -> Tensor:
    """Log-normal, as those of objects are."""
    return torch.exp(0.8 * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed)) + 3)


def shape_ious(wh: Tensor, anchors: Tensor) -> Tensor:
    overlap = torch.minimum(wh[:, None, 0], anchors[:, 0]) * torch.minimum(wh[:, None, 1], anchors[:, 1])
    return overlap / ((wh[:, 0] * wh[:, 1])[:, None] + anchors[:, 0] * anchors[:, 1] - overlap)


def test_one_anchor_by_hand() -> None:
    """The medians of both sides, of four numbers the second: IoUs 2/6, 1, 6/12 and 6/40."""
    wh = torch.tensor([[1.0, 2.0], [2.0, 3.0], [3.0, 4.0], [10.0, 4.0]])
    for seed in range(6):
        anchors, average = anchor_kmeans(wh, 1, seed)
        assert anchors.tolist() == [[2, 3]]
        assert average.item() == pytest.approx((2 / 6 + 1 + 6 / 12 + 6 / 40) / 4, rel=1e-6)


def test_as_many_anchors_as_boxes() -> None:
    wh = torch.tensor([[8.0, 2.0], [1.0, 1.0], [3.0, 3.0], [2.0, 8.0], [5.0, 5.0]])
    for seed in range(5):
        anchors, average = anchor_kmeans(wh, 5, seed)
        assert anchors.tolist() == [[1, 1], [3, 3], [2, 8], [8, 2], [5, 5]]  # by area, then by width
        assert average == 1


@pytest.mark.parametrize("seed", range(50))
def test_finds_clusters_that_lie_apart(seed: int) -> None:
    centres = torch.tensor([[10.0, 10.0], [12.0, 60.0], [100.0, 20.0], [90.0, 120.0]])
    random = torch.Generator().manual_seed(seed)
    wh = (centres * (0.95 + 0.1 * torch.rand(200, 1, 2, generator=random))).flatten(0, 1)
    wh = wh[torch.randperm(len(wh), generator=random)]
    anchors, average = anchor_kmeans(wh, 4, seed)
    torch.testing.assert_close(anchors, centres, rtol=0.015, atol=0)
    assert average > 0.93


def test_average_is_that_of_the_anchors() -> None:
    wh = sizes(1000)
    for k in (1, 2, 5, 9):
        anchors, average = anchor_kmeans(wh, k)
        torch.testing.assert_close(average, shape_ious(wh, anchors).amax(dim=1).mean(), rtol=1e-6, atol=0)
        areas = anchors.prod(dim=1)
        assert (areas[1:] >= areas[:-1]).all()


def test_average_never_falls_with_iterations() -> None:
    for seed in range(3):
        averages = [anchor_kmeans(sizes(500), 6, seed, iterations)[1].item() for iterations in range(40)]
        assert averages == sorted(averages)
        assert averages[-1] > averages[0] + 0.01


def test_better_than_the_start_and_than_means() -> None:
    """Ten more steps with means from the result lower the average."""
    wh = sizes(5000)
    anchors, average = anchor_kmeans(wh, 5)
    for _ in range(10):
        labels = shape_ious(wh, anchors).argmax(dim=1)
        anchors = torch.stack([wh[labels == c].mean(dim=0) for c in range(5)])
    assert shape_ious(wh, anchors).amax(dim=1).mean() < average - 0.005


def test_every_anchor_has_boxes_and_is_their_median() -> None:
    wh = sizes(700)
    anchors, _ = anchor_kmeans(wh, 8, 1)
    labels = shape_ious(wh.double(), anchors.double()).argmax(dim=1)
    near = [bool(((wh[labels == c].median(dim=0).values / anchors[c]).log().abs() < 0.1).all()) for c in range(8)]
    assert all(near)


@pytest.mark.parametrize("factor", [2.0**-20, 0.25, 1024.0, 2.0**90])
def test_scale(factor: float) -> None:
    """Exact, since powers of two are."""
    wh = sizes(300)
    anchors, average = anchor_kmeans(wh, 7, 3)
    scaled, same = anchor_kmeans(wh * factor, 7, 3)
    assert torch.equal(scaled, anchors * factor)
    assert torch.equal(same, average)


def test_width_and_height_are_alike() -> None:
    wh = sizes(400)
    anchors, average = anchor_kmeans(wh, 6, 2)
    turned, same = anchor_kmeans(wh.flip(1), 6, 2)
    assert torch.equal(turned.flip(1), anchors)
    assert torch.equal(same, average)


def test_repeated_boxes_weigh_more() -> None:
    small, large = torch.tensor([[10.0, 10.0]]), torch.tensor([[100.0, 100.0]])
    between = torch.tensor([[30.0, 30.0]])
    anchors, average = anchor_kmeans(torch.cat([small.repeat(90, 1), large.repeat(90, 1), between]), 2)
    assert anchors.tolist() == [[10, 10], [100, 100]]
    assert average.item() == pytest.approx((180 + 1 / 9) / 181, rel=1e-6)


def test_an_anchor_without_boxes_is_moved() -> None:
    """On a grid, where many boxes are equally far, centres lose all of theirs: the anchors stay different."""
    grid = torch.cartesian_prod(torch.arange(1.0, 9), torch.arange(1.0, 9))
    for seed in range(40):
        anchors, _ = anchor_kmeans(grid, 20, seed)
        assert len(anchors.unique(dim=0)) == 20
        for ours, theirs in zip(anchor_kmeans(grid, 20, seed), reference.anchor_kmeans(grid, 20, seed), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63)])
def test_seeds(seed: int) -> None:
    wh = sizes(200)
    start = anchor_kmeans(wh, 5, seed, 0)[0]
    assert all((wh == anchor).all(dim=1).any() for anchor in start)  # boxes of the data
    assert torch.equal(start, anchor_kmeans(wh, 5, seed, 0)[0])
    assert torch.equal(start, reference.anchor_kmeans(wh, 5, seed, 0)[0])
    assert not torch.equal(start, anchor_kmeans(wh, 5, 7, 0)[0])


def test_start_prefers_distant_boxes() -> None:
    """99 of 100 boxes are alike: two centres drawn evenly would seldom differ, k-means++ always finds both kinds."""
    wh = torch.cat([torch.full((990, 2), 10.0), torch.full((10, 2), 80.0)])
    for seed in range(20):
        assert anchor_kmeans(wh, 2, seed, 0)[0].tolist() == [[10, 10], [80, 80]]


def test_elbow() -> None:
    wh = sizes(300)
    averages = anchor_elbow(wh, 6, seed=4)
    assert averages.shape == (6,)
    for k in range(1, 7):
        assert averages[k - 1] == anchor_kmeans(wh, k, 4)[1]
    assert averages[5] > averages[0] + 0.1
    assert torch.equal(torch.jit.script(anchor_elbow)(wh, 6, 4), averages)
    with pytest.raises(RuntimeError, match="anchor_elbow: max_k must be at least 1, got 0"):
        anchor_elbow(wh, 0)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((torch.ones(3), 1), "wh must be [N, 2], got [3]"),
        ((torch.ones(3, 4), 1), "wh must be [N, 2], got [3, 4]"),
        ((torch.ones(3, 2).long(), 1), "wh must be a floating tensor, got Long"),
        ((torch.ones(3, 2), 0), "k must be 1 to the number of boxes, 3, got 0"),
        ((torch.ones(3, 2), 4), "k must be 1 to the number of boxes, 3, got 4"),
        ((torch.ones(0, 2), 1), "k must be 1 to the number of boxes, 0, got 1"),
        ((torch.ones(3, 2), 2), "k must be at most the number of different boxes, 1, got 2"),
        ((torch.ones(3, 2), 1, 0, -1), "max_iterations must not be negative, got -1"),
    ],
)
def test_messages(args: tuple, message: str) -> None:
    with pytest.raises(RuntimeError) as error:
        anchor_kmeans(*args)
    assert f"anchor_kmeans: {message}" in str(error.value)


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0"), (-2.0, "-2"), (math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")]
)
def test_sizes_must_be_positive_and_finite(value: float, shown: str) -> None:
    wh = sizes(50).round()
    for column in (0, 1):
        bad = wh.clone()
        bad[31] = 5
        bad[31, column] = value
        pair = f"({shown}, 5)" if column == 0 else f"(5, {shown})"
        with pytest.raises(RuntimeError) as error:
            anchor_kmeans(bad, 3)
        assert f"anchor_kmeans: wh must be positive and finite, got {pair} at row 31" in str(error.value)
        with pytest.raises(RuntimeError, match="anchor_kmeans: wh must be positive and finite"):
            reference.anchor_kmeans(bad, 3)


def test_sizes_must_be_comparable() -> None:
    """Beyond 2^30 the whole numbers of the sums would have no digits left."""
    wh = torch.tensor([[1.0, 1.0], [2.0**30, 1.0], [2.0**31, 4.0]], dtype=torch.float64)
    anchor_kmeans(wh[:2], 2)
    with pytest.raises(RuntimeError, match=r"must not differ by more than a factor of 2\^30, got \(1, 1\) at row 0"):
        anchor_kmeans(wh, 2)
