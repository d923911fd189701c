"""Programs that others wrote, as they are and under patch_torchvision: post-processing and losses of detectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_cases import clustered_boxes
from peers import peer
from torch import Tensor

from pydet import ops

torchvision = peer("torchvision")
pytestmark = [pytest.mark.long, pytest.mark.skipif(torchvision is None, reason="torchvision is not installed")]


def under_patch(function: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with ops.patch_torchvision():
            return function()

    return run


def same(theirs: Any, ours: Any) -> bool:
    if isinstance(theirs, Tensor):
        return torch.allclose(theirs, ours, rtol=1e-5, atol=1e-7)
    if isinstance(theirs, dict):
        return all(same(theirs[key], ours[key]) for key in theirs)
    return all(same(a, b) for a, b in zip(theirs, ours, strict=True))


def beside_itself(race: Callable[..., Any], name: str, function: Callable[[], Any]) -> None:
    with torch.no_grad():
        race({"pydet": under_patch(function), name: function}, same, budget=3.0)


def test_ultralytics_non_max_suppression(race: Callable[..., Any]) -> None:
    """Validation of YOLOv8 at 640: 8,400 predictions of 80 classes, every label above 0.001."""
    nms = pytest.importorskip("ultralytics.utils.nms", reason="ultralytics is not installed")
    g = torch.Generator().manual_seed(0)
    boxes = clustered_boxes(8400, g)
    centres = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1)
    raw = torch.cat([centres, torch.rand(8400, 80, generator=g) ** 24], dim=1).T[None].contiguous()
    beside_itself(
        race, "ultralytics", lambda: nms.non_max_suppression(raw.clone(), 0.001, 0.7, multi_label=True, max_nms=30_000)
    )


def test_effdet_generate_detections(race: Callable[..., Any]) -> None:
    """5,000 candidates, as effdet takes of every picture."""
    anchors = pytest.importorskip("effdet.anchors", reason="effdet is not installed")
    g = torch.Generator().manual_seed(0)
    boxes, classes = clustered_boxes(5000, g)[:, [1, 0, 3, 2]], torch.randint(0, 90, (5000,), generator=g)
    logits, codes = torch.randn(5000, 1, generator=g), 0.1 * torch.randn(5000, 4, generator=g)
    order, scale, size = torch.arange(5000), torch.tensor(1.5), torch.tensor([600.0, 600.0])
    beside_itself(
        race, "effdet", lambda: anchors.generate_detections(logits, codes, boxes, order, classes, scale, size)
    )


def test_supervision_with_nms(race: Callable[..., Any]) -> None:
    """2,000 detections. It is numpy of its own, which no patch reaches: what stands in its place is written out."""
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    g = torch.Generator().manual_seed(0)
    boxes, scores = clustered_boxes(2000, g).numpy(), torch.rand(2000, generator=g).numpy()
    found = supervision.Detections(
        boxes, confidence=scores, class_id=torch.randint(0, 80, (2000,), generator=g).numpy()
    )

    def ours() -> Any:
        arrays = (found.xyxy, found.confidence, found.class_id)
        return found[ops.batched_nms(*map(torch.from_numpy, arrays), 0.5).sort().values.numpy()]

    race({"pydet": ours, "supervision": lambda: found.with_nms(0.5)}, lambda theirs, ours: bool(theirs == ours))


def test_torchvision_retinanet_postprocessing(race: Callable[..., Any]) -> None:
    """Of a picture of 800 x 800: five levels, 1,000 candidates of each."""
    detection = torchvision.models.detection
    network = detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None).eval()
    g = torch.Generator().manual_seed(0)
    images = detection.image_list.ImageList(torch.zeros(1, 3, 800, 800), [(800, 800)])
    sides = (100, 50, 25, 13, 7)
    anchors = network.anchor_generator(images, [torch.zeros(1, 1, side, side) for side in sides])
    counts = [side * side * 9 for side in sides]
    outputs = {
        "cls_logits": list((torch.randn(1, sum(counts), 91, generator=g) - 3).split(counts, dim=1)),
        "bbox_regression": list((0.3 * torch.randn(1, sum(counts), 4, generator=g)).split(counts, dim=1)),
    }
    split = [list(anchors[0].split(counts))]
    beside_itself(race, "torchvision", lambda: network.postprocess_detections(outputs, split, [(800, 800)]))


def test_torchvision_ssd_postprocessing(race: Callable[..., Any]) -> None:
    """Four pictures: 8,732 boxes, up to 400 candidates of each of 90 classes."""
    network = torchvision.models.detection.ssd300_vgg16(weights=None, weights_backbone=None).eval()
    g = torch.Generator().manual_seed(0)
    boxes = [clustered_boxes(8732, g) for _ in range(4)]
    outputs = {
        "cls_logits": torch.randn(4, 8732, 91, generator=g),
        "bbox_regression": 0.3 * torch.randn(4, 8732, 4, generator=g),
    }
    beside_itself(race, "torchvision", lambda: network.postprocess_detections(outputs, boxes, [(600, 600)] * 4))
