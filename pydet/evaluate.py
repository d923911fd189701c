"""How good a detector is on annotated pictures, and how fast, with the settings of Darknet's `detector valid`."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pydet.data.dataset import DataError, Dataset, DataWarning
from pydet.data.load import load_dataset
from pydet.detector import Detections, Detector
from pydet.image import ImageError, read_image
from pydet.metrics import Curve, coco_metrics, confusion_matrix, voc_curves

_SHOWN = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")


@dataclass(frozen=True)
class ClassResult:
    """How well one class is found; the metrics are explained at `Evaluation`."""

    name: str
    objects: int
    ap: float
    ap50: float
    voc07: float
    voc10: float


@dataclass(frozen=True)
class Speed:
    """Milliseconds that a picture took, after the first batch where there are others: reading it, and all the rest."""

    read: float
    detect: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The outcome of `evaluate`.

    Attributes:
        metrics: COCO's twelve, 0..1, or -1 where there is no such object: AP (mean over the IoUs .50:.95), AP50, AP75,
            of small, medium and large objects (APs, APm, APl), average recall with up to 1, 10, 100 detections a
            picture (AR1, ...). And VOC's mean average precision at IoU .5, of 11 points (VOC07) and of all (VOC10).
        images: Number of pictures that were measured.
        objects: Number of annotated objects in them, crowds included.
        problems: A sentence for everything that was left out: bad annotations, unreadable pictures, categories unknown
            to the model.
        classes: Each class with objects to be found.
        class_names: Of the model.
        confusion: int64 [C + 1, C + 1], see `pydet.metrics.confusion_matrix`; of detections with a score above .25.
        curves: Precision and recall of each class of `classes`, at IoU .5.
        speed: How long it took.
    """

    metrics: dict[str, float]
    images: int
    objects: int
    problems: list[str]
    classes: list[ClassResult]
    class_names: tuple[str, ...]
    confusion: Tensor
    curves: list[Curve]
    speed: Speed

    def table(self) -> str:
        """The metrics, the classes and the speed as aligned plain text."""
        lines = [f"{self.images} images, {self.objects} annotated objects"]
        lines += [f"{name:<6} {_shown(self.metrics[name])}" for name in _SHOWN]
        lines.append(f"VOC07  {_shown(self.metrics['VOC07'])}  AP50 of 11 points")
        lines.append(f"VOC10  {_shown(self.metrics['VOC10'])}  AP50 of all points")
        width = max(len("class"), *(len(item.name) for item in self.classes))
        lines += ["", f"{'class':<{width}}  objects     AP   AP50  VOC07  VOC10"]
        for item in self.classes:
            numbers = "  ".join(_shown(value) for value in (item.ap, item.ap50, item.voc07, item.voc10))
            lines.append(f"{item.name:<{width}}  {item.objects:7}  {numbers}")
        lines += ["", f"of the objects, with a score above .25: {self._confusions()}"]
        read, detect = self.speed.read, self.speed.detect
        lines.append(
            f"{1000 / (read + detect):.1f} pictures a second: {read:.1f} ms to read one, {detect:.1f} to detect"
        )
        return "\n".join(lines)

    def _confusions(self) -> str:
        """One line about the confusion matrix: how many are found, taken for something else, missed."""
        objects = self.confusion[:-1]
        right, missed = int(objects[:, :-1].diagonal().sum()), int(objects[:, -1].sum())
        wrong = objects[:, :-1].clone().fill_diagonal_(0)
        text = f"{right} found, {missed} missed, {int(wrong.sum())} taken for another class"
        worst = [
            divmod(place, wrong.shape[1])
            for place in wrong.flatten().argsort(descending=True, stable=True)[:3].tolist()
        ]
        pairs = [f"{self.class_names[a]} for {self.class_names[b]} {wrong[a, b]}" for a, b in worst if wrong[a, b]]
        alarms = int(self.confusion[-1].sum())
        return text + (f" ({', '.join(pairs)})" if pairs else "") + f"; {alarms} false alarms"

    def as_json(self) -> dict[str, Any]:
        """All numbers but the curves, for a file."""
        return {
            "metrics": self.metrics,
            "images": self.images,
            "objects": self.objects,
            "problems": self.problems,
            "classes": [asdict(item) for item in self.classes],
            "class_names": list(self.class_names),
            "confusion": self.confusion.tolist(),
            "speed": asdict(self.speed),
        }


def _shown(value: float) -> str:
    return f"{value:.3f}" if value >= 0 else "    -"


def evaluate(
    detector: Detector,
    data: Dataset | str | Path,
    images: str | Path | None = None,
    threshold: float = 0.005,
    iou_threshold: float = 0.45,
    limit: int | None = None,
    batch_size: int = 8,
    progress: bool = False,
    split: str | None = None,
    strict: bool = False,
) -> Evaluation:
    """Runs the detector on annotated pictures and measures it as COCO and as VOC do.

    The model's classes are matched to the annotations' by name. The default thresholds are those of Darknet's
    `detector valid`; boxes are cut at the edges of the picture, as there.

    Args:
        detector: What is measured.
        data: Data set, or file or folder of one in any format that `pydet.data.load_dataset` reads.
        images: Folder with the pictures, where it cannot be guessed.
        threshold: Keep detections with a score above this.
        iou_threshold: Overlap above which the weaker of two boxes of one class is dropped.
        limit: Use only the first so many pictures.
        batch_size: How many pictures the model sees at once.
        progress: Show a progress bar on stderr.
        split: Part of the data set, such as "val".
        strict: Refuse a data set with bad annotations, instead of leaving them out.

    Returns:
        The metrics, and what had to be left out of them.

    Raises:
        DataError: The data set is not what it should be, or nothing in it can be evaluated.
        ImportError: Neither pycocotools nor faster-coco-eval is installed.
    """
    if not isinstance(data, Dataset):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)  # they are among the problems
            data = load_dataset(data, split, images, strict, limit)
    data = data.first(limit).with_classes(detector.class_names)
    found, errors, speed = _detect(detector, data, threshold, iou_threshold, batch_size, progress)
    readable = torch.tensor([item is not None for item in found])
    problems = [str(problem) for problem in data.problems] + errors
    return measure(data.take(readable), [item for item in found if item is not None], problems, speed)


def measure(dataset: Dataset, found: Sequence[Detections], problems: list[str], speed: Speed) -> Evaluation:
    """The metrics of detections that are there already, however many processes have made them.

    Args:
        dataset: The truth, with the labels of the detections.
        found: The detections in each of its pictures.
        problems: What was left out.
        speed: How long it took.

    Raises:
        DataError: There is no object to be found.
        ImportError: Neither pycocotools nor faster-coco-eval is installed.
    """
    curves = voc_curves(dataset, found)
    if not curves:
        reasons = "; ".join(problems or ["no annotated objects"])
        raise DataError(f"{dataset.name}: nothing to evaluate: {reasons}")
    coco = coco_metrics(dataset, found)
    classes = [
        ClassResult(
            dataset.class_names[curve.label],
            curve.objects,
            coco.ap[curve.label],
            coco.ap50[curve.label],
            curve.ap_of_11_points(),
            curve.ap_of_all_points(),
        )
        for curve in curves
    ]
    voc = {
        "VOC07": sum(item.voc07 for item in classes) / len(classes),
        "VOC10": sum(item.voc10 for item in classes) / len(classes),
    }
    return Evaluation(
        coco.metrics | voc,
        len(dataset),
        len(dataset.labels),
        problems,
        classes,
        dataset.class_names,
        confusion_matrix(dataset, found),
        curves,
        speed,
    )


def _detect(
    detector: Detector, data: Dataset, threshold: float, iou_threshold: float, batch_size: int, progress: bool
) -> tuple[list[Detections | None], list[str], Speed]:
    """What is found in each picture, None where it cannot be read; why not; and how long it took."""
    found: list[Detections | None] = []
    errors: list[str] = []
    times: list[tuple[float, float, int]] = []  # of each batch: reading, detecting, pictures
    with tqdm(total=len(data), unit="image", disable=None if progress else True) as bar:
        for start in range(0, len(data), batch_size):
            begin = time.perf_counter()
            pictures: list[Tensor | None] = []
            for path in data.paths[start : start + batch_size]:
                try:
                    pictures.append(read_image(path))
                except ImageError as error:
                    pictures.append(None)
                    errors.append(str(error))
            readable = [picture for picture in pictures if picture is not None]
            middle = time.perf_counter()
            results = iter(detector.detect(readable, threshold, iou_threshold, batch_size))
            found += [None if picture is None else next(results) for picture in pictures]
            times.append((middle - begin, time.perf_counter() - middle, len(pictures)))
            bar.update(len(pictures))
    read, detect, count = (sum(column) for column in zip(*(times[1:] or times), strict=True))
    return found, errors, Speed(1000 * read / count, 1000 * detect / count)
