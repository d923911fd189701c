from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from pydet import _library  # noqa: F401  (defines torch.ops.pydet)
from pydet.ops._fakes import register_fake


def match_anchors(
    anchors: Tensor,
    gt_boxes: Tensor,
    counts: Optional[Tensor] = None,  # noqa: UP045  (TorchScript reads the annotation)
    high_threshold: float = 0.5,
    low_threshold: Optional[float] = None,  # noqa: UP045
    mode: str = "retinanet",
) -> Tensor:
    """Which ground truth each anchor is trained for: IoU, arg-max and thresholds of a batch in O(A + G) memory.

    As torchvision's `box_iou` followed by its `Matcher` (modes "retinanet" and "threshold") or `SSDMatcher` ("ssd"),
    image by image, with the same result on every input: the first of equal IoUs wins; thresholds are compared in the
    dtype of the IoU; a NaN IoU (two boxes without area) is the highest of all and passes every threshold. In mode
    "retinanet" a ground truth that overlaps nothing has its best IoU, 0, on every anchor, and so all of them get their
    own best ground truth: leave boxes outside the picture out.

    An anchor whose best IoU is at least `high_threshold` gets the ground truth of that IoU. Then, by mode,
    "threshold" adds nothing; "retinanet" gives the anchors with the best IoU of some ground truth, ties included, the
    ground truth that they themselves overlap most (RetinaNet, Faster R-CNN: allow_low_quality_matches); "ssd" gives the
    first anchor with the best IoU of each ground truth to that one, the last one where two want the same anchor.

    Args:
        anchors: [A, 4] xyxy, shared by all images, or [B, A, 4], those of each image (predictions, for YOLO's ignore
            threshold), floating.
        gt_boxes: [G, 4] xyxy, the ground truths of all images one after another, floating. For a list of tensors:
            `torch.cat(boxes)` with `counts = torch.tensor([len(b) for b in boxes])`.
        counts: [B] integers, how many of gt_boxes each image has; an image may have none. None means one image. On a
            GPU their values are not checked, that would wait for the device: a negative one is read as 0, and what
            would be beyond the end of gt_boxes as not there.
        high_threshold: at least this IoU is a match.
        low_threshold: below this IoU is background, between the two is neither. None means 0.4 (or high_threshold where
            that is less) in mode "retinanet", high_threshold in the others.
        mode: "retinanet", "ssd" or "threshold".

    Returns:
        int64 [B, A], or [A] without counts: the index of the ground truth in its image, -1 for background, -2 for
        between the thresholds.

    Raises:
        RuntimeError: a shape, dtype, device or value that is none of the above; the message names it.
    """
    return torch.ops.pydet.match_anchors(anchors, gt_boxes, counts, high_threshold, low_threshold, mode)


@register_fake("pydet::match_anchors")
def _match_anchors_fake(
    anchors: Tensor,
    gt_boxes: Tensor,
    counts: Tensor | None = None,
    high_threshold: float = 0.5,
    low_threshold: float | None = None,
    mode: str = "retinanet",
) -> Tensor:
    torch._check(anchors.size(-1) == 4, lambda: f"match_anchors: anchors must be [A, 4], got {list(anchors.shape)}")
    torch._check(gt_boxes.size(-1) == 4, lambda: f"match_anchors: gt_boxes must be [G, 4], got {list(gt_boxes.shape)}")
    lead = () if counts is None else (counts.shape[0],)
    return anchors.new_empty((*lead, anchors.shape[-2]), dtype=torch.int64)
