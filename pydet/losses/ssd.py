"""SSD's loss (Liu et al. 2016, section 2.2), as torchvision computes it."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from pydet import ops
from pydet.losses.cells import widened
from pydet.losses.targets import Targets

CROSS_ENTROPY = 0.0, -1.0  # gamma and alpha of softmax_focal_loss that make it that


def ssd_loss(
    logits: Tensor,
    codes: Tensor,
    default_boxes: Tensor,
    targets: Targets,
    box_weights: list[float],
    iou_threshold: float = 0.5,
    negatives: float = 3.0,
) -> dict[str, Tensor]:
    """Multibox loss, as torchvision's SSD.compute_loss.

    Each object has the default box that overlaps it most, and all that overlap it by at least `iou_threshold`. Smooth
    L1 of their codes; cross-entropy of their classes, and of the hardest negatives of each image, `negatives` for each
    matched one. (torchvision takes positives a second time where an image has too few negatives.)

    Args:
        logits: [B, N, C], floating; class 0 is the background.
        codes: [B, N, 4], floating, as of `encode_boxes` with `box_weights`.
        default_boxes: [N, 4] xyxy in pixels of the network's input.
        targets: boxes in pixels of the network's input; labels from 1.
        box_weights: one over the variances.
        iou_threshold: of a match.
        negatives: at most so many for each positive.

    Returns:
        "bbox_regression" and "classification": sums, divided by the number of matched boxes of the batch (by 1 where
        there is none). With several processes of torch.distributed it is the mean of their numbers, so that the mean
        of their losses is the loss of all their pictures as one batch. float64 for float64 inputs, else float32. No
        value is looked at.
    """
    matches = ops.match_anchors(default_boxes, targets.boxes, targets.counts, iou_threshold, mode="ssd")
    positive = matches >= 0
    boxes, classes = targets.matched(matches)  # the class of no object is 0, the background
    wanted = ops.encode_boxes(boxes, default_boxes, box_weights).to(codes.dtype)
    distance = F.smooth_l1_loss(widened(codes), widened(wanted), reduction="none").sum(-1)
    matched = _mean_of_processes(positive.sum()).clamp(min=1)

    entropy = ops.softmax_focal_loss(logits.flatten(0, 1), classes.flatten(), *CROSS_ENTROPY, None, "none")
    entropy = entropy.view_as(classes)
    foreground = classes > 0
    chosen = foreground | ops.hard_negative_mining(entropy, foreground, negatives)
    return {
        "bbox_regression": torch.where(positive, distance, 0).sum() / matched,
        "classification": torch.where(chosen, entropy, 0).sum() / matched,
    }


def _mean_of_processes(count: Tensor) -> Tensor:
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return count
    total = count.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
