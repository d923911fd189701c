from __future__ import annotations

import math

import torch
from torch import Tensor


def to_xyxy(boxes: Tensor, fmt: str) -> Tensor:
    """[..., 4] boxes in `fmt` (xyxy, xywh, cxcywh) as corners."""
    if fmt == "xyxy":
        return boxes
    first, size = boxes[..., :2], boxes[..., 2:]
    corner = first if fmt == "xywh" else first - 0.5 * size
    return torch.cat([corner, corner + size], dim=-1)


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 for float64 and integer input, float32 for everything narrower: half precision overflows on areas."""
    exact = any(t.dtype == torch.float64 or not t.dtype.is_floating_point for t in tensors)
    return torch.float64 if exact else torch.float32


def result_dtype(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def pairs_of(boxes1: Tensor, boxes2: Tensor, aligned: bool, fmt: str = "xyxy") -> tuple[Tensor, Tensor]:
    """Corners [..., N, 1, 4] and [..., 1, M, 4] of all pairs, or [..., 4] of aligned ones, to compute with."""
    dtype = compute_dtype(boxes1, boxes2)
    a, b = to_xyxy(boxes1.to(dtype), fmt), to_xyxy(boxes2.to(dtype), fmt)
    return (a, b) if aligned else (a[..., :, None, :], b[..., None, :, :])


def area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def aspect_penalty(a: Tensor, b: Tensor, iou: Tensor, eps: float) -> Tensor:
    """alpha * v of CIoU; alpha is held constant in the gradient."""
    angle_a, angle_b = (torch.atan((x[..., 2] - x[..., 0]) / (x[..., 3] - x[..., 1])) for x in (a, b))
    v = 4 / math.pi**2 * (angle_a - angle_b) ** 2
    alpha = (v / (1 - iou + v + eps)).detach()
    return alpha * v


def centre_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared distance of the centres."""
    apart = (a[..., :2] + a[..., 2:]) / 2 - (b[..., :2] + b[..., 2:]) / 2
    return apart[..., 0] ** 2 + apart[..., 1] ** 2


def overlap_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    extent = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    # Boxes that only touch have no gradient, as with clamp(min=0) since torch 2.14; before, it had one at 0.
    extent = torch.where(extent <= 0, 0, extent)
    overlap = extent[..., 0] * extent[..., 1]
    return overlap, area(a) + area(b) - overlap


def hull_extent(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    extent = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0)
    # -0 becomes 0: an infinite GIoU would have its sign, and which of 0 and -0 is the larger one depends, in torch, on
    # where in memory they stand.
    extent = extent + 0.0
    return extent[..., 0], extent[..., 1]


def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy", aligned: bool = False) -> Tensor:
    """Intersection over union of every box of [..., N, 4] with every box of [..., M, 4] -> [..., N, M].

    Aligned: of the boxes [..., 4] at the same place -> [...]. Areas are not clamped and a pair whose union is 0 is NaN,
    as in torchvision.
    """
    overlap, union = overlap_and_union(*pairs_of(boxes1, boxes2, aligned, fmt))
    return (overlap / union).to(result_dtype(boxes1, boxes2))


def box_iof(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy", aligned: bool = False) -> Tensor:
    """Intersection over foreground: the part of each box of boxes1 that a box of boxes2 covers."""
    a, b = pairs_of(boxes1, boxes2, aligned, fmt)
    overlap, _ = overlap_and_union(a, b)
    return (overlap / area(a)).to(result_dtype(boxes1, boxes2))


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor, aligned: bool = False) -> Tensor:
    """GIoU (Rezatofighi et al. 2019, algorithm 1): IoU less the part of the hull that neither box covers."""
    a, b = pairs_of(boxes1, boxes2, aligned)
    overlap, union = overlap_and_union(a, b)
    width, height = hull_extent(a, b)
    hull = width * height
    return (overlap / union - (hull - union) / hull).to(result_dtype(boxes1, boxes2))


def distance_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7, aligned: bool = False) -> Tensor:
    """DIoU (Zheng et al. 2020, equation 7): IoU less the centres' distance over the hull's diagonal, both squared."""
    a, b = pairs_of(boxes1, boxes2, aligned)
    overlap, union = overlap_and_union(a, b)
    width, height = hull_extent(a, b)
    diou = overlap / union - centre_distance(a, b) / (width**2 + height**2 + eps)
    return diou.to(result_dtype(boxes1, boxes2))


def complete_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7, aligned: bool = False) -> Tensor:
    """CIoU (Zheng et al. 2020, equations 8 to 11): DIoU less alpha * v, which compares the aspect ratios."""
    a, b = pairs_of(boxes1, boxes2, aligned)
    overlap, union = overlap_and_union(a, b)
    width, height = hull_extent(a, b)
    iou = overlap / union
    diou = iou - centre_distance(a, b) / (width**2 + height**2 + eps)
    return (diou - aspect_penalty(a, b, iou, eps)).to(result_dtype(boxes1, boxes2))
