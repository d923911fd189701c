from __future__ import annotations

import torch
from torch import Tensor

from pydet.reference.box_iou import box_iou

BACKGROUND, BETWEEN = -1, -2


def match_anchors(
    anchors: Tensor,
    gt_boxes: Tensor,
    counts: Tensor | None = None,
    high_threshold: float = 0.5,
    low_threshold: float | None = None,
    mode: str = "retinanet",
) -> Tensor:
    """Ground truth of each anchor from the whole matrix of IoUs, image by image -> int64 [A], [B, A] with counts."""
    if low_threshold is None:
        low_threshold = min(0.4, high_threshold) if mode == "retinanet" else high_threshold
    if counts is None:
        return _match_image(anchors, gt_boxes, high_threshold, low_threshold, mode)
    matches = anchors.new_empty((counts.shape[0], anchors.shape[-2]), dtype=torch.int64)
    for image, truths in enumerate(gt_boxes.split(counts.tolist())):
        own = anchors[image] if anchors.dim() == 3 else anchors
        matches[image] = _match_image(own, truths, high_threshold, low_threshold, mode)
    return matches


def _match_image(anchors: Tensor, truths: Tensor, high: float, low: float, mode: str) -> Tensor:
    if truths.shape[0] == 0 or anchors.shape[0] == 0:
        return anchors.new_full((anchors.shape[0],), BACKGROUND, dtype=torch.int64)
    iou = box_iou(truths, anchors)
    best, best_truth = iou.max(dim=0)
    matches = best_truth.clone()
    matches[best < low] = BACKGROUND
    matches[(best >= low) & (best < high)] = BETWEEN
    if mode == "retinanet":
        restored = (iou == iou.max(dim=1, keepdim=True).values).any(dim=0)
        matches[restored] = best_truth[restored]
    if mode == "ssd":
        for truth, anchor in enumerate(iou.argmax(dim=1).tolist()):
            matches[anchor] = truth
    return matches
