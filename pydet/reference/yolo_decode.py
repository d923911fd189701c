from __future__ import annotations

import torch
from torch import Tensor


def yolo_decode(
    inputs: Tensor,
    anchors: Tensor,
    image_size: tuple[int, int],
    classes: str = "sigmoid",
    anchors_in_cells: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """A raw head [B, A * (5 + C), H, W] as boxes in pixels (YOLOv2 section 2, YOLOv3 section 2.1).

    Returns boxes [B, H * W * A, 4] xyxy, objectness [B, H * W * A] and scores [B, H * W * A, C].
    """
    batch, channels, height, width = inputs.shape
    num_anchors = anchors.shape[0]
    dtype = torch.float64 if inputs.dtype == torch.float64 else torch.float32
    cells = inputs.to(dtype).reshape(batch, num_anchors, channels // num_anchors, height, width)
    cells = cells.permute(0, 3, 4, 1, 2)  # [B, H, W, A, 5 + C]
    stride_y, stride_x = (pixels / max(count, 1) for pixels, count in zip(image_size, (height, width), strict=True))
    anchor_width, anchor_height = anchors.to(dtype).unbind(1)
    if anchors_in_cells:
        anchor_width, anchor_height = anchor_width * stride_x, anchor_height * stride_y
    columns = torch.arange(width, dtype=dtype, device=inputs.device)[:, None]
    rows = torch.arange(height, dtype=dtype, device=inputs.device)[:, None, None]
    boxes = _boxes_around(
        (columns + torch.sigmoid(cells[..., 0])) * stride_x,
        (rows + torch.sigmoid(cells[..., 1])) * stride_y,
        0.5 * torch.exp(cells[..., 2]) * anchor_width,
        0.5 * torch.exp(cells[..., 3]) * anchor_height,
    )
    objectness = torch.sigmoid(cells[..., 4])
    logits = cells[..., 5:]
    if classes == "logits":
        scores = logits
    else:
        scores = objectness[..., None] * (torch.softmax(logits, -1) if classes == "softmax" else torch.sigmoid(logits))
    return boxes.flatten(1, 3), objectness.flatten(1, 3), scores.flatten(1, 3)


def yolo_grid_decode(
    inputs: Tensor,
    side: int,
    num_boxes: int,
    image_size: tuple[int, int],
    roots: bool = True,
    classes: str = "linear",
) -> tuple[Tensor, Tensor, Tensor]:
    """YOLO's output [B, S * S * (C + 5 * N)] as boxes in pixels (YOLO section 2; Darknet's [detection] layer).

    Returns boxes [B, S * S * N, 4] xyxy, objectness [B, S * S * N] and scores [B, S * S * N, C].
    """
    dtype = torch.float64 if inputs.dtype == torch.float64 else torch.float32
    cells = side * side
    num_classes = inputs.shape[1] // cells - 5 * num_boxes
    parts = inputs.to(dtype).split([cells * num_classes, cells * num_boxes, cells * num_boxes * 4], dim=1)
    logits = parts[0].unflatten(1, (side, side, 1, num_classes))
    objectness = parts[1].unflatten(1, (side, side, num_boxes))
    x, y, width, height = parts[2].unflatten(1, (side, side, num_boxes, 4)).unbind(-1)
    if roots:
        width, height = width * width, height * height
    image_height, image_width = image_size
    columns = torch.arange(side, dtype=dtype, device=inputs.device)[:, None]
    rows = torch.arange(side, dtype=dtype, device=inputs.device)[:, None, None]
    boxes = _boxes_around(
        (columns + x) * (image_width / side),
        (rows + y) * (image_height / side),
        0.5 * width * image_width,
        0.5 * height * image_height,
    )
    scores = objectness[..., None] * (torch.softmax(logits, -1) if classes == "softmax" else logits)
    return boxes.flatten(1, 3), objectness.flatten(1, 3), scores.flatten(1, 3)


def _boxes_around(x: Tensor, y: Tensor, half_width: Tensor, half_height: Tensor) -> Tensor:
    return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], dim=-1)
