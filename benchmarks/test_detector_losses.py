"""The loss part of a training step, forward and backward, beside torchvision's: from outputs to their gradients."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peers import peer
from torch import Tensor
from workloads import objects, retinanet_anchors

from pydet.losses import Targets, retinanet_loss, ssd_loss
from pydet.models.ssd import LAYOUTS, default_boxes

CLASSES = 91  # of COCO, as torchvision's models have them
HEIGHT, WIDTH = 800, 1333


def step(terms: Callable[[Tensor, Tensor], dict[str, Tensor]], logits: Tensor, codes: Tensor) -> tuple[Tensor, ...]:
    """Both terms and the gradients of both outputs."""
    logits, codes = logits.detach().requires_grad_(), codes.detach().requires_grad_()
    found = terms(logits, codes)
    classification, boxes = found["classification"], found["bbox_regression"]
    (classification + boxes).backward()
    assert logits.grad is not None
    assert codes.grad is not None
    return classification.detach(), boxes.detach(), logits.grad, codes.grad


def same(theirs: tuple[Tensor, ...], ours: tuple[Tensor, ...]) -> bool:
    return all(
        torch.allclose(a, b, rtol=1e-4, atol=1e-6 * float(b.abs().max())) for a, b in zip(theirs, ours, strict=True)
    )


def sigmoid_step(logits: Tensor) -> Tensor:
    logits = logits.detach().requires_grad_()
    logits.sigmoid().sum().backward()
    assert logits.grad is not None
    return logits.grad


def workload(anchors: Tensor, images: int, height: int, width: int) -> tuple[Tensor, Tensor, Targets]:
    """Outputs of a network at the start of its training, and objects of photos of COCO."""
    g = torch.Generator().manual_seed(0)
    boxes, counts = objects("coco160", images)
    boxes = boxes * torch.tensor([width / WIDTH, height / HEIGHT] * 2)
    labels = torch.randint(1, CLASSES, (len(boxes),), generator=g)
    logits = torch.randn(images, len(anchors), CLASSES, generator=g) - 4
    codes = 0.3 * torch.randn(images, len(anchors), 4, generator=g)
    return logits, codes, Targets(boxes, labels, counts)


def as_dicts(targets: Targets) -> list[dict[str, Tensor]]:
    sizes = targets.counts.tolist()
    pairs = zip(targets.boxes.split(sizes), targets.labels.split(sizes), strict=True)
    return [{"boxes": boxes, "labels": labels} for boxes, labels in pairs]


@pytest.mark.parametrize("box_loss", ["l1", "giou"])
def test_retinanet_loss(race: Callable[..., Any], box_loss: str) -> None:
    """Of an image of 800 x 1333 with its 200,700 anchors: version 1 and version 2."""
    anchors = retinanet_anchors(HEIGHT, WIDTH)
    logits, codes, targets = workload(anchors, 1, HEIGHT, WIDTH)
    weights = [1.0] * 4
    contenders = {
        "pydet": lambda: step(lambda x, c: retinanet_loss(x, c, anchors, targets, weights, box_loss), logits, codes)
    }
    if torchvision := peer("torchvision"):
        detection = torchvision.models.detection
        head = detection.retinanet.RetinaNetHead(8, 9, CLASSES)
        head.regression_head._loss_type = box_loss
        matcher = detection._utils.Matcher(0.5, 0.4, allow_low_quality_matches=True)
        dicts = as_dicts(targets)

        def theirs(x: Tensor, c: Tensor) -> dict[str, Tensor]:
            matches = [matcher(torchvision.ops.box_iou(own["boxes"], anchors)) for own in dicts]
            outputs = OrderedDict(cls_logits=x, bbox_regression=c)
            return head.compute_loss(dicts, outputs, [anchors] * len(dicts), matches)

        contenders["torchvision"] = lambda: step(theirs, logits, codes)
    race(contenders, same, again=True, yardsticks={"sigmoid and its gradient": lambda: sigmoid_step(logits)})


def test_ssd_loss(race: Callable[..., Any]) -> None:
    """Of 32 images with the 8,732 default boxes of SSD300."""
    layout: Any = LAYOUTS[300]
    grids = [(side, side) for side in layout["sides"]]
    boxes = default_boxes(layout["scales"], layout["ratios"], grids, layout["steps"], (300, 300))
    logits, codes, targets = workload(boxes, 32, 300, 300)
    weights = [10.0, 10.0, 5.0, 5.0]
    contenders = {"pydet": lambda: step(lambda x, c: ssd_loss(x, c, boxes, targets, weights), logits, codes)}
    if torchvision := peer("torchvision"):
        detection = torchvision.models.detection
        matcher = detection._utils.SSDMatcher(0.5)
        network = SimpleNamespace(box_coder=detection._utils.BoxCoder(weights=tuple(weights)), neg_to_pos_ratio=3.0)
        dicts = as_dicts(targets)

        def theirs(x: Tensor, c: Tensor) -> dict[str, Tensor]:
            matches = [matcher(torchvision.ops.box_iou(own["boxes"], boxes)) for own in dicts]
            outputs = {"cls_logits": x, "bbox_regression": c}
            return detection.ssd.SSD.compute_loss(network, dicts, outputs, [boxes] * len(dicts), matches)

        contenders["torchvision"] = lambda: step(theirs, logits, codes)
    race(contenders, same, again=True, yardsticks={"sigmoid and its gradient": lambda: sigmoid_step(logits)})
