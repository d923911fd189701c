from __future__ import annotations

import torch
from torch import Tensor

from pydet.reference.box_iou import box_iou, result_dtype

BACKGROUND, IGNORED, NONE = -1, -2, -1


def match_cells(
    predictions: Tensor,
    gt_boxes: Tensor,
    counts: Tensor,
    grid: tuple[int, int],
    image_size: tuple[int, int],
    mode: str = "shape",
    priors: Tensor | None = None,
    mask: list[int] | None = None,
    ignore_threshold: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Image by image and ground truth by ground truth -> matches int64 [B, H * W * N], predictors int64 [G]."""
    dtype = result_dtype(predictions, gt_boxes)
    predictions, gt_boxes = predictions.to(dtype), gt_boxes.to(dtype)
    size = gt_boxes.new_tensor(image_size).flip(0)  # width, height
    batch, rows = predictions.shape[:2]
    of_cell = rows // (grid[0] * grid[1])
    matches = predictions.new_full((batch, rows), BACKGROUND, dtype=torch.int64)
    predictors = predictions.new_full((gt_boxes.shape[0],), NONE, dtype=torch.int64)
    first = 0
    for image, truths in enumerate(gt_boxes.split(counts.tolist())):
        if ignore_threshold is not None and rows > 0:
            overlaps = (box_iou(predictions[image], truths) > ignore_threshold).any(dim=1)
            matches[image, overlaps] = IGNORED
        taken = set()
        for index, truth in enumerate(truths):
            cell = _cell(truth, grid, size)
            if cell is None or (mode == "overlap" and cell in taken):
                continue
            taken.add(cell)
            own = predictions[image, cell * of_cell : (cell + 1) * of_cell]
            best = (
                _most_overlapping(own, truth, size) if mode == "overlap" else _of_best_shape(own, truth, priors, mask)
            )
            if best is not None:
                matches[image, cell * of_cell + best] = index
                predictors[first + index] = image * rows + cell * of_cell + best
        first += len(truths)
    return matches, predictors


def _cell(truth: Tensor, grid: tuple[int, int], size: Tensor) -> int | None:
    """YOLO section 2: the cell in which the centre of the object falls; None outside and for boxes without area."""
    cells = truth.new_tensor(grid).flip(0)
    at = 0.5 * (truth[:2] + truth[2:]) * cells / size
    if not ((truth[2:] > truth[:2]) & (at >= 0) & (at < cells)).all():
        return None
    column, row = torch.minimum(at.float().floor(), cells - 1).long().tolist()  # float32, as Darknet
    return row * grid[1] + column


def _of_best_shape(own: Tensor, truth: Tensor, priors: Tensor | None, mask: list[int] | None) -> int | None:
    """YOLOv3 section 2.1: of all priors that of the highest IoU, both centred; None if it is not in the mask."""
    shapes = own[:, 2:] - own[:, :2] if priors is None else priors.to(truth.dtype)
    shape = truth[2:] - truth[:2]
    overlap = torch.minimum(shapes, shape).prod(dim=1)
    iou = overlap / (shapes.prod(dim=1) + shape.prod() - overlap)
    best = int(torch.where(iou > 0, iou, 0).argmax())
    if mask is None:
        return best
    return mask.index(best) if best in mask else None


def _most_overlapping(own: Tensor, truth: Tensor, size: Tensor) -> int | None:
    """YOLO section 2.2: the highest IoU; where none overlaps, as Darknet, the least distance of centres and sizes."""
    iou = box_iou(truth[None], own)[0]
    if (iou > 0).any():
        return int(torch.where(iou > 0, iou, 0).argmax())
    centre = (0.5 * (own[:, :2] + own[:, 2:]) - 0.5 * (truth[:2] + truth[2:])) / size
    extent = ((own[:, 2:] - own[:, :2]) - (truth[2:] - truth[:2])) / size
    squares = torch.cat([centre, extent], dim=1) ** 2
    distance = (squares[:, 0] + squares[:, 1] + squares[:, 2] + squares[:, 3]).sqrt()
    within = torch.where(distance < 20, distance, 20)
    return int(within.argmin()) if (within < 20).any() else None
