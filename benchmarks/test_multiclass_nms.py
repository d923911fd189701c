"""multiclass_nms beside what one writes with torchvision: a loop over the images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import workloads
from op_cases import clustered_boxes
from peers import peer
from torch import Tensor

from pydet import ops, reference


def detector_outputs(batch: int, n: int, classes: int) -> tuple[Tensor, Tensor]:
    """Boxes in clusters, and scores as a detector gives them: low almost everywhere, 1 to 2 % of them above 0.05."""
    g = torch.Generator().manual_seed(0)
    boxes = torch.stack([clustered_boxes(n, g, per_object=40) for _ in range(batch)])
    objectness = torch.rand(batch, n, 1, generator=g) ** 20
    scores = objectness * torch.rand(batch, n, classes, generator=g) ** 16
    share = (scores > 0.05).double().mean().item()
    assert 0.01 < share < 0.02, share
    return boxes, scores


def loop(
    nms: Callable[..., Tensor], boxes: Tensor, scores: Tensor, score: float, iou: float, most: int, top_k: int | None
) -> list[tuple[Tensor, Tensor, Tensor]]:
    found = []
    for image_boxes, image_scores in zip(boxes, scores, strict=True):
        rows, labels = torch.where(image_scores > score)
        values = image_scores[rows, labels]
        if top_k is not None and len(values) > top_k:
            values, order = values.topk(top_k)
            rows, labels = rows[order], labels[order]
        keep = nms(image_boxes[rows], values, labels, iou)[:most]
        found.append((image_boxes[rows[keep]], values[keep], labels[keep]))
    return found


def same(ours: Any, theirs: Any) -> bool:
    """Detections of every image, in their order; both sides are padded results or lists of detections."""
    lists = [
        r if isinstance(r, list) else [(b[:k], s[:k], c[:k]) for b, s, c, _, k in zip(*r, strict=True)]
        for r in (ours, theirs)
    ]
    return all(torch.equal(a, b) for x, y in zip(*lists, strict=True) for a, b in zip(x, y, strict=True))


def run(
    race: Callable[..., Any], boxes: Tensor, scores: Tensor, limits: tuple[float, float, int, int | None], slow: bool
) -> None:
    """limits: score threshold, IoU threshold, most detections, top k. slow: the reference takes too long."""
    contenders: dict[str, Callable[[], Any]] = {
        "pydet": lambda: ops.multiclass_nms(boxes, scores, *limits),
        "pydet's batched_nms in a loop": lambda: loop(ops.batched_nms, boxes, scores, *limits),
    }
    if torchvision := peer("torchvision"):
        contenders["torchvision"] = lambda: loop(torchvision.ops.batched_nms, boxes, scores, *limits)
    if not slow:
        contenders["reference"] = lambda: reference.multiclass_nms(boxes, scores, *limits)
    race(contenders, same, yardsticks={"one look at the scores": scores.amax}, moved=scores.nbytes)


@pytest.mark.parametrize("top_k", [None, 1000], ids=["all", "top1000"])
@pytest.mark.parametrize(
    ("batch", "n", "classes"),
    [(1, 2535, 80), pytest.param(8, 25_200, 80, id="8-25200-80")],
)
def test_multiclass_nms(race: Callable[..., Any], batch: int, n: int, classes: int, top_k: int | None) -> None:
    run(race, *detector_outputs(batch, n, classes), (0.05, 0.5, 100, top_k), slow=batch > 1)


@pytest.mark.parametrize("side", [416, 608, 1280])
def test_multiclass_nms_of_yolov3_tiny(race: Callable[..., Any], side: int) -> None:
    """7 photos at the score threshold that average precision is measured with."""
    run(race, *workloads.detector_outputs(side), (0.005, 0.45, 100, None), slow=False)
