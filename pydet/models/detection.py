"""What all detectors have in common: pictures in, boxes in the pictures' pixels out, by one path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from pydet import ops
from pydet.losses import Targets
from pydet.models.packed import pack
from pydet.placement import Placement


class DetectionModel(nn.Module):
    """A detector: `preprocess`, then `predict`, then `select`, then back into the pictures' pixels.

    The middle two are `detect_batch`: fixed shapes and no look at a value, so that they can be compiled, captured and
    exported as one. A subclass implements the first two, and the third where one call of `multiclass_nms` is not what
    its paper does.

    Attributes:
        name: Of its definition in `pydet.models.MODELS`; empty for a network of one's own.
        options: What is other than in that definition, such as its width.
        class_names: The name of each label.
        first_label: The label of the first class of the scores: 1 where label 0 is the background, which has no score.
        max_detections: How many objects of a picture are returned at most.
        pre_nms_top_k: How many scores of a picture enter the suppression; None for all above the threshold.
    """

    name = ""
    options: Mapping[str, int] = MappingProxyType({})
    class_names: list[str]
    first_label = 0
    max_detections = 300
    pre_nms_top_k: int | None = None

    def preprocess(self, images: Sequence[Tensor]) -> tuple[Tensor, Placement]:
        """One batch of pictures of any sizes.

        Args:
            images: [3, height, width] each, RGB, floating point in 0..1 or uint8.

        Returns:
            [B, 3, height, width] in the dtype and on the device of the network, and where the pictures lie in it.
        """
        raise NotImplementedError

    def predict(self, x: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """All boxes of a batch.

        Args:
            x: [B, 3, height, width] as `preprocess` gives it.
            sizes: [B, 2] height and width of the part of x that each picture takes; what is beside it is padding.

        Returns:
            boxes [B, N, 4] (or [B, N, C, 4], one for each class) xyxy in pixels of x, and scores [B, N, C] in 0..1.
        """
        raise NotImplementedError

    def select(
        self, boxes: Tensor, scores: Tensor, score_threshold: float, iou_threshold: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The detections among all boxes of a batch.

        Returns:
            boxes [B, K, 4], scores [B, K], labels [B, K] and count [B]; what stands behind the count is padding.
        """
        boxes, scores, labels, _, count = ops.multiclass_nms(
            boxes, scores, score_threshold, iou_threshold, self.max_detections, self.pre_nms_top_k
        )
        return boxes, scores, labels + self.first_label, count

    def detect_batch(
        self, x: Tensor, sizes: Tensor, score_threshold: float, iou_threshold: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`predict` and `select`: from [B, 3, height, width] to boxes, scores, labels and counts of fixed shapes."""
        return self.select(*self.predict(x, sizes), score_threshold, iou_threshold)

    @property
    def num_labels(self) -> int:
        """How many labels the objects that it is trained with may have: 0 to this - 1."""
        return len(self.class_names)

    @property
    def label_names(self) -> list[str]:
        """The name of each label that is found."""
        return self.class_names

    def forward_heads(self, x: Tensor) -> Any:
        """What the heads say of a batch [B, 3, height, width], before it becomes boxes: what `loss` takes."""
        raise NotImplementedError

    def loss(self, raw: Any, targets: Targets, seen: int | None = None) -> dict[str, Tensor]:
        """What the network is trained by: the sum of these terms, each a scalar with a gradient.

        Args:
            raw: of `forward_heads`.
            targets: boxes in pixels of the batch that `forward_heads` was given, whatever size that had.
            seen: pictures trained on so far, those of this batch (in all processes) included; None for many. Only
                YOLOv2 and YOLO9000 look at it.
        """
        raise NotImplementedError

    def forward(
        self,
        images: Sequence[Tensor] | Tensor,
        targets: Sequence[dict[str, Tensor]] | Targets | None = None,
        *,
        score_threshold: float = 0.25,
        iou_threshold: float = 0.45,
        seen: int | None = None,
    ) -> Any:
        """Finds the objects in pictures of any sizes; in training mode says how wrong it is about them.

        Args:
            images: [3, height, width] each, RGB, floating point in 0..1 or uint8. In training mode with `Targets`: a
                batch [B, 3, height, width] as `preprocess` makes it.
            targets: In training mode. For a list of pictures, of each "boxes" [g, 4] xyxy in pixels of the picture and
                "labels" [g], which are checked. For a batch, `Targets`, which are not: that would wait for a GPU.
            score_threshold: A score must be greater.
            iou_threshold: A box falls when its IoU with a better one of its class is greater.
            seen: As of `loss`.

        Returns:
            For each picture, best score first: "boxes" [K, 4] xyxy in pixels of that picture, not clipped to it,
            "labels" int64 [K] and "scores" [K]. In training mode the terms of the loss by name.

        Raises:
            ValueError: targets that are missing in training mode, not one for each image, or not what `Targets.of`
                takes; pictures that `preprocess` does not take; a fused network in training mode.
            TypeError: targets or pictures of another type.
        """
        if targets is not None and not isinstance(targets, Sequence):
            hint = "; thresholds are given by name" if isinstance(targets, float) else ""
            raise TypeError(
                f"{type(self).__name__}: targets must be a list of dictionaries or Targets, got {targets!r}{hint}"
            )
        pictures = () if isinstance(images, Tensor) else images  # to go through a batch would cost a view of each row
        wrong = next((image for image in pictures if not isinstance(image, Tensor)), None)
        if wrong is not None:
            raise TypeError(f"{type(self).__name__}: images must be tensors, got {type(wrong).__name__}")
        if self.training:
            if targets is None:
                raise ValueError(f"{type(self).__name__}: targets must be given in training mode")
            if self.fused:
                raise ValueError(
                    f"{type(self).__name__}: a fused network cannot be trained, its batch normalisation has been "
                    "folded away; load it with fuse=False"
                )
            batch, truths = self._batch(images, targets)
            return self.loss(self.forward_heads(batch), truths, seen)
        if not len(images):
            return []
        x, placement = self.preprocess(list(images))
        boxes, scores, labels, count = self.detect_batch(x, placement.size.to(x.device), score_threshold, iou_threshold)
        boxes = placement.to_picture(boxes)
        return [
            {"boxes": b[:k], "labels": label[:k], "scores": s[:k]}
            for b, s, label, k in zip(boxes, scores, labels, count.tolist(), strict=True)
        ]

    def _batch(
        self, images: Sequence[Tensor] | Tensor, targets: Sequence[dict[str, Tensor]] | Targets
    ) -> tuple[Tensor, Targets]:
        if isinstance(targets, Targets) and not isinstance(images, Tensor):
            raise TypeError(f"{type(self).__name__}: images must be a batch [B, 3, height, width] with Targets")
        given = len(targets.counts) if isinstance(targets, Targets) else len(targets)
        if given != len(images):
            raise ValueError(
                f"{type(self).__name__}: targets must be one for each of the {len(images)} images, got {given}"
            )
        if isinstance(targets, Targets):
            return images, targets  # type: ignore[return-value]
        truths = Targets.of(targets, self.num_labels)
        x, placement = self.preprocess(list(images))
        return x, truths._replace(boxes=placement.to_batch(truths.boxes, truths.images())).to(x.device)

    @property
    def fused(self) -> bool:
        """Whether a batch normalisation has been folded away; such a network can neither be trained nor saved."""
        return False

    def fuse(self) -> DetectionModel:
        """Folds batch normalisation into the convolutions and lays their weights out for speed; returns self.

        Weights that require a gradient are not laid out. Maps inside, as a hook sees them, may be pooled already, and
        may be overwritten by the layers behind.
        """
        pack(self)
        return self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def new_batch(self, count: int, channels: int, size: tuple[int, int]) -> Tensor:
        """Memory for so many pictures of (height, width) `size`, of the network's dtype and device, and as it lies."""
        like = next(self.parameters())
        # As the weights lie. A network that is not fused then sums in the order of torchvision's, and of boxes whose
        # scores are nearly equal the same one is better.
        fused = any(weight.dim() == 4 and not weight.is_contiguous() for weight in self.parameters())
        layout = torch.channels_last if fused else torch.contiguous_format
        return torch.empty((count, channels, *size), dtype=like.dtype, device=like.device, memory_format=layout)

    def batch_of(self, pictures: Sequence[Tensor]) -> Tensor:
        """Pictures of one size as a batch of the network's dtype and device."""
        channels, height, width = pictures[0].shape
        batch = self.new_batch(len(pictures), channels, (height, width))
        for row, picture in zip(batch, pictures, strict=True):
            row.copy_(picture)
        return batch
