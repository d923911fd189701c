from __future__ import annotations

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


def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> Tensor:
    """Intersection over union of every box of [..., N, 4] with every box of [..., M, 4] -> [..., N, M].

    Areas are not clamped and a pair whose union is 0 is NaN, as in torchvision.
    """
    dtype = compute_dtype(boxes1, boxes2)
    a, b = to_xyxy(boxes1.to(dtype), fmt), to_xyxy(boxes2.to(dtype), fmt)
    area_a = (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1])
    area_b = (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])
    top_left = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    bottom_right = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    overlap = (bottom_right - top_left).clamp(min=0)
    intersection = overlap[..., 0] * overlap[..., 1]
    iou = intersection / (area_a[..., :, None] + area_b[..., None, :] - intersection)
    return iou if torch.float64 in (boxes1.dtype, boxes2.dtype) else iou.to(torch.float32)
