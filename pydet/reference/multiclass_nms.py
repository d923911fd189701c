from __future__ import annotations

import torch
from torch import Tensor

from pydet.reference.batched_nms import batched_nms


def multiclass_nms(
    boxes: Tensor,
    scores: Tensor,
    score_threshold: float,
    iou_threshold: float,
    max_per_image: int,
    pre_nms_top_k: int | None = None,
    class_agnostic: bool = False,
    multi_label: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Threshold, top k, NMS inside each class and the best detections of each image, one image at a time.

    Boxes are xyxy [B, N, 4] or [B, N, C, 4], scores [B, N, C]. Returns boxes [B, K, 4], scores [B, K], labels [B, K]
    (-1 behind the last detection), rows [B, K] and count [B].
    """
    batch, _, classes = scores.shape
    out_boxes = boxes.new_zeros(batch, max_per_image, 4)
    out_scores = scores.new_zeros(batch, max_per_image)
    out_labels = torch.full((batch, max_per_image), -1, dtype=torch.int64, device=boxes.device)
    out_rows = torch.zeros_like(out_labels)
    count = torch.zeros(batch, dtype=torch.int64, device=boxes.device)
    wide = scores if scores.dtype == torch.float64 else scores.float()
    for i in range(batch):
        above = wide[i] > score_threshold
        if not multi_label and classes > 0:
            best = torch.where(above, wide[i], -torch.inf).argmax(dim=1, keepdim=True)
            above &= torch.arange(classes, device=boxes.device) == best
        rows, labels = torch.nonzero(above, as_tuple=True)  # by row, then by label
        order = torch.sort(scores[i, rows, labels], descending=True, stable=True).indices[:pre_nms_top_k]
        rows, labels = rows[order], labels[order]
        candidates = boxes[i, rows] if boxes.dim() == 3 else boxes[i, rows, labels]
        groups = torch.zeros_like(labels) if class_agnostic else labels
        keep = batched_nms(candidates, scores[i, rows, labels], groups, iou_threshold)[:max_per_image]
        k = len(keep)
        out_boxes[i, :k], out_scores[i, :k] = candidates[keep], scores[i, rows[keep], labels[keep]]
        out_labels[i, :k], out_rows[i, :k], count[i] = labels[keep], rows[keep], k
    return out_boxes, out_scores, out_labels, out_rows, count
