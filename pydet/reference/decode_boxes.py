from __future__ import annotations

import math

import torch
from torch import Tensor

from pydet.reference.box_iou import compute_dtype
from pydet.reference.encode_boxes import centre_and_size

BBOX_XFORM_CLIP = math.log(1000 / 16)
"""What torchvision and detectron2 allow the code of a size: a box of 16 pixels becomes 1,000."""


def decode_boxes(
    rel_codes: Tensor, boxes: Tensor, weights: list[float] | None = None, bbox_xform_clip: float = BBOX_XFORM_CLIP
) -> Tensor:
    """Boxes that the codes [..., N, 4 * K] mean, seen from `boxes` [..., N, 4] -> [..., N, 4 * K] xyxy."""
    dtype = compute_dtype(rel_codes, boxes)
    codes = rel_codes.to(dtype).unflatten(-1, (rel_codes.shape[-1] // 4, 4)).unbind(-1)
    codes = torch.stack([code / weight for code, weight in zip(codes, weights or [1.0] * 4, strict=True)], dim=-1)
    centre, size = (t[..., None, :] for t in centre_and_size(boxes.to(dtype)))
    middle = codes[..., :2] * size + centre
    half = 0.5 * (torch.exp(codes[..., 2:].clamp(max=bbox_xform_clip)) * size)
    return torch.cat([middle - half, middle + half], dim=-1).flatten(-2)
