"""YOLOv2's loss (Redmon and Farhadi 2017, section 2), as Darknet's [region] layer has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pydet import ops
from pydet.losses.cells import (
    Assigned,
    Grid,
    assigned,
    binary_classes,
    by_cell,
    joined_classes,
    predicted_boxes,
    squares,
    widened,
)
from pydet.losses.targets import Targets

EARLY = 12_800
"""For so many pictures all boxes are drawn to the shapes of their anchors (Darknet; not in the paper)."""
PRIOR_SCALE = 0.01


@dataclass(frozen=True)
class RegionSettings:
    """The numbers of a [region] section, by their names there; the defaults are those of YOLOv2's cfgs.

    Attributes:
        softmax: the classes exclude each other; else each is for itself.
        rescore: the objectness of an object is to be the IoU of its predicted box; else 1.
        bias_match: an object looks for the anchor of its shape; else for the predicted shape.
        thresh: predictions that overlap an object by more are no negatives.
    """

    softmax: bool = True
    rescore: bool = True
    bias_match: bool = True
    object_scale: float = 5.0
    noobject_scale: float = 1.0
    class_scale: float = 1.0
    coord_scale: float = 1.0
    thresh: float = 0.6


def yolov2_loss(
    raw: Tensor,
    targets: Targets,
    image_size: tuple[int, int],
    anchors: Tensor,
    settings: RegionSettings = RegionSettings(),
    seen: int | None = None,
) -> dict[str, Tensor]:
    """Loss of YOLOv2's head.

    Each object trains one anchor of the cell of its centre: half the squared errors of the sigmoid of x and y and of
    the raw w and h, times coord_scale * (2 - w * h); of the sigmoid of the objectness against the IoU of the predicted
    box, which is a constant there, times object_scale; cross-entropy of the classes times class_scale. Where two
    objects have the same predictor the last one trains it (without softmax the classes of both do). All other
    predictions train their objectness towards 0, times noobject_scale, except those that overlap an object by more than
    `thresh`. While `seen` < 12,800, predictions without an object are drawn to the middle of their cell and the shape
    of their anchor.

    Args:
        raw: [B, A * (5 + C), H, W], floating.
        targets: boxes in pixels of the network's input.
        image_size: (height, width) of the network's input in pixels.
        anchors: [A, 2] width and height in cells.
        settings: of the cfg.
        seen: pictures trained on so far, those of this batch included; None: so many that the early phase is over.

    Returns:
        "box", "objectness", "classes" and "prior" (0 after the early phase): sums over the images' predictions, divided
        by the number of images. Their gradients are Darknet's over its batch. float64 for float64 inputs, else float32.
        No value is looked at.
    """

    def class_loss(found: Assigned) -> Tensor:
        if not settings.softmax:
            return binary_classes(found, joined_classes(found, targets.labels)).sum()
        each = F.cross_entropy(found.values[:, 5:], targets.labels, reduction="none")
        return torch.where(found.owns, each, 0).sum()

    cells = by_cell(raw, len(anchors))
    return region_terms(cells, targets, image_size, anchors, settings, seen, class_loss)


def region_terms(
    cells: Tensor,
    targets: Targets,
    image_size: tuple[int, int],
    anchors: Tensor,
    settings: RegionSettings,
    seen: int | None,
    class_loss: Callable[[Assigned], Tensor],
    left_out: Tensor | None = None,
    boxless: Tensor | None = None,
) -> dict[str, Tensor]:
    """As `yolov2_loss`, of cells [B, H, W, A, 5 + C] and with any loss of the classes.

    Args:
        left_out: bool [B, H * W * A], predictions without a loss of objectness.
        boxless: bool [B], images whose boxes are not looked at, and without the prior of the early phase.
    """
    rows, columns = cells.shape[1:3]
    pixels = torch.stack([anchors[:, 0] * (image_size[1] / columns), anchors[:, 1] * (image_size[0] / rows)], dim=1)
    grid = Grid(rows, columns, pixels, image_size)
    with torch.no_grad():
        # The shape of a thin prediction is lost in the corners of its box: where shapes matter these are float64.
        exact = cells if settings.bias_match else cells.double()
        boxes = predicted_boxes(exact, anchors, image_size, in_cells=True)
        matches, predictors = ops.match_cells(
            boxes,
            targets.boxes,
            targets.counts,
            (rows, columns),
            image_size,
            priors=pixels if settings.bias_match else None,
            ignore_threshold=settings.thresh,
        )
        if boxless is not None:
            matches = torch.where(boxless[:, None], -1, matches)
            predictors = torch.where(boxless[targets.images()], -1, predictors)
    found = assigned(cells, grid, targets, matches, predictors)
    values = found.values
    centre_and_size = torch.cat([values[:, :2].sigmoid(), values[:, 2:4]], dim=1)
    box = (found.box_weights * squares(centre_and_size - found.box_targets)).sum()

    wanted = torch.ones_like(found.box_weights)
    if settings.rescore:
        theirs = boxes.flatten(0, 1)[predictors.clamp(min=0)]
        wanted = ops.box_iou(theirs, found.boxes.to(theirs.dtype), aligned=True).to(values.dtype)
    error = torch.where(found.owns, values[:, 4].sigmoid() - wanted, 0)
    negative = matches == -1
    if left_out is not None:
        negative = negative & ~left_out
    confidence = widened(cells[..., 4]).reshape(matches.shape).sigmoid()
    nothing = torch.where(negative, confidence, 0).square().sum()

    terms = {
        "box": settings.coord_scale * box,
        "objectness": 0.5 * (settings.object_scale * error.square().sum() + settings.noobject_scale * nothing),
        "classes": settings.class_scale * class_loss(found),
        "prior": torch.zeros_like(box),
    }
    if seen is not None and seen < EARLY:
        free = matches < 0
        if boxless is not None:
            free = free & ~boxless[:, None]
        terms["prior"] = _prior(cells, free)
    return {name: term / len(targets.counts) for name, term in terms.items()}


def _prior(cells: Tensor, free: Tensor) -> Tensor:
    """Draws free predictions to the middle of the cell and the anchor's shape."""
    values = widened(cells[..., :4]).reshape(*free.shape, 4)
    error = torch.cat([values[..., :2].sigmoid() - 0.5, values[..., 2:]], dim=-1)
    return PRIOR_SCALE * torch.where(free, squares(error), 0).sum()
