"""Average precision on COCO-style annotations, with the settings of Darknet's `detector valid`."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pydet.detector import Detections, Detector
from pydet.image import ImageError
from pydet.outputs import coco_results, official_name

METRICS = {"AP": 0, "AP50": 1, "AP75": 2, "AR100": 8}
"""What is reported: name -> its place in COCOeval's statistics."""

_REQUIRED = {
    "images": {"id": int, "file_name": str},
    "annotations": {"image_id": int, "category_id": int, "bbox": list},
    "categories": {"id": int, "name": str},
}

Entry = dict[str, Any]  # of the annotation file: an image, an annotation or a category


class AnnotationError(ValueError):
    """The annotation file cannot be used; the message names the file and the entry."""


@dataclass(frozen=True)
class Evaluation:
    """The outcome of `evaluate`.

    Attributes:
        metrics: AP (IoU .50:.95), AP50, AP75 and AR100, each 0..1.
        images: Number of pictures that were measured.
        objects: Number of annotated objects in them, crowds included.
        problems: A sentence for everything that was left out: unreadable pictures, categories unknown to the model.
    """

    metrics: dict[str, float]
    images: int
    objects: int
    problems: list[str]

    def table(self) -> str:
        """The metrics as aligned plain text."""
        lines = [f"{self.images} images, {self.objects} annotated objects"]
        return "\n".join(lines + [f"{name:<6} {value:.3f}" for name, value in self.metrics.items()])


def evaluate(
    detector: Detector,
    annotations: str | Path,
    images: str | Path,
    threshold: float = 0.005,
    iou_threshold: float = 0.45,
    limit: int | None = None,
    batch_size: int = 8,
    progress: bool = False,
) -> Evaluation:
    """Runs the detector on annotated pictures and measures it as COCO does.

    The model's classes are matched to the annotations' categories by name. The default thresholds are those of
    Darknet's `detector valid`; boxes are cut at the edges of the picture, as there.

    Args:
        detector: What is measured.
        annotations: File in the format of COCO's `instances_*.json`.
        images: Folder with the pictures.
        threshold: Keep detections with a score above this.
        iou_threshold: Overlap above which the weaker of two boxes of one class is dropped.
        limit: Use only the first so many pictures of the file.
        batch_size: How many pictures the model sees at once.
        progress: Show a progress bar on stderr.

    Returns:
        The metrics, and what had to be left out of them.

    Raises:
        AnnotationError: The file is not what it should be, or nothing in it can be evaluated.
        ImportError: Neither pycocotools nor faster-coco-eval is installed.
    """
    tools = _coco_tools()
    content = read_annotations(Path(annotations))
    listed = content["images"][:limit]
    paths = [str(Path(images) / image["file_name"]) for image in listed]
    results = detector.detect_files(paths, threshold, iou_threshold, batch_size)
    bar = tqdm(results, total=len(paths), unit="image", disable=None if progress else True)
    ids: list[int] = []
    found: list[Detections] = []
    problems: list[str] = []
    for image, result in zip(listed, bar, strict=True):
        if isinstance(result.detections, ImageError):
            problems.append(str(result.detections))
        else:
            ids.append(image["id"])
            found.append(result.detections)

    measured = set(ids)
    truth = [entry for entry in content["annotations"] if entry["image_id"] in measured]
    categories, unknown = _match_categories(detector.class_names, content["categories"], truth)
    problems += unknown
    known = sorted({category for category in categories if category is not None})
    objects = sum(entry["category_id"] in known for entry in truth)
    if not objects:
        raise AnnotationError(f"{annotations}: nothing to evaluate: " + "; ".join(problems or ["no annotated objects"]))
    predictions = [entry for entry in coco_results(found, ids, categories) if entry["category_id"] is not None]
    return Evaluation(_measure(tools, content, truth, predictions, ids, known), len(ids), objects, problems)


def read_annotations(path: Path) -> dict[str, list[Entry]]:
    """Reads and checks COCO's `instances_*.json`; fills in missing `area` and `iscrowd`, numbers annotations anew.

    Raises:
        AnnotationError: The file cannot be read, is not JSON, or an entry lacks what is needed.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise AnnotationError(f"{path}: not a JSON file ({error})") from None
    for section, required in _REQUIRED.items():
        entries = content.get(section) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise AnnotationError(f"{path}: not COCO annotations: no list {section!r}")
        for number, entry in enumerate(entries):
            for key, kind in required.items():
                if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
                    raise AnnotationError(f"{path}: {section}[{number}] has no {key!r} of type {kind.__name__}")
    for number, entry in enumerate(content["annotations"]):
        box = entry["bbox"]
        if len(box) != 4 or not all(isinstance(side, (int, float)) and math.isfinite(side) for side in box):
            raise AnnotationError(f"{path}: annotations[{number}]: bbox must be four numbers x, y, w, h, got {box}")
        entry.setdefault("area", box[2] * box[3])
        entry.setdefault("iscrowd", 0)
        entry["id"] = number + 1  # only has to be unique, which hand-made files do not always manage; 0 means "none"
    return content


def _match_categories(
    class_names: Sequence[str], categories: Sequence[Entry], truth: Sequence[Entry]
) -> tuple[list[int | None], list[str]]:
    """The category id of each class (None: these annotations have no such category), and what has no class."""

    def key(name: str) -> str:
        return official_name(name.strip().lower())

    by_name = {key(category["name"]): category["id"] for category in categories}
    matched = [by_name.get(key(name)) for name in class_names]
    names = {category["id"]: category["name"] for category in categories}
    lost = Counter(entry["category_id"] for entry in truth if entry["category_id"] not in matched)
    return matched, [
        f"category {names.get(number, number)!r} is unknown to the model: its {count} objects are left out"
        for number, count in lost.items()
    ]


def _measure(
    tools: tuple[Any, Any],
    content: dict[str, list[Entry]],
    truth: list[Entry],
    predictions: list[Entry],
    ids: list[int],
    known: list[int],
) -> dict[str, float]:
    coco_class, evaluator_class = tools
    shared = {"images": content["images"], "categories": content["categories"]}
    boxes = [
        {**entry, "id": number + 1, "iscrowd": 0, "area": entry["bbox"][2] * entry["bbox"][3]}
        for number, entry in enumerate(predictions)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # both tools print their progress
        evaluator = evaluator_class(
            _indexed(coco_class, {**shared, "annotations": truth}),
            _indexed(coco_class, {**shared, "annotations": boxes}),
            "bbox",
        )
        evaluator.params.imgIds = ids
        evaluator.params.catIds = known
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return {name: float(evaluator.stats[place]) for name, place in METRICS.items()}


def _indexed(coco_class: Any, dataset: dict[str, list[Entry]]) -> Any:
    coco = coco_class()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _coco_tools() -> tuple[Any, Any]:
    """The classes COCO and COCOeval of whichever package is installed."""
    with contextlib.suppress(ImportError):
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval
    with contextlib.suppress(ImportError):
        from faster_coco_eval import COCO, COCOeval_faster

        return COCO, COCOeval_faster
    raise ImportError("evaluate needs pycocotools or faster-coco-eval: pip install 'pydet[evaluate]'")
