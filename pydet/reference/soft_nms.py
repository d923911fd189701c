from __future__ import annotations

import torch
from torch import Tensor


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    method: str = "linear",
    offset: int = 0,
) -> tuple[Tensor, Tensor]:
    """Soft-NMS (Bodla et al. 2017), one pick at a time: dets [K, 5] with the lowered scores, and their indices [K].

    The best box is picked (NaN first, then equal scores in the order of the input), the scores of those left are
    lowered by their IoU with it, and those below `min_score` go.
    """
    dtype = torch.float64 if torch.float64 in (boxes.dtype, scores.dtype) else torch.float32
    boxes, scores = boxes.to(dtype), scores.to(dtype, copy=True)
    areas = (boxes[:, 2:] - boxes[:, :2] + offset).prod(dim=1)
    dets, inds = [], []
    left = torch.arange(len(boxes), device=boxes.device)
    while len(left):
        best = left[torch.nan_to_num(scores[left], nan=torch.inf, posinf=torch.inf, neginf=-torch.inf).argmax()]
        dets.append(torch.cat([boxes[best], scores[best, None]]))
        inds.append(best)
        left = left[left != best]
        sides = torch.minimum(boxes[left, 2:], boxes[best, 2:]) - torch.maximum(boxes[left, :2], boxes[best, :2])
        overlap = (sides + offset).clamp(min=0).prod(dim=1)
        iou = overlap / (areas[best] + areas[left] - overlap)
        if method == "gaussian":
            weight = torch.exp(-(iou**2) / sigma).masked_fill(iou.isnan(), 1)
        else:
            weight = torch.where(iou >= iou_threshold, 1 - iou if method == "linear" else 0.0, 1.0)
        scores[left] *= weight
        left = left[~(scores[left] < min_score) & (scores[left] != -torch.inf)]
    if not dets:
        return boxes.new_zeros(0, 5), left
    return torch.stack(dets), torch.stack(inds)
