"""The ground truths of a batch, as all losses take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

NO_LABEL = -1


class Targets(NamedTuple):
    """Objects of all images of a batch, one image after another.

    Attributes:
        boxes: [G, 4] xyxy in pixels of the network's input, floating. With float64 the cell of a centre that lies on
            the border of two is Darknet's, and so is the size of a box of a few pixels to its last digit.
        labels: int64 [G], as the network's outputs count them: for SSD 0 is the background, for YOLO9000 and whatever
            has a `map=` in its cfg they are the classes of the map.
        counts: int64 [B], how many of the objects each image has; 0 is an ordinary number. All of them count; Darknet
            looks at the first 90 of an image, [region] at 30.
        image_labels: None, or int64 [B] for YOLO9000's joint training: the node of the tree that an image as a whole
            shows, whose boxes are then not looked at; -1 for an ordinary image (with boxes, or known to be empty).
    """

    boxes: Tensor
    labels: Tensor
    counts: Tensor
    image_labels: Tensor | None = None

    @classmethod
    def of(
        cls, targets: Sequence[dict[str, Tensor]], num_classes: int, image_labels: Sequence[int] | None = None
    ) -> Targets:
        """Checked targets of a list as torchvision's detectors take it: "boxes" [g, 4] and "labels" [g] of each image.

        This is the place where labels are looked at: the losses do not, since on a GPU that would wait for the device.

        Args:
            targets: of at least one image; tensors on the CPU, or on a GPU, which then is waited for.
            num_classes: labels must be less: how many the network (or the `map=` of its cfg) has.
            image_labels: as the attribute.

        Raises:
            ValueError: no image, or one without "boxes" or "labels"; a shape, a label, or a box without finite numbers,
                width and height; with the image and object.
        """
        if not targets:
            raise ValueError("Targets: targets must be those of at least one image, got none")
        for image, target in enumerate(targets):
            if "boxes" not in target or "labels" not in target:
                raise ValueError(
                    f"Targets: image {image} must have boxes and labels, got {', '.join(target) or 'none'}"
                )
            _check_image(image, target["boxes"], target["labels"], num_classes)
        boxes = torch.cat([target["boxes"] for target in targets])
        labels = torch.cat([target["labels"].long() for target in targets])
        counts = torch.tensor([len(target["boxes"]) for target in targets], device=boxes.device)
        if image_labels is None:
            return cls(boxes, labels, counts)
        return cls(boxes, labels, counts, torch.tensor(list(image_labels), dtype=torch.int64, device=boxes.device))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Targets:
        return Targets(*(t if t is None else t.to(device, non_blocking=non_blocking) for t in self))  # type: ignore[arg-type]

    def starts(self) -> Tensor:
        """int64 [B]: where the objects of each image begin."""
        return self.counts.cumsum(0) - self.counts

    def images(self) -> Tensor:
        """int64 [G]: the image of each object."""
        objects = torch.arange(self.boxes.shape[0], device=self.counts.device)
        return torch.bucketize(objects, self.counts.cumsum(0), right=True)

    def with_none(self) -> tuple[Tensor, Tensor]:
        """Boxes [G + 1, 4] and labels [G + 1]; row G stands for no object, so that every gather finds something."""
        none = torch.cat([self.boxes.new_zeros(1, 2), self.boxes.new_ones(1, 2)], dim=1)  # of finite size
        return torch.cat([self.boxes, none]), torch.cat([self.labels, self.labels.new_zeros(1)])

    def rows(self, matches: Tensor) -> Tensor:
        """From [B, N] as `match_anchors` gives it to rows of `with_none`: G where there is no match."""
        return torch.where(matches >= 0, matches + self.starts()[:, None], self.boxes.shape[0])

    def matched(self, matches: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes [B, N, 4] and labels [B, N] that [B, N] as `match_anchors` gives it means; any box and 0 for none."""
        rows = self.rows(matches).flatten()
        boxes, labels = (t.index_select(0, rows) for t in self.with_none())  # three times as fast as t[rows]
        return boxes.view(*matches.shape, 4), labels.view(matches.shape)


def _check_image(image: int, boxes: Tensor, labels: Tensor, num_classes: int) -> None:
    if boxes.dim() != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise ValueError(f"Targets: boxes of image {image} must be floating [g, 4], got {boxes.dtype} {[*boxes.shape]}")
    if labels.shape != boxes.shape[:1] or labels.is_floating_point():
        got = f"{labels.dtype} {[*labels.shape]}"
        raise ValueError(f"Targets: labels of image {image} must be integers [{len(boxes)}], got {got}")
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero().flatten().tolist()
    if wrong:
        at = f"got {int(labels[wrong[0]])} of object {wrong[0]} of image {image}"
        raise ValueError(f"Targets: labels must be 0 to {num_classes - 1}, {at}")
    empty = (~(boxes.isfinite().all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1))).nonzero().flatten().tolist()
    if empty:
        at = f"got {boxes[empty[0]].tolist()} of object {empty[0]} of image {image}"
        raise ValueError(f"Targets: boxes must be finite with x1 < x2 and y1 < y2, {at}")
