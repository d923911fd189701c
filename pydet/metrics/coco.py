"""COCO's metrics, by pycocotools or faster-coco-eval."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydet.data.dataset import Dataset
from pydet.detector import Detections

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""What COCOeval reports, in its order: s, m, l are small, medium and large objects, 1, 10, 100 detections a picture."""


@dataclass(frozen=True)
class CocoResult:
    """COCO's metrics, 0..1; -1 where there is no such object.

    Attributes:
        metrics: By the names of `METRICS`.
        ap: Of each class with objects, by label: the mean over the IoUs .50, .55, ..., .95.
        ap50: The same at IoU .5.
    """

    metrics: dict[str, float]
    ap: dict[int, float]
    ap50: dict[int, float]


def coco_metrics(dataset: Dataset, found: Sequence[Detections]) -> CocoResult:
    """Measures detections as COCO does.

    Difficult objects, which COCO does not know, are treated as its crowds: neither finding nor missing them counts.

    Args:
        dataset: The truth, with the labels of the detections.
        found: The detections in each of its pictures.

    Raises:
        ImportError: Neither pycocotools nor faster-coco-eval is installed.
    """
    coco_class, evaluator_class = coco_tools()
    ids = list(range(1, len(dataset) + 1))
    labels = sorted(set(dataset.labels.tolist()))
    shared = {"images": [{"id": number} for number in ids], "categories": [{"id": label + 1} for label in labels]}
    boxes = _detections(found, set(labels))
    with contextlib.redirect_stdout(io.StringIO()):  # both tools print their progress
        evaluator = evaluator_class(
            _indexed(coco_class, {**shared, "annotations": _annotations(dataset)}),
            _indexed(coco_class, {**shared, "annotations": boxes}),
            "bbox",
        )
        evaluator.params.imgIds = ids
        evaluator.params.catIds = [label + 1 for label in labels]
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    precision = evaluator.eval["precision"][:, :, :, 0, -1]  # IoU, recall, class; any size, 100 detections
    return CocoResult(
        {name: float(value) for name, value in zip(METRICS, evaluator.stats, strict=False)},
        {label: float(precision[:, :, place].mean()) for place, label in enumerate(labels)},
        {label: float(precision[0, :, place].mean()) for place, label in enumerate(labels)},
    )


def _annotations(dataset: Dataset) -> list[dict[str, Any]]:
    annotations: list[dict[str, Any]] = []
    for image_id, record in enumerate(dataset, start=1):
        ignored = record.crowd | record.difficult
        rows = zip(record.boxes.tolist(), record.labels.tolist(), record.areas.tolist(), ignored.tolist(), strict=True)
        for (x1, y1, x2, y2), label, area, ignore in rows:
            annotations.append(
                {
                    "id": len(annotations) + 1,  # 0 would mean "none" to COCOeval
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": area,
                    "iscrowd": int(ignore),
                }
            )
    return annotations


def _detections(found: Sequence[Detections], labels: set[int]) -> list[dict[str, Any]]:
    """Of the classes that have objects. Not rounded as in a file of results: scores that are nearly equal would tie."""
    boxes: list[dict[str, Any]] = []
    for image_id, item in enumerate(found, start=1):
        rows = zip(item.boxes.tolist(), item.labels.tolist(), item.scores.tolist(), strict=True)
        for (x1, y1, x2, y2), label, score in rows:
            if label in labels:
                entry = {"id": len(boxes) + 1, "image_id": image_id, "category_id": label + 1, "score": score}
                size = x2 - x1, y2 - y1
                boxes.append({**entry, "bbox": [x1, y1, *size], "iscrowd": 0, "area": size[0] * size[1]})
    return boxes


def _indexed(coco_class: Any, dataset: dict[str, list[dict[str, Any]]]) -> Any:
    coco = coco_class()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def coco_tools() -> tuple[Any, Any]:
    """The classes COCO and COCOeval of whichever package is installed.

    Raises:
        ImportError: Neither is.
    """
    with contextlib.suppress(ImportError):
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval
    with contextlib.suppress(ImportError):
        from faster_coco_eval import COCO, COCOeval_faster

        return COCO, COCOeval_faster
    raise ImportError("evaluate needs pycocotools or faster-coco-eval: pip install 'pydet[evaluate]'")
