"""RetinaNet's loss (Lin et al. 2017, section 4), as torchvision computes it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pydet import ops
from pydet.losses.cells import widened
from pydet.losses.targets import Targets

BOX_LOSSES = ("l1", "smooth_l1", "giou")
IGNORED = -1


def retinanet_loss(
    logits: Tensor,
    codes: Tensor,
    anchors: Tensor,
    targets: Targets,
    box_weights: list[float],
    box_loss: str = "l1",
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> dict[str, Tensor]:
    """Focal loss of the classes and a loss of the boxes of the matched anchors, as torchvision's RetinaNet.

    An anchor that overlaps an object by at least .5 is matched, as are those that overlap one most; below .4 it is
    background, between the two it counts for nothing.

    Args:
        logits: [B, N, C], floating, each class for itself.
        codes: [B, N, 4], floating, as of `encode_boxes` with `box_weights`.
        anchors: [N, 4] xyxy in pixels of the network's input.
        targets: boxes in pixels of the network's input.
        box_weights: of x, y, width and height.
        box_loss: "l1" (torchvision's first version), "smooth_l1" (the paper) or "giou" (the second version).
        alpha, gamma: of the focal loss.

    Returns:
        "classification" and "bbox_regression": the means over the images of their sums, each divided by the number of
        matched anchors of the image (by 1 where there is none). float64 for float64 inputs, else float32. No value is
        looked at.
    """
    if box_loss not in BOX_LOSSES:
        raise ValueError(f"retinanet_loss: box_loss must be one of {', '.join(BOX_LOSSES)}, got {box_loss!r}")
    matches = ops.match_anchors(anchors, targets.boxes, targets.counts)
    positive = matches >= 0
    matched = positive.sum(1).clamp(min=1)
    boxes, labels = targets.matched(matches)
    background = torch.where(matches == -1, logits.shape[2], IGNORED)
    classes = torch.where(positive, labels, background)
    focal = ops.sigmoid_focal_loss(logits, classes, alpha, gamma).sum((1, 2))
    distance = _box_distance(codes, anchors, boxes, box_weights, box_loss)
    distance = torch.where(positive, distance, 0).sum(1)
    return {
        "classification": (focal / matched).mean(),
        "bbox_regression": (distance / matched).mean(),
    }


def _box_distance(codes: Tensor, anchors: Tensor, boxes: Tensor, weights: list[float], kind: str) -> Tensor:
    """[B, N] of codes and of the boxes that they should say."""
    if kind == "giou":
        return ops.generalized_box_iou_loss(ops.decode_boxes(codes, anchors, weights), boxes)
    wanted = widened(ops.encode_boxes(boxes, anchors, weights).to(codes.dtype))
    distance = F.l1_loss if kind == "l1" else F.smooth_l1_loss
    return distance(widened(codes), wanted, reduction="none").sum(-1)
