"""Which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pydet import ops
from pydet.data.dataset import Dataset, Record
from pydet.detector import Detections


def confusion_matrix(
    dataset: Dataset, found: Sequence[Detections], threshold: float = 0.25, iou_threshold: float = 0.5
) -> Tensor:
    """Counts what each object was taken for.

    Whatever their classes, objects and detections are paired one to one, those with the largest overlap first.
    Difficult objects and crowds are not counted, and neither are detections that belong to them: of those that have no
    object, all that overlap a difficult one, or lie in a crowd, by at least the threshold.

    Args:
        dataset: The truth, with the labels of the detections.
        found: The detections in each of its pictures.
        threshold: Detections need a score above this.
        iou_threshold: Pairs need at least this overlap.

    Returns:
        int64 [C + 1, C + 1]: rows are what it is, columns what it is taken for. The last row is what is no object,
        with the false alarms, the last column what is not detected, with the missed objects.
    """
    classes = len(dataset.class_names)
    matrix = torch.zeros(classes + 1, classes + 1, dtype=torch.int64)
    for record, item in zip(dataset, found, strict=True):
        chosen = item.scores > threshold
        labels = item.labels[chosen]
        pairs, excused = _pairs(record, item.boxes[chosen].double(), iou_threshold)
        counted = ~(record.difficult | record.crowd)
        is_free, is_missed = ~excused, counted.clone()
        for row, place in pairs:
            if counted[row]:
                matrix[record.labels[row], labels[place]] += 1
            is_missed[row] = is_free[place] = False
        matrix[:, classes] += torch.bincount(record.labels[is_missed], minlength=classes + 1)
        matrix[classes] += torch.bincount(labels[is_free], minlength=classes + 1)
    return matrix


def _pairs(record: Record, boxes: Tensor, iou_threshold: float) -> tuple[list[tuple[int, int]], Tensor]:
    """Pairs (object, detection), and for each detection whether a difficult object or a crowd excuses it."""
    overlaps = ops.box_iou(record.boxes, boxes).masked_fill(record.crowd[:, None], 0)
    rows, places = (overlaps >= iou_threshold).nonzero(as_tuple=True)
    order = overlaps[rows, places].argsort(descending=True, stable=True)
    pairs: list[tuple[int, int]] = []
    rows_taken, places_taken = set(), set()
    for row, place in zip(rows[order].tolist(), places[order].tolist(), strict=True):
        if row not in rows_taken and place not in places_taken:
            pairs.append((row, place))
            rows_taken.add(row)
            places_taken.add(place)
    in_crowd = ops.box_iof(boxes, record.boxes[record.crowd]) >= iou_threshold
    on_difficult = overlaps[record.difficult] >= iou_threshold
    return pairs, in_crowd.any(1) | on_difficult.any(0)
