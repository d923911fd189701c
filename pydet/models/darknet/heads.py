"""The layers of a Darknet network that say where objects are."""

from __future__ import annotations

import torch
from torch import Tensor

from pydet import ops
from pydet.models.darknet.base import Before, Layer
from pydet.models.darknet.cfg import Section


class Yolo(Layer):
    """YOLOv3's detection layer: `mask` chooses its anchors from those of all such layers.

    `forward` passes the raw map [B, A * (5 + C), H, W] on; `decode` turns it into boxes.
    """

    def __init__(self, section: Section, before: Before) -> None:
        super().__init__(section, before)
        self.num_classes = section.integer("classes", at_least=1)
        total = section.integer("num", at_least=1)
        numbers = section.numbers("anchors")
        if len(numbers) < 2 * total:
            raise section.error(f"num={total} anchors are {2 * total} numbers, got {len(numbers)}")
        if not all(0 < number < 1e6 for number in numbers[: 2 * total]):
            raise section.error("anchors must be sizes in pixels, greater than 0")
        self.mask = section.integers("mask") if "mask" in section.options else list(range(total))
        for index in self.mask:
            if not 0 <= index < total:
                raise section.error(f"mask must hold indices of the anchors, 0 to {total - 1}, got {index}")
        # [A, 2] width and height in pixels of the network's input. Not a buffer: half a network keeps whole anchors.
        self.anchors = torch.tensor([numbers[2 * i : 2 * i + 2] for i in self.mask], device="cpu")
        self._check_channels(before)

    def _check_channels(self, before: Before) -> None:
        channels = before.shape(before.index - 1)[0]
        needed = len(self.mask) * (5 + self.num_classes)
        if channels != needed:
            last = before.sections[-1] if before.sections else None
            what = "filters" if last is not None and last.name == "convolutional" else "channels"
            raise self.section.error(
                f"layer {before.index - 1} before it must give {needed} {what}, {len(self.mask)} anchors x "
                f"(5 + {self.num_classes} classes), but gives {channels}"
            )

    def forward(self, x: Tensor) -> Tensor:
        return x

    def decode(self, raw: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """`pydet.ops.yolo_decode` of its map for pictures of [height, width] pixels."""
        if self.anchors.device != raw.device:
            self.anchors = self.anchors.to(raw.device)
        return ops.yolo_decode(raw, self.anchors, image_size)
