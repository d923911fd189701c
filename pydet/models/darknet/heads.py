"""The layers of a Darknet network that say where objects are: [yolo], [region] and [detection]."""

from __future__ import annotations

from fractions import Fraction
from functools import cached_property
from types import MappingProxyType

import torch
from torch import Tensor

from pydet import ops
from pydet.losses import (
    DetectionSettings,
    RegionSettings,
    Targets,
    TreeTables,
    yolo9000_loss,
    yolov1_loss,
    yolov2_loss,
    yolov3_loss,
)
from pydet.models.darknet.base import Before, Layer
from pydet.models.darknet.cfg import Section
from pydet.wordtree import TreeError, WordTree, find_file, read_map


class Head(Layer):
    """`forward` passes the raw map on; `decode` turns it into boxes.

    Attributes:
        num_classes: How many scores a box has.
        tree: Where the classes are the nodes of a WordTree.
    """

    num_classes: int
    tree: WordTree | None = None

    def __init__(self, section: Section, before: Before) -> None:
        super().__init__(section, before)
        self.pixels = before.strides[-1] if before.strides else Fraction(1)  # side of a cell
        self.built_for = before.input_shape[1:]
        # Where rows were rounded up or fell off the edges, a map does not tell how large the input was.
        cells = before.shape(before.index - 1)[1:]
        self.one_size = any(n * self.pixels != length for n, length in zip(cells, self.built_for, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        return x

    def decode(self, raw: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """The boxes of its map for pictures of [height, width] pixels.

        Returns:
            boxes [B, N, 4] xyxy in pixels, objectness [B, N], scores [B, N, C] = objectness * class probability; with
            a tree, the classes' logits instead.
        """
        raise NotImplementedError

    def loss(self, raw: Tensor, targets: Targets, seen: int | None = None) -> dict[str, Tensor]:
        """The terms of its loss, as `DetectionModel.loss`; their settings are those of the section."""
        raise NotImplementedError

    @property
    def num_labels(self) -> int:
        """How many labels the objects may have that it is trained with."""
        return self.num_classes if self._class_map is None else len(self._class_map)

    @property
    def label_classes(self) -> list[int] | None:
        """Which of its classes each label of the objects is; None where they are the same."""
        return None if self._class_map is None else self._class_map.tolist()

    @cached_property
    def _class_map(self) -> Tensor | None:
        """int64: which of its classes each label is, where the cfg has a `map`. It is for training only."""
        if "map" not in self.section.options:
            return None
        try:
            return torch.tensor(read_map(self.section.text("map"), self.num_classes), device="cpu")
        except TreeError as error:
            raise self.section.error(f"map={error}") from error

    def _mapped(self, targets: Targets) -> Targets:
        if self._class_map is None:
            return targets
        self._class_map = self._class_map.to(targets.labels.device)
        return targets._replace(labels=self._class_map[targets.labels])

    def input_size(self, raw: Tensor) -> tuple[int, int]:
        """(height, width) of the network's input that gives such a map."""
        if self.one_size:
            return self.built_for
        height, width = (n * self.pixels.numerator // self.pixels.denominator for n in raw.shape[2:])
        return height, width

    def _check_channels(self, before: Before, anchors: int) -> None:
        channels = before.shape(before.index - 1)[0]
        needed = anchors * (5 + self.num_classes)
        if channels != needed:
            last = before.sections[-1] if before.sections else None
            what = "filters" if last is not None and last.name == "convolutional" else "channels"
            raise self.section.error(
                f"layer {before.index - 1} before it must give {needed} {what}, {anchors} anchors x "
                f"(5 + {self.num_classes} classes), but gives {channels}"
            )


def _anchors(section: Section, total: int, unit: str) -> Tensor:
    """[total, 2] width and height."""
    numbers = section.numbers("anchors")
    if len(numbers) < 2 * total:
        raise section.error(f"num={total} anchors are {2 * total} numbers, got {len(numbers)}")
    if not all(0 < number < 1e6 for number in numbers[: 2 * total]):
        raise section.error(f"anchors must be sizes in {unit}, greater than 0")
    return torch.tensor(numbers[: 2 * total], device="cpu").reshape(total, 2)


class Yolo(Head):
    """YOLOv3's detection layer: `mask` chooses its anchors from those of all such layers."""

    unsupported = MappingProxyType({"scale_x_y": 1, "new_coords": 0})

    def __init__(self, section: Section, before: Before) -> None:
        super().__init__(section, before)
        self.num_classes = section.integer("classes", at_least=1)
        total = section.integer("num", at_least=1)
        anchors = _anchors(section, total, "pixels")
        self.mask = section.integers("mask") if "mask" in section.options else list(range(total))
        for index in self.mask:
            if not 0 <= index < total:
                raise section.error(f"mask must hold indices of the anchors, 0 to {total - 1}, got {index}")
        # [A, 2] width and height in pixels of the network's input. Not a buffer: half a network keeps whole anchors.
        self.anchors = anchors[self.mask]
        self.all_anchors = anchors
        self._check_channels(before, len(self.mask))

    def loss(self, raw: Tensor, targets: Targets, seen: int | None = None) -> dict[str, Tensor]:
        if self.all_anchors.device != raw.device:
            self.all_anchors = self.all_anchors.to(raw.device)
        return yolov3_loss(
            raw,
            self._mapped(targets),
            self.input_size(raw),
            self.all_anchors,
            self.mask,
            self.section.number("ignore_thresh", 0.5),
            self.section.number("truth_thresh", 1),
            bool(self.section.integer("focal_loss", 0)),
        )

    def decode(self, raw: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        if self.anchors.device != raw.device:
            self.anchors = self.anchors.to(raw.device)
        return ops.yolo_decode(raw, self.anchors, image_size)


class Region(Head):
    """YOLOv2's detection layer, and with a tree YOLO9000's: anchors in cells, a softmax over the classes."""

    unsupported = MappingProxyType({"background": 0})

    def __init__(self, section: Section, before: Before) -> None:
        super().__init__(section, before)
        self.num_classes = section.integer("classes", 20, at_least=1)
        if section.integer("coords", 4) != 4:
            raise section.error(f"coords must be 4, got {section.integer('coords')}")
        total = section.integer("num", 1, at_least=1)
        self.anchors = _anchors(section, total, "cells")  # as of Yolo, but of one cell's width and height
        self._check_channels(before, total)
        self.classes = "softmax" if section.integer("softmax", 0) else "sigmoid"
        if "tree" in section.options:
            self.tree = before.tree or self._read_tree()
            self.classes = "logits"
            if len(self.tree) != self.num_classes:
                raise section.error(f"classes={self.num_classes}, but its tree has {len(self.tree)} nodes")
            if find_file(section.options.get("map", "")) is not None:
                _ = self._class_map  # a bad one is an error at once; a missing one does no harm before training
        self.tables: TreeTables | None = None

    @cached_property
    def settings(self) -> RegionSettings:
        """Of the loss; what the section leaves out is as in Darknet."""
        number, integer = self.section.number, self.section.integer
        return RegionSettings(
            softmax=bool(integer("softmax", 0)),
            rescore=bool(integer("rescore", 0)),
            bias_match=bool(integer("bias_match", 0)),
            object_scale=number("object_scale", 1),
            noobject_scale=number("noobject_scale", 1),
            class_scale=number("class_scale", 1),
            coord_scale=number("coord_scale", 1),
            thresh=number("thresh", 0.5),
        )

    def loss(self, raw: Tensor, targets: Targets, seen: int | None = None) -> dict[str, Tensor]:
        if self.anchors.device != raw.device:
            self.anchors = self.anchors.to(raw.device)
        targets, image_size = self._mapped(targets), self.input_size(raw)
        if self.tree is None:
            return yolov2_loss(raw, targets, image_size, self.anchors, self.settings, seen)
        if self.tables is None or self.tables.parents.device != raw.device:
            self.tables = TreeTables.of(self.tree, raw.device)
        return yolo9000_loss(raw, targets, image_size, self.anchors, self.tables, self.settings, seen)

    def _read_tree(self) -> WordTree:
        try:
            return WordTree.read(self.section.text("tree"))
        except TreeError as error:
            raise self.section.error(f"tree={error}") from error

    def decode(self, raw: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        if self.anchors.device != raw.device:
            self.anchors = self.anchors.to(raw.device)
        if self.tree is None:
            return ops.yolo_decode(raw, self.anchors, image_size, self.classes, anchors_in_cells=True)
        # The nodes are thousands, and few boxes hold anything: their logits stay where they are, seen as rows.
        by_anchor = raw.unflatten(1, (self.anchors.shape[0], 5 + self.num_classes))
        first = by_anchor[:, :, :6].flatten(1, 2)
        boxes, objectness, _ = ops.yolo_decode(first, self.anchors, image_size, self.classes, anchors_in_cells=True)
        return boxes, objectness, by_anchor[:, :, 5:].permute(0, 3, 4, 1, 2).flatten(1, 3)


class Grid(Head):
    """YOLO's first detection layer, [detection]: classes, confidences and boxes of side x side cells, one vector."""

    def __init__(self, section: Section, before: Before) -> None:
        super().__init__(section, before)
        self.num_classes = section.integer("classes", 1, at_least=1)
        if section.integer("coords", 1) != 4:
            raise section.error(f"coords must be 4, got {section.integer('coords', 1)}")
        self.side = section.integer("side", 7, at_least=1)
        self.num = section.integer("num", 1, at_least=1)
        self.roots = bool(section.integer("sqrt", 0))
        self.classes = "softmax" if section.integer("softmax", 0) else "linear"
        channels, height, width = before.shape(before.index - 1)
        needed, given = self.side**2 * (self.num_classes + 5 * self.num), channels * height * width
        if given != needed:
            raise section.error(
                f"layer {before.index - 1} before it must give {needed} numbers, {self.side} x {self.side} cells x "
                f"({self.num_classes} classes + 5 x {self.num} boxes), but gives {given}"
            )

    @cached_property
    def settings(self) -> DetectionSettings:
        """Of the loss; what the section leaves out is as in Darknet."""
        self.section.refuse_in_training("forced")
        self.section.refuse_in_training("random")
        return DetectionSettings(
            sqrt=self.roots,
            softmax=self.classes == "softmax",
            rescore=bool(self.section.integer("rescore", 0)),
            object_scale=self.section.number("object_scale", 1),
            noobject_scale=self.section.number("noobject_scale", 1),
            class_scale=self.section.number("class_scale", 1),
            coord_scale=self.section.number("coord_scale", 1),
        )

    def loss(self, raw: Tensor, targets: Targets, seen: int | None = None) -> dict[str, Tensor]:
        return yolov1_loss(raw.flatten(1), targets, self.built_for, self.side, self.num, self.settings)

    def decode(self, raw: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        return ops.yolo_grid_decode(raw.flatten(1), self.side, self.num, image_size, self.roots, self.classes)
