"""`Detector`: pictures in, `Detections` out. What `pydet.load` returns, and what the command line uses."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar, overload

import torch
from PIL import Image
from torch import Tensor, nn

from pydet.draw import draw_boxes
from pydet.image import ImageError, ImageSource, read_image
from pydet.outputs import save_picture
from pydet.wordtree import WordTree

Source = TypeVar("Source", bound=ImageSource)
Pictures: TypeAlias = list[Source] | tuple[Source, ...]


class Detection(NamedTuple):
    """One object: its class, how sure the model is (0..1), and its box (x1, y1, x2, y2) in pixels of the picture."""

    name: str
    score: float
    box: tuple[float, float, float, float]
    label: int


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """The objects found in one picture, best score first. Iterating gives a `Detection` each.

    Attributes:
        boxes: float32 ``[K, 4]``: x1, y1, x2, y2 in pixels of the upright picture, cut at its edges.
        labels: int64 ``[K]``: index into `class_names`.
        scores: float32 ``[K]``: objectness times class probability, 0..1.
        class_names: The names of all classes that the model knows.
        image_size: (height, width) of the upright picture in pixels.
        path: The file it came from; None for a picture that came from memory.
        source: What was given to `detect`, for `draw`.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    path: str | None = None
    source: ImageSource | None = None

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

    def __repr__(self) -> str:
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


class FileResult(NamedTuple):
    """What became of one file: its picture (uint8 ``[3, H, W]``) and detections, or no picture and the error."""

    path: str
    picture: Tensor | None
    detections: Detections | ImageError


class Detector:
    """A model with the picture handling around it.

    Args:
        model: A detection model of `pydet.models`: called in evaluation mode on a list of uint8 pictures
            ``[3, H, W]`` with a score and an IoU threshold, it returns one dict of boxes, labels and scores each; it
            knows its `label_names`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label that is found: of a WordTree with a map, those of the nodes in it."""
        return tuple(self.model.label_names)  # type: ignore[arg-type]

    @property
    def tree(self) -> WordTree | None:
        """What the classes are, where they are the nodes of a WordTree."""
        return getattr(self.model, "tree", None)

    @overload
    def detect(
        self, images: ImageSource, threshold: float = ..., iou_threshold: float = ..., batch_size: int = ...
    ) -> Detections: ...
    @overload
    def detect(
        self, images: Pictures[Source], threshold: float = ..., iou_threshold: float = ..., batch_size: int = ...
    ) -> list[Detections]: ...
    def detect(
        self,
        images: ImageSource | Pictures[Source],
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
        check_options(threshold, iou_threshold, batch_size)
        if not isinstance(images, (list, tuple)):
            return self.detect((images,), threshold, iou_threshold)[0]
        found: list[Detections] = []
        for start in range(0, len(images), batch_size):
            sources = images[start : start + batch_size]
            batch = self._detect_batch([read_image(source) for source in sources], threshold, iou_threshold)
            found += [_from(source, detections) for source, detections in zip(sources, batch, strict=True)]
        return found

    def detect_files(
        self,
        paths: Sequence[str | os.PathLike[str]],
        threshold: float = 0.25,
        iou_threshold: float = 0.45,
        batch_size: int = 8,
    ) -> Iterator[FileResult]:
        """As `detect`, for any number of files: one result each, in order, as soon as it is there.

        A file that cannot be read gives its ImageError instead of detections; the others are still done.

        Raises:
            TypeError: paths is one path, or one of them is none; at once, before the first result.
            ValueError: A threshold is outside 0..1, or batch_size is below 1; likewise.
        """
        check_options(threshold, iou_threshold, batch_size)
        if isinstance(paths, (str, bytes, os.PathLike)):  # whose letters would be taken for files
            raise TypeError(f"detect_files: paths must be a list of paths, got {paths!r}")
        return self._each_file([os.fspath(path) for path in paths], threshold, iou_threshold, batch_size)

    def _each_file(
        self, paths: Sequence[str], threshold: float, iou_threshold: float, batch_size: int
    ) -> Iterator[FileResult]:
        for start in range(0, len(paths), batch_size):
            batch: list[tuple[str, Tensor | ImageError]] = []
            for path in paths[start : start + batch_size]:
                try:
                    batch.append((path, read_image(path)))
                except ImageError as error:
                    batch.append((path, error))
            pictures = [outcome for _, outcome in batch if isinstance(outcome, Tensor)]
            found = iter(self._detect_batch(pictures, threshold, iou_threshold))
            for path, outcome in batch:
                if isinstance(outcome, ImageError):
                    yield FileResult(path, None, outcome)
                else:
                    yield FileResult(path, outcome, replace(next(found), path=path, source=path))

    def export_onnx(self, path: str | os.PathLike[str], threshold: float = 0.25, iou_threshold: float = 0.45) -> None:
        """Writes the model as an ONNX file, suppression included: see `pydet.onnx.export_onnx`.

        Raises:
            ImportError: pydet[onnx] is not installed.
            OSError: The file cannot be written; an older file of that name is then still whole.
            ValueError: A threshold is outside 0..1.
        """
        from pydet.onnx import export_onnx

        check_options(threshold, iou_threshold)
        export_onnx(self.model, path, threshold, iou_threshold)  # type: ignore[arg-type]

    def _detect_batch(self, pictures: list[Tensor], threshold: float, iou_threshold: float) -> list[Detections]:
        if not pictures:
            return []
        with torch.inference_mode():
            results = self.model(pictures, score_threshold=threshold, iou_threshold=iou_threshold)
        # Outside of it: what its user gets are ordinary tensors, which may be changed in place.
        names = self.class_names  # one for all of the batch: YOLO9000 has 9,418
        return [self._detections(*pair, names) for pair in zip(results, pictures, strict=True)]

    def _detections(self, result: dict[str, Tensor], picture: Tensor, names: tuple[str, ...]) -> Detections:
        height, width = picture.shape[1:]
        limits = torch.tensor([width, height, width, height], dtype=torch.float32)
        boxes = result["boxes"].float().cpu().clamp(min=0).minimum(limits)
        scores = result["scores"].float().cpu()
        order = scores.argsort(descending=True, stable=True)
        order = order[((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))[order]]
        labels = result["labels"].cpu()
        return Detections(boxes[order], labels[order], scores[order], names, (height, width))


def _from(source: ImageSource, detections: Detections) -> Detections:
    path = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
    return replace(detections, path=path, source=source)


def check_options(threshold: float, iou_threshold: float, batch_size: int = 1) -> None:
    """Raises ValueError unless the thresholds are in 0..1 and a batch has at least one picture."""
    for name, value in (("threshold", threshold), ("iou_threshold", iou_threshold)):
        if not 0 <= value <= 1:
            raise ValueError(f"detect: {name} must be in 0..1, got {value}")
    if batch_size < 1:
        raise ValueError(f"detect: batch_size must be at least 1, got {batch_size}")
