from __future__ import annotations

import torch
from torch import Tensor

from pydet.reference.box_iou import box_iou, compute_dtype


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression, one box at a time: indices of the kept boxes, best score first.

    Boxes are xyxy [N, 4]. NaN scores sort first, equal scores keep the order of the input, a box falls when its IoU
    with a kept one is **greater** than the threshold (compared in double), and an IoU of NaN suppresses nothing.
    """
    order = torch.sort(scores, descending=True, stable=True).indices
    boxes = boxes.to(compute_dtype(boxes))[order]
    alive = torch.ones(len(order), dtype=torch.bool, device=boxes.device)
    for i in range(len(order)):
        if alive[i]:
            iou = box_iou(boxes[i : i + 1], boxes[i + 1 :])[0].double()
            alive[i + 1 :] &= ~(iou > iou_threshold)
    return order[alive]
