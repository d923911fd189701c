from __future__ import annotations

import torch
from torch import Tensor

from pydet.ops.box_iou import box_iof, box_iou


def with_last_pixel(boxes: Tensor) -> Tensor:
    """Boxes whose last corner lies behind the pixel that it named, in a type that holds it."""
    if boxes.dtype != torch.float64:
        boxes = boxes.float() if boxes.is_floating_point() else boxes.long()
    return torch.cat((boxes[..., :2], boxes[..., 2:] + 1), dim=-1)


def bbox_overlaps(
    bboxes1: Tensor, bboxes2: Tensor, mode: str = "iou", aligned: bool = False, offset: int = 0
) -> Tensor:
    """`box_iou` and `box_iof` by the name and with the arguments of `mmcv.ops.bbox_overlaps`.

    Args:
        bboxes1: [..., N, 4] xyxy, any unit, floating or integer.
        bboxes2: [..., M, 4] xyxy, the same leading dimensions and device.
        mode: "iou" (intersection over union) or "iof" (intersection over foreground, the area of bboxes1).
        aligned: each box only with the box at the same place of bboxes2, which has the shape of bboxes1, [..., 4].
        offset: 1 where the corners are pixels, both inside of the box, whose width is x2 - x1 + 1; else 0.

    Returns:
        [..., N, M], or [...] where aligned, of the type and differentiable as `box_iou`; NaN where a divisor is 0.

    Raises:
        RuntimeError: a shape, dtype, device, mode or offset that is none of the above; the message names it.
    """
    if mode != "iou" and mode != "iof":
        raise RuntimeError(f"bbox_overlaps: mode must be 'iou' or 'iof', got '{mode}'")
    if offset != 0 and offset != 1:
        raise RuntimeError(f"bbox_overlaps: offset must be 0 or 1, got {offset}")
    if offset == 1:
        bboxes1, bboxes2 = with_last_pixel(bboxes1), with_last_pixel(bboxes2)
    if mode == "iou":
        return box_iou(bboxes1, bboxes2, "xyxy", aligned)
    return box_iof(bboxes1, bboxes2, "xyxy", aligned)
