"""VOC's average precision: of 11 points (2007) and of all points (since 2010), with its rule for difficult objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pydet import ops
from pydet.data.dataset import Dataset, Record
from pydet.detector import Detections

_MISS, _HIT, _IGNORED = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Curve:
    """Precision and recall of one class, as the threshold of the score goes down.

    Attributes:
        label: The class.
        objects: How many are to be found; difficult ones and crowds are not.
        scores: [D] of the detections that count, best first.
        hits: [D], how many of the detections so far have found an object.
    """

    label: int
    objects: int
    scores: NDArray[np.float64]
    hits: NDArray[np.int64]

    @property
    def precision(self) -> NDArray[np.float64]:
        return self.hits / np.arange(1, len(self.hits) + 1)

    @property
    def recall(self) -> NDArray[np.float64]:
        return self.hits / self.objects

    def ap_of_11_points(self) -> float:
        """VOC 2007: the mean, at the recalls 0, .1, ..., 1, of the best precision at that recall or a higher one."""
        best = np.append(np.maximum.accumulate(self.precision[::-1])[::-1], 0.0)
        # Whole numbers: 3 of 10 found reach the recall .3, which no float is
        first = [np.searchsorted(self.hits * 10, tenth * self.objects) for tenth in range(11)]
        return float(best[first].mean())

    def ap_of_all_points(self) -> float:
        """VOC 2010: the area under the precision, made monotonic from the right."""
        best = np.maximum.accumulate(self.precision[::-1])[::-1]
        steps = np.diff(self.recall, prepend=0.0)
        return float((best * steps).sum())


def voc_curves(dataset: Dataset, found: Sequence[Detections], iou_threshold: float = 0.5) -> list[Curve]:
    """Measures detections as VOC's development kit does, class by class.

    In each picture the detections of a class come in the order of their scores. Each belongs to the object of its class
    that it overlaps most, if by at least the threshold: it hits if that object is not difficult and nobody came before,
    is a false alarm if somebody did, and is not counted if the object is difficult. What belongs to no object is a
    false alarm, unless at least that part of it lies in one of COCO's crowds.

    Args:
        dataset: The truth, with the labels of the detections.
        found: The detections in each of its pictures; of those with equal scores the first comes first.
        iou_threshold: Overlap that makes a detection belong to an object.

    Returns:
        A curve for each class that has an object to be found, in the order of the labels.
    """
    outcomes = [_outcomes(record, item, iou_threshold) for record, item in zip(dataset, found, strict=True)]
    labels = np.concatenate([item.labels.numpy() for item in found]) if found else np.zeros(0, dtype=np.int64)
    scores = np.concatenate([item.scores.double().numpy() for item in found]) if found else np.zeros(0)
    outcome = np.concatenate(outcomes) if found else np.zeros(0, dtype=np.int64)
    counted = dataset.labels[~(dataset.difficult | dataset.crowd)]
    curves = []
    for label, objects in enumerate(torch.bincount(counted, minlength=len(dataset.class_names)).tolist()):
        if objects:
            rows = (labels == label) & (outcome != _IGNORED)
            order = np.argsort(-scores[rows], kind="stable")
            curves.append(Curve(label, objects, scores[rows][order], (outcome[rows][order] == _HIT).cumsum()))
    return curves


def _outcomes(record: Record, found: Detections, threshold: float) -> NDArray[np.int64]:
    """[D]: what each detection of a picture is."""
    boxes = found.boxes.double()
    overlap, owner = _best(ops.box_iou(boxes, record.boxes), found.labels, record.labels, ~record.crowd)
    covered, _ = _best(ops.box_iof(boxes, record.boxes), found.labels, record.labels, record.crowd)
    belongs, in_crowd = (overlap >= threshold).tolist(), (covered >= threshold).tolist()
    difficult = record.difficult.tolist()
    outcomes, taken = np.zeros(len(boxes), dtype=np.int64), set()
    for place in np.argsort(-found.scores.numpy(), kind="stable").tolist():
        row = owner[place]
        if belongs[place]:
            outcomes[place] = _IGNORED if difficult[row] else _MISS if row in taken else _HIT
            taken.add(row)
        else:
            outcomes[place] = _IGNORED if in_crowd[place] else _MISS
    return outcomes


def _best(
    overlaps: Tensor, labels: Tensor, truth: Tensor, allowed: Tensor
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The highest of overlaps [D, G] with an allowed object of the same class, -1 for none, and which object it is."""
    # numpy: torch starts its threads for a maximum of a few numbers, thousands of times
    fits = (labels.numpy()[:, None] == truth.numpy()) & allowed.numpy()
    padded = np.pad(np.where(fits, overlaps.numpy(), -1.0), ((0, 0), (0, 1)), constant_values=-1.0)
    best = padded.argmax(axis=1)
    return padded[np.arange(len(best)), best], best
