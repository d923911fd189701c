"""Box utilities of torchvision.ops: a few elementwise operations of torch.

Plain functions, not operators: there is nothing to fuse by hand, autograd, vmap, every device and TorchScript come with
torch's own operations, and torch.compile fuses them into what stands around, which an operator of ours would prevent.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _check_boxes(op: str, boxes: Tensor) -> None:
    if boxes.dim() == 0 or boxes.size(-1) != 4:
        raise RuntimeError(f"{op}: boxes must be [..., 4], got {list(boxes.shape)}")


def _check_format(op: str, name: str, fmt: str) -> None:
    if fmt != "xyxy" and fmt != "xywh" and fmt != "cxcywh":
        raise ValueError(f"{op}: {name} must be 'xyxy', 'xywh' or 'cxcywh', got '{fmt}'")


def box_area(boxes: Tensor, fmt: str = "xyxy") -> Tensor:
    """Areas of boxes, with their sign: negative where one side is inverted.

    Args:
        boxes: [..., 4] in any unit, floating or integer.
        fmt: "xyxy", "xywh" or "cxcywh".

    Returns:
        [...] of the boxes' dtype, but float32 for half precision and int32 for narrower integers, which would overflow.

    Raises:
        RuntimeError: boxes that are not [..., 4].
        ValueError: another `fmt`.
    """
    _check_boxes("box_area", boxes)
    _check_format("box_area", "fmt", fmt)
    if boxes.is_floating_point():
        if boxes.dtype != torch.float64:
            boxes = boxes.float()
    elif boxes.dtype != torch.int64:
        boxes = boxes.int()
    if fmt == "xyxy":
        return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    return boxes[..., 2] * boxes[..., 3]


def box_convert(boxes: Tensor, in_fmt: str, out_fmt: str) -> Tensor:
    """Boxes in another format; a copy where the formats are the same.

    Args:
        boxes: [..., 4] in any unit.
        in_fmt: "xyxy" (corners), "xywh" (top left corner, size) or "cxcywh" (centre, size).
        out_fmt: one of the same.

    Returns:
        [..., 4]; floating where a half is taken of integers.

    Raises:
        RuntimeError: boxes that are not [..., 4].
        ValueError: another format (torchvision's rotated boxes are not served).
    """
    _check_boxes("box_convert", boxes)
    _check_format("box_convert", "in_fmt", in_fmt)
    _check_format("box_convert", "out_fmt", out_fmt)
    if in_fmt == out_fmt:
        return boxes.clone()
    a, b, c, d = boxes.unbind(-1)
    if in_fmt == "xywh":
        c, d = a + c, b + d
    elif in_fmt == "cxcywh":
        a, b, c, d = a - 0.5 * c, b - 0.5 * d, a + 0.5 * c, b + 0.5 * d
    if out_fmt == "xywh":
        c, d = c - a, d - b
    elif out_fmt == "cxcywh":
        a, b, c, d = (a + c) / 2, (b + d) / 2, c - a, d - b
    return torch.stack((a, b, c, d), dim=-1)


def clip_boxes_to_image(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes with their corners moved into the picture.

    Args:
        boxes: [..., 4] xyxy in pixels.
        size: (height, width) of the picture in pixels.

    Returns:
        [..., 4] of the same dtype.

    Raises:
        RuntimeError: boxes that are not [..., 4].
    """
    _check_boxes("clip_boxes_to_image", boxes)
    height, width = size
    x, y = boxes[..., 0::2].clamp(min=0, max=width), boxes[..., 1::2].clamp(min=0, max=height)
    return torch.stack((x, y), dim=-1).reshape(boxes.shape)


def remove_small_boxes(boxes: Tensor, min_size: float) -> Tensor:
    """Which boxes have both sides of at least `min_size`.

    Args:
        boxes: [N, 4] xyxy in any unit.
        min_size: in the same unit.

    Returns:
        int64 [K], their indices in increasing order.

    Raises:
        RuntimeError: boxes that are not [..., 4].
    """
    _check_boxes("remove_small_boxes", boxes)
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return torch.where((width >= min_size) & (height >= min_size))[0]
