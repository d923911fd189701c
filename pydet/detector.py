"""`Detector`: pictures in, `Detections` out. What `pydet.load` returns, and what the command line uses."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, overload

import torch
from PIL import Image
from torch import Tensor, nn

from pydet.draw import draw_boxes
from pydet.image import ImageSource, read_image
from pydet.outputs import save_picture


class Detection(NamedTuple):
    """One object: its class, how sure the model is (0..1), and its box (x1, y1, x2, y2) in pixels of the picture."""

    name: str
    score: float
    box: tuple[float, float, float, float]
    label: int


@dataclass(frozen=True)
class Detections:
    """The objects found in one picture, best score first. Iterating gives a `Detection` each.

    Attributes:
        boxes: float32 ``[K, 4]``: x1, y1, x2, y2 in pixels of the upright picture, cut at its edges.
        labels: int64 ``[K]``: index into `class_names`.
        scores: float32 ``[K]``: objectness times class probability, 0..1.
        class_names: The names of all classes that the model knows.
        image_size: (height, width) of the upright picture in pixels.
        path: The file it came from; None for a picture that came from memory.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    path: str | None = None
    source: ImageSource | None = field(default=None, repr=False)

    @property
    def names(self) -> list[str]:
        """The class name of each detection, ``[K]``."""
        return [self.class_names[label] for label in self.labels.tolist()]

    def __len__(self) -> int:
        return len(self.boxes)

    def __iter__(self) -> Iterator[Detection]:
        rows = zip(self.names, self.scores.tolist(), self.boxes.tolist(), self.labels.tolist(), strict=True)
        for name, score, (x1, y1, x2, y2), label in rows:
            yield Detection(name, score, (x1, y1, x2, y2), label)

    def __str__(self) -> str:
        return self.table()

    def table(self) -> str:
        """The detections as aligned plain text, a line each: name, score, box; "nothing detected" when empty."""
        if not len(self):
            return "nothing detected"
        width = max(len("class"), *(len(name) for name in self.names))
        lines = [f"{'class':<{width}}  score" + "".join(f"{side:>8}" for side in ("x1", "y1", "x2", "y2"))]
        for found in self:
            lines.append(f"{found.name:<{width}}  {found.score:5.2f}" + "".join(f"{side:8.1f}" for side in found.box))
        return "\n".join(lines)

    def draw(self) -> Image.Image:
        """The picture with the boxes drawn on it. It is read again from where it came from, not kept in memory.

        Raises:
            ImageError: The file is no longer there.
        """
        if self.source is None:
            raise ValueError("draw: these detections do not know their picture; use pydet.draw.draw_boxes")
        return draw_boxes(read_image(self.source), self.boxes, self.labels, self.scores, self.class_names)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the picture with the boxes drawn on it; the ending (.jpg, .png, ...) chooses the format.

        Raises:
            ValueError: No picture format has that ending.
            OSError: The file cannot be written; an older file of that name is then still whole.
        """
        save_picture(self.draw(), Path(path))


class Detector:
    """A model with the picture handling around it.

    Args:
        model: A detection model of `pydet.models`: called in evaluation mode on a list of float pictures
            ``[3, H, W]`` in 0..1 with a score and an IoU threshold, it returns one dict of boxes, labels and scores
            each; it knows its `class_names`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval()
        self.class_names = tuple(model.class_names)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @overload
    def detect(
        self, images: ImageSource, threshold: float = ..., iou_threshold: float = ..., batch_size: int = ...
    ) -> Detections: ...
    @overload
    def detect(
        self, images: Sequence[ImageSource], threshold: float = ..., iou_threshold: float = ..., batch_size: int = ...
    ) -> list[Detections]: ...
    def detect(
        self,
        images: ImageSource | Sequence[ImageSource],
        threshold: float = 0.25,
        iou_threshold: float = 0.45,
        batch_size: int = 8,
    ) -> Detections | list[Detections]:
        """Finds objects in one picture, or in each of a list of pictures of any sizes.

        Args:
            images: Whatever `read_image` takes, or a list or tuple of such.
            threshold: Keep objects with a score above this, 0..1.
            iou_threshold: Of two boxes of one class that overlap more than this (intersection over union), only the
                better one is kept, 0..1.
            batch_size: How many pictures the model sees at once; more needs more memory.

        Returns:
            Detections for one picture, a list of them for a list. Boxes are cut at the picture's edges; an object
            that would lie wholly outside is left out.

        Raises:
            ImageError: A picture cannot be read; nothing is returned for the others.
            ValueError: A threshold is outside 0..1, or batch_size is below 1.
        """
        check_thresholds(threshold, iou_threshold)
        if batch_size < 1:
            raise ValueError(f"detect: batch_size must be at least 1, got {batch_size}")
        if not isinstance(images, (list, tuple)):
            return self._detect_batch([images], threshold, iou_threshold)[0]
        found: list[Detections] = []
        for start in range(0, len(images), batch_size):
            found += self._detect_batch(images[start : start + batch_size], threshold, iou_threshold)
        return found

    @torch.inference_mode()
    def _detect_batch(
        self, sources: Sequence[ImageSource], threshold: float, iou_threshold: float
    ) -> list[Detections]:
        pictures = [read_image(source) for source in sources]
        inputs = [picture.to(self.device).float().div_(255) for picture in pictures]
        results = self.model(inputs, threshold, iou_threshold)
        return [
            self._detections(result, source, (picture.shape[1], picture.shape[2]))
            for result, source, picture in zip(results, sources, pictures, strict=True)
        ]

    def _detections(self, result: dict[str, Tensor], source: ImageSource, image_size: tuple[int, int]) -> Detections:
        height, width = image_size
        limits = torch.tensor([width, height, width, height], dtype=torch.float32)
        boxes = result["boxes"].float().cpu().clamp(min=0).minimum(limits)
        scores = result["scores"].float().cpu()
        order = scores.argsort(descending=True, stable=True)
        order = order[((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))[order]]
        path = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
        return Detections(
            boxes[order], result["labels"].cpu()[order], scores[order], self.class_names, image_size, path, source
        )


def check_thresholds(threshold: float, iou_threshold: float) -> None:
    """Raises ValueError unless both are in 0..1."""
    for name, value in (("threshold", threshold), ("iou_threshold", iou_threshold)):
        if not 0 <= value <= 1:
            raise ValueError(f"detect: {name} must be in 0..1, got {value}")
