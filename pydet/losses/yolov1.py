"""The loss of the first YOLO (Redmon et al. 2016, section 2.2), as Darknet's [detection] layer has it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pydet import ops
from pydet.losses.cells import squares, widened
from pydet.losses.targets import Targets


@dataclass(frozen=True)
class DetectionSettings:
    """The numbers of a [detection] section, by their names there; the defaults are those of the paper.

    Attributes:
        sqrt: width and height are predicted as their square roots.
        softmax: the classes exclude each other; else their squared errors count.
        rescore: the confidence of an object is to be the IoU of its predicted box; else 1.
    """

    sqrt: bool = True
    softmax: bool = False
    rescore: bool = True
    object_scale: float = 1.0
    noobject_scale: float = 0.5
    class_scale: float = 1.0
    coord_scale: float = 5.0


def yolov1_loss(
    raw: Tensor,
    targets: Targets,
    image_size: tuple[int, int],
    side: int,
    num_boxes: int,
    settings: DetectionSettings = DetectionSettings(),
) -> dict[str, Tensor]:
    """Loss of YOLO's grid (equation 3; half of it, so that gradients are the errors, as in Darknet).

    The first object of a cell trains the box of the cell that overlaps it most, where none does the nearest one: half
    the squared errors of its place and (root of the) size times coord_scale, of its confidence against the IoU, which
    is a constant there, times object_scale; and the classes of the cell. The confidence of all other boxes is trained
    towards 0, times noobject_scale. (The paper's text divides by nothing either.)

    Args:
        raw: [B, S * S * (C + 5 * N)] as of `yolo_grid_decode`, floating.
        targets: boxes in pixels of the network's input.
        image_size: (height, width) of the network's input in pixels.
        side: S, cells of a row and of a column.
        num_boxes: N of a cell.
        settings: of the cfg.

    Returns:
        "box", "objectness" and "classes": sums over the images' cells, divided by the number of images. Their gradients
        are Darknet's over its batch. float64 for float64 inputs, else float32. No value is looked at.
    """
    with torch.no_grad():
        # In float64, since Darknet's boxes are relative to the cell: the IoU of small ones is that exact only there.
        boxes, _, _ = ops.yolo_grid_decode(raw.double(), side, num_boxes, image_size, settings.sqrt)
        matches, predictors = ops.match_cells(
            boxes, targets.boxes, targets.counts, (side, side), image_size, mode="overlap"
        )
    cells = side * side
    num_classes = raw.shape[1] // cells - 5 * num_boxes
    parts = widened(raw).split([cells * num_classes, cells * num_boxes, cells * num_boxes * 4], dim=1)
    used = predictors >= 0
    predictor = predictors.clamp(min=0)
    classes = parts[0].reshape(-1, num_classes)[predictor // num_boxes]
    confidence, places = parts[1].flatten()[predictor], parts[2].reshape(-1, 4)[predictor]

    wanted = torch.ones_like(confidence)
    if settings.rescore:
        overlap = ops.box_iou(boxes.flatten(0, 1)[predictor], targets.boxes.to(boxes.dtype), aligned=True)
        wanted = torch.where(used, overlap.to(wanted.dtype), 0)
    truths = _place_targets(targets.boxes, predictor // num_boxes % cells, side, image_size, settings.sqrt)
    truths = torch.where(used[:, None], truths.to(places.dtype), 0)
    if settings.softmax:
        of_class = F.cross_entropy(classes, targets.labels, reduction="none")
    else:
        of_class = squares(classes - F.one_hot(targets.labels, num_classes).to(classes.dtype))
    objects = torch.where(used, confidence - wanted, 0).square().sum()
    nothing = torch.where(matches == -1, parts[1], 0).square().sum()
    terms = {
        "box": settings.coord_scale * torch.where(used, squares(places - truths), 0).sum(),
        "objectness": 0.5 * (settings.object_scale * objects + settings.noobject_scale * nothing),
        "classes": settings.class_scale * torch.where(used, of_class, 0).sum(),
    }
    return {name: term / len(targets.counts) for name, term in terms.items()}


def _place_targets(boxes: Tensor, cell: Tensor, side: int, image_size: tuple[int, int], roots: bool) -> Tensor:
    """[G, 4]: centre inside the cell, in cells, and size as a part of the picture, or the root of that."""
    height, width = image_size
    x = 0.5 * (boxes[:, 0] + boxes[:, 2]) * (side / width) - cell % side
    y = 0.5 * (boxes[:, 1] + boxes[:, 3]) * (side / height) - cell // side
    w, h = (boxes[:, 2] - boxes[:, 0]) / width, (boxes[:, 3] - boxes[:, 1]) / height
    return torch.stack([x, y, *((w.sqrt(), h.sqrt()) if roots else (w, h))], dim=1)
