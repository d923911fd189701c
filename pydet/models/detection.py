"""What all detectors have in common: pictures in, boxes in the pictures' pixels out, by one path."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pydet import ops
from pydet.models.packed import pack
from pydet.placement import Placement


class DetectionModel(nn.Module):
    """A detector: `preprocess`, then `predict`, then `select`, then back into the pictures' pixels.

    The middle two are `detect_batch`: fixed shapes and no look at a value, so that they can be compiled, captured and
    exported as one. A subclass implements the first two, and the third where one call of `multiclass_nms` is not what
    its paper does.

    Attributes:
        name: Of its definition in `pydet.models.MODELS`; empty for a network of one's own.
        class_names: The name of each label.
        first_label: The label of the first class of the scores: 1 where label 0 is the background, which has no score.
        max_detections: How many objects of a picture are returned at most.
        pre_nms_top_k: How many scores of a picture enter the suppression; None for all above the threshold.
    """

    name = ""
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

    def forward(
        self, images: Sequence[Tensor], score_threshold: float = 0.25, iou_threshold: float = 0.45
    ) -> list[dict[str, Tensor]]:
        """Finds the objects in pictures of any sizes.

        Args:
            images: [3, height, width] each, RGB, floating point in 0..1 or uint8.
            score_threshold: A score must be greater.
            iou_threshold: A box falls when its IoU with a better one of its class is greater.

        Returns:
            For each picture, best score first: "boxes" [K, 4] xyxy in pixels of that picture, not clipped to it,
            "labels" int64 [K] and "scores" [K].
        """
        if self.training:
            raise RuntimeError(f"{type(self).__name__}: only evaluation is implemented; call .eval() first")
        if not images:
            return []
        x, placement = self.preprocess(images)
        boxes, scores, labels, count = self.detect_batch(x, placement.size.to(x.device), score_threshold, iou_threshold)
        boxes = placement.to_picture(boxes)
        return [
            {"boxes": b[:k], "labels": label[:k], "scores": s[:k]}
            for b, s, label, k in zip(boxes, scores, labels, count.tolist(), strict=True)
        ]

    @property
    def fused(self) -> bool:
        """Whether a batch normalisation has been folded away; such a network can neither be trained nor saved."""
        return False

    def fuse(self) -> DetectionModel:
        """Folds batch normalisation into the convolutions and lays their weights out for speed; returns self."""
        pack(self)
        return self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def batch_of(self, pictures: Sequence[Tensor]) -> Tensor:
        """Pictures of one size as a batch of the network's dtype and device."""
        like = next(self.parameters())
        shape = (len(pictures), *pictures[0].shape)
        batch = torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
        for row, picture in zip(batch, pictures, strict=True):
            row.copy_(picture)
        return batch
