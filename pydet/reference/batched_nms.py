from __future__ import annotations

import torch
from torch import Tensor

from pydet.reference.nms import nms


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """`nms` on each class by itself; indices of the kept boxes of all classes, best score first."""
    alive = torch.zeros_like(scores, dtype=torch.bool)
    for label in torch.unique(idxs):
        members = torch.nonzero(idxs == label)[:, 0]
        alive[members[nms(boxes[members], scores[members], iou_threshold)]] = True
    order = torch.sort(scores, descending=True, stable=True).indices
    return order[alive[order]]
