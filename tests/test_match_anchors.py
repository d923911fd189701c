"""match_anchors beyond what every operator shares: matches by hand, ties, ragged batches, degenerate boxes, memory."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from op_cases import random_boxes
from torch import Tensor

from pydet import reference
from pydet.ops import match_anchors

MODES = ("retinanet", "ssd", "threshold")
NAN, INF = math.nan, math.inf


def boxes_of(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


TRUTHS = boxes_of((0, 0, 10, 10), (20, 0, 30, 10))
# IoU with the first: 1, 0.5, 0.4, 0.3, 0, 0; with the second: 0, 0, 0, 0, 0.3, 0.2
ANCHORS = boxes_of(
    (0, 0, 10, 10), (0, 0, 10, 5), (0, 0, 10, 4), (0, 0, 10, 3), (20, 0, 30, 3), (20, 0, 30, 2), (50, 50, 60, 60)
)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("threshold", [0, 0, -2, -1, -1, -1, -1]),
        ("retinanet", [0, 0, -2, -1, 1, -1, -1]),
        ("ssd", [0, 0, -2, -1, 1, -1, -1]),
    ],
)
def test_by_hand(mode: str, expected: list[int]) -> None:
    assert match_anchors(ANCHORS, TRUTHS, None, 0.5, 0.4, mode).tolist() == expected


def test_default_thresholds_are_those_of_the_papers() -> None:
    """RetinaNet section 4: 0.5 and 0.4; SSD section 2.2: one threshold of 0.5."""
    assert match_anchors(ANCHORS, TRUTHS).tolist() == [0, 0, -2, -1, 1, -1, -1]
    assert match_anchors(ANCHORS, TRUTHS, mode="ssd").tolist() == [0, 0, -1, -1, 1, -1, -1]
    assert match_anchors(ANCHORS, TRUTHS, None, 0.3).tolist() == [0, 0, 0, 0, 1, -1, -1]


def test_ties_by_mode() -> None:
    """Anchors 1 and 2 both have the best IoU of the only ground truth: RetinaNet takes both, SSD the first."""
    anchors = boxes_of((0, 0, 10, 2), (0, 0, 10, 3), (0, 7, 10, 10), (0, 0, 1, 1))
    truth = boxes_of((0, 0, 10, 10))
    assert match_anchors(anchors, truth).tolist() == [-1, 0, 0, -1]
    assert match_anchors(anchors, truth, mode="ssd").tolist() == [-1, 0, -1, -1]


def test_each_anchor_keeps_its_own_best_ground_truth() -> None:
    """The anchor is the best that truth 0 has, but overlaps truth 1 more: it goes to truth 1, in SSD to truth 0 too."""
    anchor, truths = boxes_of((0, 0, 10, 10)), boxes_of((0, 0, 10, 2), (0, 0, 10, 3))
    assert match_anchors(anchor, truths).tolist() == [1]
    assert match_anchors(anchor, truths.flip(0)).tolist() == [0]
    assert match_anchors(anchor, truths, mode="ssd").tolist() == [1]  # both force it: the last wins
    assert match_anchors(anchor, truths.flip(0), mode="ssd").tolist() == [1]


def test_ssd_forces_an_anchor_that_a_later_ground_truth_overlaps_more() -> None:
    """IoU with the first anchor 100 / 140 and 140 / 160, with the second 100 / 160 and 1."""
    anchors, truths = boxes_of((0, 0, 10, 14), (0, 0, 10, 16)), boxes_of((0, 0, 10, 10), (0, 0, 10, 16))
    assert match_anchors(anchors, truths, mode="threshold").tolist() == [1, 1]
    assert match_anchors(anchors, truths, mode="ssd").tolist() == [0, 1]


def test_first_of_equal_ground_truths_wins() -> None:
    truth = boxes_of((0, 0, 10, 10))
    assert match_anchors(truth, truth.expand(3, 4), mode="threshold").tolist() == [0]


@pytest.mark.parametrize("mode", MODES)
def test_ragged_batch_is_a_loop(mode: str) -> None:
    generator = torch.Generator().manual_seed(0)
    counts = [3, 0, 40, 1, 0, 7]
    anchors = random_boxes(1000, generator)
    own = torch.stack([random_boxes(1000, generator) for _ in counts])
    truths = [random_boxes(count, generator) for count in counts]
    for given in (anchors, own):
        batch = match_anchors(given, torch.cat(truths), torch.tensor(counts), mode=mode)
        assert batch.shape == (6, 1000)
        for image, boxes in enumerate(truths):
            mine = given[image] if given.dim() == 3 else given
            assert torch.equal(batch[image], match_anchors(mine, boxes, mode=mode))
    assert (batch[1] == -1).all()
    assert torch.equal(batch, match_anchors(own, torch.cat(truths), torch.tensor(counts).int(), mode=mode))


@pytest.mark.parametrize("mode", MODES)
def test_nothing_to_match(mode: str) -> None:
    empty = torch.zeros(0, 4)
    assert match_anchors(ANCHORS, empty, mode=mode).tolist() == [-1] * 7
    assert match_anchors(empty, TRUTHS, mode=mode).shape == (0,)
    assert match_anchors(empty, TRUTHS, torch.tensor([2, 0]), mode=mode).shape == (2, 0)
    assert match_anchors(ANCHORS, empty, torch.zeros(3, dtype=torch.long), mode=mode).tolist() == [[-1] * 7] * 3
    assert match_anchors(ANCHORS, empty, torch.zeros(0, dtype=torch.long), mode=mode).shape == (0, 7)


def test_a_ground_truth_that_overlaps_nothing_as_in_torchvision() -> None:
    """Its best IoU is 0, on every anchor: each gets its own best ground truth. SSD gives it the first anchor."""
    outside = boxes_of((900, 900, 910, 910))
    assert match_anchors(ANCHORS, torch.cat([TRUTHS, outside])).tolist() == [0, 0, 0, 0, 1, 1, 0]
    assert match_anchors(ANCHORS, outside, mode="ssd").tolist() == [0] + [-1] * 6


ODD = [
    (5, 5, 5, 5),
    (0, 0, 0, 0),
    (-0.0, -0.0, 0.0, 0.0),
    (10, 0, 0, 10),
    (10, 10, 0, 0),
    (NAN, 0, 10, 10),
    (0, 0, 10, NAN),
    (0, 0, INF, 10),
    (-INF, -INF, INF, INF),
    (0, 0, 3e19, 3e19),
    (-10, 0, -0.0, 10),
    (0, 0, 10, 10),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(20))
def test_degenerate_boxes_as_the_definition(mode: str, seed: int) -> None:
    """Zero, negative, infinite and NaN areas among ordinary boxes, on either side, across blocks of anchors."""
    generator = torch.Generator().manual_seed(seed)
    odd = boxes_of(*ODD)
    anchors, truths = (random_boxes(n, generator, size=60, largest=30).round() for n in (700, 9))
    for boxes, count in ((anchors, seed % 4 * 3), (truths, seed % 3)):
        places = torch.randperm(len(boxes), generator=generator)[:count]
        boxes[places] = odd[torch.randint(len(odd), (count,), generator=generator)]
    for high, low in ((0.5, 0.4), (0.3, -1.0), (0.0, 0.0)):
        ours = match_anchors(anchors, truths, None, high, low, mode)
        assert torch.equal(ours, reference.match_anchors(anchors, truths, None, high, low, mode))


@pytest.mark.parametrize("odd", ODD, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_each_degenerate_box_alone(odd: tuple[float, ...], mode: str) -> None:
    for anchors, truths in ((ANCHORS, boxes_of(odd)), (boxes_of(odd), TRUTHS), (boxes_of(odd), boxes_of(odd))):
        expected = reference.match_anchors(anchors, truths, mode=mode)
        assert torch.equal(match_anchors(anchors, truths, mode=mode), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_iou_equal_to_the_threshold_is_a_match(dtype: torch.dtype) -> None:
    """0.3 is not exact: like torch, the threshold is rounded to the dtype of the IoU before it is compared."""
    anchors, truth = boxes_of((0, 0, 10, 3)).to(dtype), boxes_of((0, 0, 10, 10)).to(dtype)
    assert match_anchors(anchors, truth, None, 0.3, 0.3, "threshold").tolist() == [0]
    assert match_anchors(anchors, truth, None, 0.3000001, 0.3000001, "threshold").tolist() == [-1]


def test_many_chunks_and_threads() -> None:
    """More blocks than there are chunks, and a last block that is not full."""
    generator = torch.Generator().manual_seed(1)
    anchors, truths = random_boxes(40_003, generator).round(), random_boxes(30, generator).round()
    for mode in MODES:
        expected = reference.match_anchors(anchors, truths, mode=mode)
        assert torch.equal(match_anchors(anchors, truths, mode=mode), expected)


def test_memory_is_linear() -> None:
    """40,000 anchors x 2,000 ground truths: the matrix would be 320 MB; a process of its own, which nothing warmed."""
    script = """
import resource, torch
from pydet.ops import match_anchors
corner = torch.rand(42_000, 2) * 640
boxes = torch.cat([corner, corner + 20], 1)
anchors, truths = boxes[:40_000].contiguous(), boxes[40_000:].contiguous()
match_anchors(anchors[:100], truths[:2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
matches = match_anchors(anchors, truths)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 - matches.numel() * 8)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 4 << 20


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((torch.zeros(7, 5), TRUTHS), "match_anchors: anchors must be [A, 4], or [B, A, 4] with counts, got [7, 5]"),
        ((ANCHORS[None], TRUTHS), "anchors must be [A, 4], or [B, A, 4] with counts, got [1, 7, 4]"),
        ((ANCHORS, TRUTHS[None]), "match_anchors: gt_boxes must be [G, 4], got [1, 2, 4]"),
        ((ANCHORS.long(), TRUTHS), "match_anchors: anchors must be a floating tensor, got Long"),
        ((ANCHORS, TRUTHS.bool()), "match_anchors: gt_boxes must be a floating tensor, got Bool"),
        ((ANCHORS, TRUTHS, torch.tensor([1.0, 1.0])), "counts must be an integer tensor [B], got Float [2]"),
        ((ANCHORS[None], TRUTHS, torch.tensor([1, 1])), "[B, A, 4] with B = 2 as in counts, got [1, 7, 4]"),
        ((ANCHORS, TRUTHS, torch.tensor([1, 2])), "counts must sum to the 2 rows of gt_boxes, got more"),
        ((ANCHORS, TRUTHS, torch.tensor([1, 0])), "counts must sum to the 2 rows of gt_boxes, got 1"),
        ((ANCHORS, TRUTHS, torch.tensor([3, -1])), "counts must sum to the 2 rows of gt_boxes, got more"),
        ((ANCHORS, TRUTHS, torch.tensor([-1, 3])), "counts must not be negative, got -1 at 0"),
        ((ANCHORS, TRUTHS, None, 0.4, 0.5), "low_threshold must be at most high_threshold = 0.4, got 0.5"),
        ((ANCHORS, TRUTHS, None, NAN), "high_threshold must be a number, got nan"),
        ((ANCHORS, TRUTHS, None, 0.5, NAN), "low_threshold must be at most high_threshold = 0.5, got nan"),
        ((ANCHORS, TRUTHS, None, 0.5, 0.4, "yolo"), "mode must be 'retinanet', 'ssd' or 'threshold', got 'yolo'"),
    ],
)
def test_messages(args: tuple, message: str) -> None:
    with pytest.raises(RuntimeError) as error:
        match_anchors(*args)
    assert message in str(error.value)
