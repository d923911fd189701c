"""A million boxes, and with --slow more elements than 32 bits count, on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gpu_large import LARGE_CASES, LargeCase, check_large
from op_cases import OP_CASES, OpCase, nms_inputs, random_boxes
from op_checks import assert_close

from pydet import ops, reference

MILLION = 1_000_001  # so that box_iou takes them in pairs; see iou_inputs
ROOM = 10  # GiB

# One of each family here, the others, which index alike, with --slow.
ONE_OF_EACH = ("box_iou", "complete_box_iou_loss")
IN_PAIRS = [case for case in OP_CASES if case.family in ("box_iou", "box_iou_loss") or case.name == "box_iou"]
ROW_BY_ROW = ("sigmoid_focal_loss", "softmax_focal_loss", "encode_boxes", "decode_boxes", "hard_negative_mining")


def free_memory() -> float:
    """GiB; none where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 2**20 for line in lines if line.startswith("MemAvailable")), 0.0)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if case.name in ONE_OF_EACH or case.name in ROW_BY_ROW else pytest.mark.slow)
        for case in OP_CASES
        if case in IN_PAIRS or case.name in ROW_BY_ROW
    ],
    ids=lambda case: case.name,
)
def test_a_million_rows(case: OpCase) -> None:
    args = case.inputs(MILLION)
    rtol, atol = case.tolerance or (0, 0)
    result = case.function(*args)
    # sums of a million float32 numbers differ by their order
    summed = isinstance(result, torch.Tensor) and result.dim() == 0
    assert_close(result, case.reference(*args), (max(rtol, 1e-5), atol) if summed else case.tolerance)


@pytest.mark.parametrize("name", ["nms", "batched_nms"])
def test_nms_of_a_million_boxes(name: str) -> None:
    """A thousand copies of a thousand boxes, far apart and with whole coordinates, so that nothing is rounded: of each
    copy the same boxes stay."""
    generator = torch.Generator().manual_seed(0)
    boxes, scores, threshold = nms_inputs(1000, generator)
    boxes = boxes.round()
    moved = 10_000.0 * torch.stack([torch.arange(1000) % 32, torch.arange(1000) // 32], dim=1).repeat(1, 2)
    many = (boxes[None] + moved[:, None]).reshape(-1, 4)
    assert torch.equal((many[-1000:] - moved[-1]), boxes)
    groups = torch.arange(1000) % 3
    if name == "nms":
        kept = reference.nms(boxes, scores, threshold)
        result = ops.nms(many, scores.repeat(1000), threshold)
    else:
        kept = reference.batched_nms(boxes, scores, groups, threshold)
        result = ops.batched_nms(many, scores.repeat(1000), groups.repeat(1000), threshold)
    expected = (kept.sort().values[None] + 1000 * torch.arange(1000)[:, None]).flatten()
    order = scores.repeat(1000)[expected].argsort(descending=True, stable=True)
    assert torch.equal(result, expected[order])


def test_a_million_anchors() -> None:
    """The last object lies at the last anchor."""
    generator = torch.Generator().manual_seed(0)
    anchors, truths = random_boxes(MILLION, generator), random_boxes(5, generator)
    anchors[-1] = truths[-1] = torch.tensor([700.0, 700.0, 720.0, 730.0])
    ours = ops.match_anchors(anchors, truths, torch.tensor([5]), 0.5, 0.4, "retinanet")
    assert_close(ours, reference.match_anchors(anchors, truths, torch.tensor([5]), 0.5, 0.4, "retinanet"), None)


def test_detections_among_a_million_boxes() -> None:
    """multiclass_nms: the only scores above the threshold are the last ones, each box far from the others."""
    boxes = torch.arange(MILLION)[None, :, None] * 16.0 + torch.tensor([0.0, 0.0, 8.0, 8.0])
    scores = torch.zeros(1, MILLION, 3)
    scores[0, -5:, 2] = torch.tensor([0.5, 0.9, 0.6, 0.8, 0.7])
    found, sure, labels, rows, count = ops.multiclass_nms(boxes, scores, 0.1, 0.5, 10, 1000)
    order = MILLION - 5 + torch.tensor([1, 3, 4, 2, 0])
    assert count.tolist() == [5]
    assert torch.equal(rows[0, :5], order)
    assert torch.equal(found[0, :5], boxes[0, order])
    assert torch.equal(sure[0, :5], scores[0, order, 2])
    assert labels[0, :5].tolist() == [2] * 5


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in LARGE_CASES if case.gigabytes <= ROOM], ids=lambda case: case.name)
def test_more_elements_than_32_bits_count(case: LargeCase) -> None:
    if free_memory() < case.gigabytes + 1:
        pytest.skip(f"needs {case.gigabytes} GiB of free memory")
    check_large(case, 2**31, "cpu")
