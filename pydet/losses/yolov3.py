"""YOLOv3's loss (Redmon and Farhadi 2018, section 2), as Darknet's [yolo] layer has it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pydet import ops
from pydet.losses.cells import (
    Assigned,
    Grid,
    assigned,
    by_cell,
    joined_classes,
    predicted_boxes,
    squares,
    widened,
)
from pydet.losses.targets import Targets

NEITHER = -1  # a row that sigmoid_focal_loss leaves out
CROSS_ENTROPY = -1.0, 0.0  # alpha and gamma of sigmoid_focal_loss that make it that
FOCAL = 0.25, 2.0  # RetinaNet's


def yolov3_loss(
    raw: Tensor,
    targets: Targets,
    image_size: tuple[int, int],
    anchors: Tensor,
    mask: Sequence[int],
    ignore_threshold: float = 0.5,
    truth_threshold: float = 1.0,
    focal: bool = False,
) -> dict[str, Tensor]:
    """Loss of one of YOLOv3's heads; that of the network is the sum over its heads.

    Each object trains the one anchor, of those of all heads, whose shape has the highest IoU with it, in the cell of
    its centre (section 2.1): its box, by binary cross-entropy of the centre in the cell and half the squared error of
    the raw width and height, times 2 - w * h; its objectness towards 1; its classes, each by itself (2.2). All other
    predictions train their objectness towards 0, except those that overlap an object by more than `ignore_threshold`.

    Args:
        raw: [B, A * (5 + C), H, W], floating.
        targets: boxes in pixels of the network's input.
        image_size: (height, width) of the network's input in pixels.
        anchors: [K, 2] width and height in pixels of the network's input, of all heads.
        mask: which of them this head has.
        ignore_threshold: .5 in the paper, .7 in its cfgs.
        truth_threshold: Darknet's truth_thresh: below 1, a prediction that overlaps an object by so much is trained for
            it, too.
        focal: focal loss (alpha .25, gamma 2) for objectness and classes instead of cross-entropy. The paper tried it:
            mAP dropped by 2 points (section 4).

    Returns:
        "box", "objectness" and "classes": sums over the images' predictions, divided by the number of images. Their
        gradients are Darknet's over its batch. float64 for float64 inputs, else float32. No value is looked at.
    """
    cells = by_cell(raw, len(mask))
    own = torch.stack([anchors[index] for index in mask])  # a list as index would be copied to the GPU
    grid = Grid(cells.shape[1], cells.shape[2], own, image_size)
    with torch.no_grad():
        boxes = predicted_boxes(cells, own, image_size, in_cells=False)
        matches, predictors = ops.match_cells(
            boxes,
            targets.boxes,
            targets.counts,
            (grid.rows, grid.columns),
            image_size,
            priors=anchors,
            mask=list(mask),
            ignore_threshold=ignore_threshold,
        )
    found = assigned(cells, grid, targets, matches, predictors)
    classes = joined_classes(found, targets.labels)
    kind = FOCAL if focal else CROSS_ENTROPY
    terms = {"box": box_loss(found.values, found.box_targets, found.box_weights).sum()}
    positive = matches >= 0
    if truth_threshold < 1:
        overlapping = ops.match_anchors(boxes, targets.boxes, targets.counts, truth_threshold, mode="threshold")
        positive = positive | (overlapping >= 0)
        more, classes = _overlapping_too(cells, grid, targets, found, classes, overlapping, matches, predictors, kind)
    # One column, whose class is 0 for an object and 1, the background, for none.
    wanted = torch.where(positive, 0, torch.where(matches == -1, 1, NEITHER))
    objectness = widened(cells[..., 4]).reshape(*matches.shape, 1)
    terms["objectness"] = ops.sigmoid_focal_loss(objectness, wanted, *kind, "sum")
    of_classes = ops.sigmoid_focal_loss(found.values[:, 5:].contiguous(), classes, *kind)
    terms["classes"] = torch.where(found.owns, of_classes.sum(1), 0).sum()
    if truth_threshold < 1:
        terms = {name: term + more[name] if name in more else term for name, term in terms.items()}
    return {name: term / len(targets.counts) for name, term in terms.items()}


def box_loss(values: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """[...] of raw outputs [..., 4 and more]; its gradients are s * (sigmoid(x) - t) and s * (w - t), as Darknet's."""
    centre = F.binary_cross_entropy_with_logits(values[..., :2], wanted[..., :2], reduction="none").sum(-1)
    return weights * (centre + squares(values[..., 2:4] - wanted[..., 2:]))


def _overlapping_too(
    cells: Tensor,
    grid: Grid,
    targets: Targets,
    found: Assigned,
    classes: Tensor,
    overlapping: Tensor,  # [B, H * W * A]
    matches: Tensor,  # [B, H * W * A]
    predictors: Tensor,  # [G]
    kind: tuple[float, float],
) -> tuple[dict[str, Tensor], Tensor]:
    """Darknet's truth_thresh: losses of predictions that no object chose and that overlap one, and the classes of
    those that do both, which add up."""
    boxes, labels = targets.matched(overlapping)
    extra = (matches < 0) & (overlapping >= 0)
    everywhere = torch.arange(matches.numel(), device=matches.device).view_as(matches)
    _, row, column, anchor = grid.place(everywhere)
    values = widened(cells).reshape(*matches.shape, -1)
    theirs = torch.where(extra[..., None], boxes, targets.with_none()[0][-1])
    wanted = grid.box_targets(theirs, row, column, anchor).to(values.dtype)
    weights = torch.where(extra, grid.size_weights(theirs).to(values.dtype), 0)
    label = torch.where(extra, labels, NEITHER)
    more = {
        "box": box_loss(values, wanted, weights).sum(),
        "classes": ops.sigmoid_focal_loss(values[..., 5:].contiguous(), label, *kind, "sum"),
    }
    predictor = predictors.clamp(min=0)
    both = found.used & (overlapping.flatten()[predictor] >= 0)
    also = F.one_hot(labels.flatten()[predictor], classes.shape[1]).to(classes.dtype)
    return more, torch.maximum(classes, also * both[:, None])
