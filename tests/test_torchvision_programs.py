"""Programs that others wrote on pydet's operators: Ultralytics, effdet, supervision; skipped where one is absent.

`make programs` has them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from op_cases import clustered_boxes
from test_torchvision_patch import counted
from torch import Tensor

from pydet import ops

pytest.importorskip("torchvision", reason="the oracle, torchvision, is not installed: make oracle")


def predictions(batch: int, n: int, classes: int) -> Tensor:
    """As a head of YOLOv8 gives them, [B, 4 + C, N]: centres and sizes, class scores."""
    g = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(batch):
        boxes = clustered_boxes(n, g)
        centres = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1)
        rows.append(torch.cat([centres, torch.rand(n, classes, generator=g) ** 4], dim=1).T)
    return torch.stack(rows)


@pytest.mark.parametrize("options", [{}, {"multi_label": True, "conf_thres": 0.6}, {"agnostic": True}])
def test_ultralytics(options: dict[str, Any]) -> None:
    nms = pytest.importorskip("ultralytics.utils.nms", reason="ultralytics is not installed")
    raw = predictions(2, 3000, 20)
    expected = nms.non_max_suppression(raw.clone(), **options)
    with ops.patch_torchvision(), counted() as calls:
        found = nms.non_max_suppression(raw.clone(), **options)
    assert calls.count("nms") == 2
    assert all(len(rows) > 20 for rows in expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("n", [800, 5000])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_effdet(n: int) -> None:
    """The detections of EfficientDet's candidates, as few as torchvision moves apart and as many as it loops over."""
    anchors = pytest.importorskip("effdet.anchors", reason="effdet is not installed")
    g = torch.Generator().manual_seed(0)
    boxes = clustered_boxes(n, g)[:, [1, 0, 3, 2]]  # yxyx
    args = (
        torch.randn(n, 1, generator=g),
        0.1 * torch.randn(n, 4, generator=g),
        boxes,
        torch.randperm(n, generator=g),
        torch.randint(0, 90, (n,), generator=g),
        torch.tensor(1.5),
        torch.tensor([600.0, 600.0]),
    )
    expected = anchors.generate_detections(*args)
    with ops.patch_torchvision(), counted() as calls:
        found = anchors.generate_detections(*args)
    assert calls == ["nms" if n <= 1000 else "batched_nms"]
    assert torch.equal(found, expected)
    assert (expected[:, 4] > 0).all()


def test_supervision() -> None:
    """numpy of its own: what the migration table says is the same, is."""
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    g = torch.Generator().manual_seed(0)
    boxes, scores = clustered_boxes(600, g), torch.rand(600, generator=g)
    classes = torch.randint(0, 5, (600,), generator=g)
    rows = torch.cat([boxes, scores[:, None], classes[:, None]], dim=1).numpy()
    mask = supervision.box_non_max_suppression(rows, iou_threshold=0.5)
    keep = ops.batched_nms(boxes, scores, classes, 0.5)
    assert np.array_equal(np.flatnonzero(mask), keep.sort().values.numpy())
    found = supervision.Detections(boxes.numpy(), confidence=scores.numpy(), class_id=classes.numpy())
    assert found.with_nms(0.5) == found[keep.sort().values.numpy()]
    theirs = supervision.box_iou_batch(boxes.numpy(), boxes[:50].numpy())
    np.testing.assert_allclose(ops.box_iou(boxes, boxes[:50]).numpy(), theirs, rtol=0, atol=1e-5)
