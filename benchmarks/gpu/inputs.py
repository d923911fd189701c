"""Inputs as detectors make them, on the device; and what one writes with torchvision for them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timer import Arguments
from torch import Tensor

from pydet import ops

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))  # op_cases: one registry for tests and benchmarks
from op_cases import clustered_boxes, random_boxes, random_tree

CLASSES = 91


def scaled(number: int, scale: float) -> int:
    return max(int(number * scale), 2)


def focal_labels(scale: float, device: str) -> Arguments:
    """Logits of 16 x 120,000 anchors that want a gradient, labels of 0 and few 1."""
    rows = scaled(16 * 120_000, scale)
    logits = torch.randn(rows, CLASSES, device=device) * 2 - 3
    labels = (torch.rand(rows, CLASSES, device=device) < 0.001).float()
    return logits.requires_grad_(), labels


def focal_classes(scale: float, device: str) -> Arguments:
    """The same with a class for each anchor: 1 % foreground."""
    logits, _ = focal_labels(scale, device)
    foreground = torch.rand(len(logits), device=device) < 0.01
    return logits, torch.where(foreground, torch.randint(CLASSES, (len(logits),), device=device), CLASSES)


def two_sets_of_boxes(scale: float, device: str) -> Arguments:
    g = torch.Generator().manual_seed(0)
    boxes1, boxes2 = (random_boxes(scaled(10_000, math.sqrt(scale)), g).to(device) for _ in range(2))
    return boxes1, boxes2


def box_codes(scale: float, device: str) -> Arguments:
    anchors = random_boxes(scaled(120_000, scale), torch.Generator().manual_seed(0)).to(device)
    return torch.randn(16, len(anchors), 4, device=device), anchors, [10.0, 10.0, 5.0, 5.0]


def boxes_and_anchors(scale: float, device: str) -> Arguments:
    g = torch.Generator().manual_seed(0)
    anchors, boxes = (random_boxes(n * scaled(120_000, scale), g).to(device) for n in (1, 16))
    return boxes.view(16, -1, 4), anchors, [10.0, 10.0, 5.0, 5.0]


def yolo_maps(dtype: torch.dtype, layout: torch.memory_format, classes: str, scale: float, device: str) -> Arguments:
    maps = torch.randn(scaled(64, scale), 255, 76, 76, device=device).to(dtype).contiguous(memory_format=layout)
    return maps, torch.tensor([[10.0, 13.0], [16.0, 30.0], [33.0, 23.0]], device=device), (608, 608), classes


def anchors_and_truths(scale: float, device: str) -> Arguments:
    """RetinaNet's anchors of a square picture (section 4: five levels, three ratios, three sizes), 500 objects."""
    side = max(int(1136 * math.sqrt(scale)), 64)
    levels = []
    for stride in (8, 16, 32, 64, 128):
        sizes = [4 * stride * 2 ** (octave / 3) for octave in range(3)]
        half = torch.tensor([[s / r / 2, s * r / 2] for s in sizes for r in (0.5**0.5, 1, 2**0.5)])
        steps = torch.arange(-(-side // stride)) * stride
        centre = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).reshape(-1, 1, 2)
        levels.append(torch.cat([centre - half, centre + half], dim=-1).reshape(-1, 4))
    truths = random_boxes(scaled(500, scale), torch.Generator().manual_seed(0), size=max(side - 120.0, 20.0))
    return torch.cat(levels).to(device), truths.to(device)


def clustered(n: int, scale: float, device: str) -> Arguments:
    """Some 20 boxes for each object, as many objects to a picture however many boxes there are."""
    g = torch.Generator().manual_seed(0)
    n = scaled(n, scale)
    boxes = clustered_boxes(n, g) * max(math.sqrt(n / 10_000), 1.0)
    return boxes.to(device), torch.rand(n, generator=g).to(device), 0.5


def scattered(n: int, scale: float, device: str) -> Arguments:
    """Most of them are kept."""
    g = torch.Generator().manual_seed(0)
    n = scaled(n, scale)
    boxes = random_boxes(n, g, size=20.0 * math.sqrt(n), largest=100)
    return boxes.to(device), torch.rand(n, generator=g).to(device), 0.5


def with_classes(n: int, scale: float, device: str) -> Arguments:
    boxes, scores, threshold = clustered(n, scale, device)
    return boxes, scores, torch.randint(80, (len(boxes),), device=device), threshold


def batch_of_detections(top_k: int | None, scale: float, device: str) -> Arguments:
    """8 pictures of 120,000 boxes and 80 classes, 1 to 2 % of the scores above the threshold."""
    n = max(scaled(120_000, scale), 500)
    g = torch.Generator().manual_seed(0)
    boxes = torch.stack([clustered_boxes(n, g, per_object=40) for _ in range(8)]).to(device)
    objectness = torch.rand(8, n, 1, device=device) ** 20
    scores = objectness * torch.rand(8, n, 80, device=device) ** 16
    share = (scores > 0.05).double().mean().item()
    assert 0.005 < share < 0.03, share
    return boxes, scores, 0.05, 0.5, 100, top_k


Detections = list[tuple[Tensor, Tensor, Tensor]]


def loop_over_images(
    batched_nms: Callable[..., Tensor],
    boxes: Tensor,
    scores: Tensor,
    score: float,
    iou: float,
    most: int,
    top_k: int | None,
) -> Detections:
    """What one writes with torchvision.ops.batched_nms."""
    found = []
    for image_boxes, image_scores in zip(boxes, scores, strict=True):
        rows, labels = torch.where(image_scores > score)
        values = image_scores[rows, labels]
        if top_k is not None and len(values) > top_k:
            values, order = values.topk(top_k)
            rows, labels = rows[order], labels[order]
        keep = batched_nms(image_boxes[rows], values, labels, iou)[:most]
        found.append((image_boxes[rows[keep]], values[keep], labels[keep]))
    return found


DIFFERENT = 0.01
"""Part of the boxes that may be others: an IoU beside the threshold falls to either side where nvcc has fused a product
and a sum, and where offsets were added to the coordinates, as in torchvision's batched_nms of few boxes."""


def same_boxes(ours: Tensor, theirs: Tensor) -> bool:
    """Indices or scores of what is kept, nearly all of them the same."""
    missing = int((~torch.isin(ours, theirs)).sum()) + int((~torch.isin(theirs, ours)).sum())
    return missing <= DIFFERENT * len(ours)


def same_detections(ours: Any, theirs: Any) -> bool:
    """Of padded results or lists of detections: nearly the same scores and labels in every image."""
    lists: list[Detections] = [
        r if isinstance(r, list) else [(b[:k], s[:k], c[:k]) for b, s, c, _, k in zip(*r, strict=True)]
        for r in (ours, theirs)
    ]
    scores, others = (torch.cat([image[1] + 10 * i for i, image in enumerate(found)]) for found in lists)
    labels, their_labels = (torch.cat([image[2] for image in found]) for found in lists)
    alike = labels.bincount(minlength=80) - their_labels.bincount(minlength=80)
    return same_boxes(scores, others) and int(alike.abs().sum()) <= DIFFERENT * len(labels)


def tree_logits(layout: str, scale: float, device: str) -> Arguments:
    """The map of 16 pictures by YOLO9000 at 544 x 544, or rows of as many predictions, and a tree of 9,418 nodes."""
    parents = random_tree(9418, torch.Generator().manual_seed(0)).to(device)
    maps = torch.randn(scaled(16, scale), 3, 5 + 9418, 17, 17, device=device)[:, :, 5:].movedim(2, -1)
    return maps if layout == "map" else maps.contiguous(), parents


def tree_conditional(scale: float, device: str) -> Arguments:
    logits, parents = tree_logits("rows", scale, device)
    return ops.tree_softmax(3 * logits, parents), parents, 0.1


def losses_of_anchors(images: int, anchors: int, scale: float, device: str) -> Arguments:
    anchors = scaled(anchors, scale)
    loss = torch.rand(images, anchors, device=device).log().neg()
    return loss, torch.rand(images, anchors, device=device) < 0.005


def two_sorts(loss: Tensor, positive: Tensor) -> Tensor:
    """As torchvision's SSD.compute_loss does it."""
    order = loss.masked_fill(positive, -torch.inf).sort(1, descending=True)[1]
    return order.sort(1)[1] < 3 * positive.sum(1, keepdim=True)


def as_many(ours: Any, theirs: Any) -> bool:
    """The same but for what is equal: sorts that are not stable decide that otherwise."""
    return torch.equal(ours.sum(1), theirs.sum(1)) and (ours != theirs).sum().item() <= ours.numel() / 1000


def sizes_of_boxes(scale: float, device: str) -> Arguments:
    """As many as COCO has, log-normal as there; 9 anchors as YOLOv3's."""
    return torch.randn(scaled(860_000, scale), 2, device=device).mul_(0.8).add_(3).exp_(), 9
