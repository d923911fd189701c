"""What the losses of YOLOv2, YOLO9000 and YOLOv3 share: a grid of cells with anchors, and the objects in it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pydet import ops
from pydet.losses.targets import Targets


def widened(t: Tensor) -> Tensor:
    """float32 at least: losses are not computed in half precision."""
    return t.to(torch.promote_types(t.dtype, torch.float32))


def by_cell(raw: Tensor, num_anchors: int) -> Tensor:
    """A raw map [B, A * (5 + C), H, W] as [B, H, W, A, 5 + C], without a copy."""
    return raw.unflatten(1, (num_anchors, raw.shape[1] // num_anchors)).permute(0, 3, 4, 1, 2)


@torch.no_grad()
def predicted_boxes(cells: Tensor, anchors: Tensor, image_size: tuple[int, int], in_cells: bool) -> Tensor:
    """[B, H * W * A, 4] xyxy in pixels, as `yolo_decode` gives them, of cells as `by_cell` does."""
    # yolo_decode wants a class: the first one alone keeps the scores of the others from being computed.
    few = cells[..., :6].permute(0, 3, 4, 1, 2).flatten(1, 2).contiguous()
    return ops.yolo_decode(few, anchors, image_size, "logits", anchors_in_cells=in_cells)[0]


class Grid(NamedTuple):
    """Where the cells of a map lie, in pixels of the network's input.

    Attributes:
        rows, columns: of cells.
        anchors: [A, 2] width and height in pixels.
        image_size: (height, width).
    """

    rows: int
    columns: int
    anchors: Tensor
    image_size: tuple[int, int]

    def box_targets(self, boxes: Tensor, row: Tensor, column: Tensor, anchor: Tensor) -> Tensor:
        """[..., 4]: x and y inside the cell, in cells, and log(w / anchor's w), log(h / anchor's h)."""
        height, width = self.image_size
        x = 0.5 * (boxes[..., 0] + boxes[..., 2]) * (self.columns / width) - column
        y = 0.5 * (boxes[..., 1] + boxes[..., 3]) * (self.rows / height) - row
        scale = ((boxes[..., 2:] - boxes[..., :2]) / self.anchors[anchor]).log()
        return torch.stack([x, y, scale[..., 0], scale[..., 1]], dim=-1)

    def size_weights(self, boxes: Tensor) -> Tensor:
        """[...]: 2 - w * h as fractions of the picture: small boxes count more, as in Darknet."""
        area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
        return 2 - area / (self.image_size[0] * self.image_size[1])

    def place(self, predictor: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Image, row, column and anchor of an index of the flattened predictions."""
        num_anchors = self.anchors.shape[0]
        cell = predictor // num_anchors
        image = cell // (self.rows * self.columns)
        return image, cell // self.columns % self.rows, cell % self.columns, predictor % num_anchors


class Assigned(NamedTuple):
    """The objects that train a predictor of this grid. One row for each object of the batch, so no shape depends on
    how many do; those that do not have `used` False, and values that do no harm.

    Attributes:
        values: [G, 5 + C] raw outputs of the predictor.
        used: bool [G].
        owner: int64 [G], which object has the predictor: where two want the same one, the last of them.
        boxes: [G, 4] xyxy in pixels, of the dtype of the targets.
        box_targets: [G, 4] as of `Grid`.
        box_weights: [G], 2 - w * h for owners, 0 for the others.
    """

    values: Tensor
    used: Tensor
    owner: Tensor
    boxes: Tensor
    box_targets: Tensor
    box_weights: Tensor

    @property
    def owns(self) -> Tensor:
        """bool [G]: whether the object has a predictor to itself, or is the last one of those that share it."""
        return self.used & (self.owner == torch.arange(len(self.owner), device=self.owner.device))


def assigned(cells: Tensor, grid: Grid, targets: Targets, matches: Tensor, predictors: Tensor) -> Assigned:
    """Rows of `cells` ([B, H, W, A, 5 + C]) for the result of `match_cells`."""
    used = predictors >= 0
    predictor = predictors.clamp(min=0)
    image, row, column, anchor = grid.place(predictor)
    values = widened(cells[image, row, column, anchor])
    matched = targets.rows(matches).flatten()[predictor]
    # Objects without a predictor get the anchor's own size: no logarithm of what may be 0.
    width, height = grid.anchors.to(targets.boxes.dtype)[anchor].unbind(1)
    harmless = torch.stack([torch.zeros_like(width), torch.zeros_like(width), width, height], dim=1)
    boxes = torch.where(used[:, None], targets.boxes, harmless)
    truths = grid.box_targets(boxes, row, column, anchor).to(values.dtype)
    found = Assigned(values, used, matched, boxes, truths, grid.size_weights(boxes).to(values.dtype))
    return found._replace(box_weights=torch.where(found.owns, found.box_weights, 0))


def squares(difference: Tensor) -> Tensor:
    """Half the sum of squares of the last dimension, whose gradient is the difference."""
    return 0.5 * difference.square().sum(-1)


def joined_classes(found: Assigned, labels: Tensor) -> Tensor:
    """[G, C] of 0 and 1, right for the owners: the labels of all objects that share the predictor."""
    num_objects, num_classes = len(labels), found.values.shape[1] - 5
    row = torch.where(found.used, found.owner, num_objects)
    one_hot = found.values.new_zeros(num_objects + 1, num_classes)
    return one_hot.index_put((row, labels), one_hot.new_ones(()))[:num_objects]


def binary_classes(found: Assigned, classes: Tensor) -> Tensor:
    """[G] binary cross-entropy of the owners' classes ([G, C] of 0 and 1), each class by itself."""
    each = F.binary_cross_entropy_with_logits(found.values[:, 5:], classes, reduction="none")
    return torch.where(found.owns, each.sum(1), 0)
