"""How good a detector is on annotated pictures, and how fast, with the settings of Darknet's `detector valid`."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from pydet.data.collect import first_of
from pydet.data.dataset import DataError, Dataset, DataWarning
from pydet.data.load import load_dataset
from pydet.detector import Detections, Detector, check_options
from pydet.evaluation import ClassResult, Evaluation, Speed
from pydet.image import ImageError, read_image
from pydet.metrics import coco_metrics, coco_tools, confusion_matrix, voc_curves
from pydet.processes import Processes


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
        ValueError: A threshold is outside 0..1, or batch_size or limit is below 1.
    """
    dataset = dataset_for(detector, data, images, limit, split, strict)
    result = detect_and_measure(Processes(), detector, dataset, threshold, iou_threshold, batch_size, progress)
    assert result is not None
    return result


def dataset_for(
    detector: Detector,
    data: Dataset | str | Path,
    images: str | Path | None = None,
    limit: int | None = None,
    split: str | None = None,
    strict: bool = False,
) -> Dataset:
    """The data set that `evaluate` is told of, with the labels of the detector."""
    if not isinstance(data, Dataset):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)  # they are among the problems
            data = load_dataset(data, split, images, strict, limit)
    return data.first(limit).with_classes(detector.class_names)


def detect_and_measure(
    group: Processes,
    detector: Detector,
    data: Dataset,
    threshold: float,
    iou_threshold: float,
    batch_size: int,
    progress: bool = False,
) -> Evaluation | None:
    """As `evaluate`, of what `dataset_for` gives, by several processes.

    Returns:
        The numbers of one process, in the first; in the others None.

    Raises:
        DataError, ImportError: As `measure`; before the work, as far as it can be told.
    """
    check_options(threshold, iou_threshold, batch_size)
    coco_tools()
    if bool((data.difficult | data.crowd).all()):  # or there are none at all
        raise _nothing(data, [str(problem) for problem in data.problems])
    parts = group.gather(_detect(group, detector, data, threshold, iou_threshold, batch_size, progress))
    if not group.first:
        return None
    found = {number: item for part in parts for number, item in part.found.items()}
    errors = {number: text for part in parts for number, text in part.errors.items()}
    problems = [str(problem) for problem in data.problems] + [errors[number] for number in sorted(errors)]
    readable = torch.tensor([number in found for number in range(len(data))], dtype=torch.bool)
    times = [each for part in parts for each in part.times] or [(0.0, 0.0, 1)]
    read, detect, count = (sum(column) for column in zip(*times, strict=True))
    speed = Speed(1000 * read / count, 1000 * detect / count, group.world)
    return measure(data.take(readable), [found[number] for number in sorted(found)], problems, speed)


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
        raise _nothing(dataset, problems)
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


def _nothing(dataset: Dataset, problems: list[str]) -> DataError:
    reasons = "; ".join(first_of(problems) or ["no annotated objects"])
    return DataError(f"{dataset.name}: nothing to evaluate: {reasons}")


class _Part(NamedTuple):
    """What one process saw: by the number of the picture, what is in it or why it cannot be read; and of each batch the
    seconds of reading, those of detecting, and its pictures."""

    found: dict[int, Detections]
    errors: dict[int, str]
    times: list[tuple[float, float, int]]


def _detect(
    group: Processes,
    detector: Detector,
    data: Dataset,
    threshold: float,
    iou_threshold: float,
    batch_size: int,
    progress: bool,
) -> _Part:
    """Every `world`th batch: so the batches, and with them the last bits of the scores, are those of one process."""
    part = _Part({}, {}, [])
    mine = [
        range(start, min(start + batch_size, len(data)))
        for start in range(group.rank * batch_size, len(data), group.world * batch_size)
    ]
    hidden = None if progress and group.first else True
    with tqdm(total=sum(map(len, mine)), unit="image", disable=hidden) as bar:
        for numbers in mine:
            begin = time.perf_counter()
            pictures: dict[int, Tensor] = {}
            for number in numbers:
                try:
                    pictures[number] = read_image(data.paths[number])
                except ImageError as error:
                    part.errors[number] = str(error)
            middle = time.perf_counter()
            results = detector.detect(list(pictures.values()), threshold, iou_threshold, batch_size)
            for number, found in zip(pictures, results, strict=True):
                part.found[number] = replace(found, source=None)  # or all pictures would stay in memory
            part.times.append((middle - begin, time.perf_counter() - middle, len(numbers)))
            bar.update(len(numbers))
    return part._replace(times=part.times[1:] or part.times)
