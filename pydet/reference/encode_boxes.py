from __future__ import annotations

import torch
from torch import Tensor

from pydet.reference.box_iou import compute_dtype


def centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """[..., 4] xyxy -> [..., 2] centres and [..., 2] sizes."""
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * size, size


def encode_boxes(reference_boxes: Tensor, proposals: Tensor, weights: list[float] | None = None) -> Tensor:
    """Regression targets of `reference_boxes` [..., N, 4] seen from `proposals` [..., N, 4] -> [..., N, 4].

    t_x = (x - x_p) / w_p and t_w = log(w / w_p), times the weights (R-CNN, appendix C).
    """
    dtype = compute_dtype(reference_boxes, proposals)
    weight = torch.tensor(weights or [1.0] * 4, dtype=dtype, device=proposals.device)
    centre, size = centre_and_size(reference_boxes.to(dtype))
    own_centre, own_size = centre_and_size(proposals.to(dtype))
    shift = weight[:2] * (centre - own_centre) / own_size
    return torch.cat([shift, weight[2:] * torch.log(size / own_size)], dim=-1)
