from __future__ import annotations

import torch
from torch import Tensor

from pydet.reference.box_iou import area, aspect_penalty, centre_distance, result_dtype


def _overlap_union_hull(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unlike in the functions of all pairs the hull is not clamped."""
    extent = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    overlap = torch.where((extent > 0).all(dim=-1), extent[..., 0] * extent[..., 1], 0)
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    return overlap, area(a) + area(b) - overlap, hull


def _upcast(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    dtype = result_dtype(boxes1, boxes2)
    return boxes1.to(dtype), boxes2.to(dtype)


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return loss.sum() / max(loss.numel(), 1)
    return loss.sum() if reduction == "sum" else loss


def generalized_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """1 - GIoU of the boxes [..., 4] at the same place; "mean" of none is 0."""
    a, b = _upcast(boxes1, boxes2)
    overlap, union, hull = _overlap_union_hull(a, b)
    hull_area = hull[..., 0] * hull[..., 1]
    return _reduced(1 - (overlap / (union + eps) - (hull_area - union) / (hull_area + eps)), reduction)


def distance_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """1 - DIoU of the boxes [..., 4] at the same place; "mean" of none is 0."""
    a, b = _upcast(boxes1, boxes2)
    overlap, union, hull = _overlap_union_hull(a, b)
    diagonal = hull[..., 0] ** 2 + hull[..., 1] ** 2 + eps
    return _reduced(1 - (overlap / (union + eps) - centre_distance(a, b) / diagonal), reduction)


def complete_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """1 - CIoU of the boxes [..., 4] at the same place; "mean" of none is 0.

    As in torchvision `eps` is that of alpha, while the other divisors have their default.
    """
    a, b = _upcast(boxes1, boxes2)
    overlap, union, _ = _overlap_union_hull(a, b)
    iou = overlap / (union + 1e-7)
    return _reduced(distance_box_iou_loss(a, b) + aspect_penalty(a, b, iou, eps), reduction)
