from __future__ import annotations

import torch
from torch import Tensor


def yolo_decode(inputs: Tensor, anchors: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """A raw YOLOv3 head [B, A * (5 + C), H, W] as boxes in pixels (YOLOv3 section 2.1).

    Returns boxes [B, H * W * A, 4] xyxy, objectness [B, H * W * A] and scores [B, H * W * A, C] (objectness x class).
    """
    batch, channels, height, width = inputs.shape
    num_anchors = anchors.shape[0]
    dtype = torch.float64 if inputs.dtype == torch.float64 else torch.float32
    cells = inputs.to(dtype).reshape(batch, num_anchors, channels // num_anchors, height, width)
    cells = cells.permute(0, 3, 4, 1, 2)  # [B, H, W, A, 5 + C]
    anchors = anchors.to(dtype)
    image_height, image_width = image_size
    columns = torch.arange(width, dtype=dtype, device=inputs.device)[:, None]
    rows = torch.arange(height, dtype=dtype, device=inputs.device)[:, None, None]
    centre_x = (columns + torch.sigmoid(cells[..., 0])) * (image_width / max(width, 1))
    centre_y = (rows + torch.sigmoid(cells[..., 1])) * (image_height / max(height, 1))
    half_width = 0.5 * torch.exp(cells[..., 2]) * anchors[:, 0]
    half_height = 0.5 * torch.exp(cells[..., 3]) * anchors[:, 1]
    boxes = torch.stack(
        [centre_x - half_width, centre_y - half_height, centre_x + half_width, centre_y + half_height], dim=-1
    )
    objectness = torch.sigmoid(cells[..., 4])
    scores = objectness[..., None] * torch.sigmoid(cells[..., 5:])
    return boxes.flatten(1, 3), objectness.flatten(1, 3), scores.flatten(1, 3)
