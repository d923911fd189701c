from __future__ import annotations

from typing import List, Optional  # noqa: UP035  (TorchScript reads the annotations)

import torch
from torch import Tensor

from pydet import _library  # noqa: F401  (defines torch.ops.pydet)
from pydet.ops._fakes import register_fake


def match_cells(
    predictions: Tensor,
    gt_boxes: Tensor,
    counts: Tensor,
    grid: tuple[int, int],
    image_size: tuple[int, int],
    mode: str = "shape",
    priors: Optional[Tensor] = None,  # noqa: UP045
    mask: Optional[List[int]] = None,  # noqa: UP006, UP045
    ignore_threshold: Optional[float] = None,  # noqa: UP045
) -> tuple[Tensor, Tensor]:
    """Which prediction of a YOLO grid each ground truth trains, and which are too good to be negatives.

    The cell in which the centre of a ground truth lies is responsible for it (YOLO section 2); where that is, in cells,
    is rounded to float32, as in Darknet, so that a centre on an edge of two is in the second. Which of the N
    predictions of that cell:

    - mode "shape" (YOLOv2 section 2, YOLOv3 section 2.1; Darknet's [region] and [yolo]): that of the prior of the
      highest IoU, both laid on one centre, the first of equals. With `mask` the priors are those of all heads, and a
      ground truth whose best prior is not in the mask trains nothing here. Where two have the same prediction, both
      have it in `predictors` and the last one in `matches`.
    - mode "overlap" (YOLO section 2.2; Darknet's [detection]): the predicted box of the highest IoU, the first of
      equals; where none overlaps, the one at the least distance (root of the sum of squares of the differences of
      centre and size, as fractions of the picture; below 20). Only the first ground truth of a cell counts.

    A ground truth without positive width and height, with a NaN, or whose centre is outside of the picture trains
    nothing; the `ignore_threshold` knows it all the same.

    Args:
        predictions: [B, H * W * N, 4] xyxy boxes as predicted, row (row * W + column) * N + n as `yolo_decode` gives
            them, floating.
        gt_boxes: [G, 4] xyxy, the ground truths of all images one after another, floating.
        counts: [B] integers, how many of gt_boxes each image has; an image may have none. On a GPU their values are
            not checked, that would wait for the device: a negative one is read as 0, and what would be beyond the end
            of gt_boxes as not there.
        grid: (H, W), cells.
        image_size: (height, width) of the picture in the unit of the boxes; (1, 1) for boxes in fractions of it.
        mode: "shape" or "overlap".
        priors: [K, 2] (width, height) in the unit of the boxes, positive and finite, floating; for mode "shape". None
            means the shape of each predicted box (Darknet's bias_match=0). On a GPU the values are not checked.
        mask: which of the priors the N predictions of a cell have, at most 32; None means K = N priors, all in their
            order.
        ignore_threshold: a prediction whose IoU with any ground truth of its image is more than this, and that none
            trains, is left out of the objectness loss (YOLOv3 section 2.1). None: none is.

    Returns:
        matches int64 [B, H * W * N]: the index of the ground truth in its image, -1 for a negative, -2 for what is left
        out. predictors int64 [G]: the row of predictions.flatten(0, 1) that each ground truth trains, -1 for none.

    Raises:
        RuntimeError: a shape, dtype, device or value that is none of the above; the message names it.
    """
    return torch.ops.pydet.match_cells(
        predictions, gt_boxes, counts, grid, image_size, mode, priors, mask, ignore_threshold
    )


@register_fake("pydet::match_cells")
def _match_cells_fake(
    predictions: Tensor,
    gt_boxes: Tensor,
    counts: Tensor,
    grid: list[int],
    image_size: list[int],
    mode: str = "shape",
    priors: Tensor | None = None,
    mask: list[int] | None = None,
    ignore_threshold: float | None = None,
) -> tuple[Tensor, Tensor]:
    torch._check(
        predictions.dim() == 3,
        lambda: f"match_cells: predictions must be [B, H * W * N, 4], got {list(predictions.shape)}",
    )
    matches = predictions.new_empty(predictions.shape[:2], dtype=torch.int64)
    return matches, predictions.new_empty((gt_boxes.shape[0],), dtype=torch.int64)
