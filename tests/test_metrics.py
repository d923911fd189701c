"""Metrics: COCO's equal pycocotools on the file itself, VOC's the development kit's rules, confusions those by hand."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import shared_path
from data_files import BCCD, coco_annotation, picture, write_coco
from hypothesis import given
from hypothesis import strategies as st

from pydet.data import Dataset, load_dataset
from pydet.detector import Detections
from pydet.metrics import Curve, coco_metrics, confusion_matrix, voc_curves
from pydet.ops import box_iou

pytest.importorskip("pycocotools")


def guessed(dataset: Dataset, seed: int = 0) -> list[Detections]:
    """Detections near the truth, some of another class, some of nothing, best first."""
    random = np.random.default_rng(seed)
    found = []
    for record in dataset:
        boxes = [*record.boxes.numpy(), *record.boxes.numpy(), *(random.uniform(0, 50, 4).cumsum() for _ in range(3))]
        labels = [*record.labels.tolist(), *record.labels.tolist(), *random.integers(len(dataset.class_names), size=3)]
        moved = np.reshape(boxes, (-1, 4)) + random.normal(0, 5, (len(boxes), 4))
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        kept = random.random(len(boxes)) < 0.7
        wrong = random.random(len(boxes)) < 0.1
        named = np.where(wrong, random.integers(len(dataset.class_names), size=len(boxes)), labels)[kept]
        scores = random.random(kept.sum())
        order = np.argsort(-scores)
        tensors = [torch.from_numpy(np.asarray(part)[order]) for part in (moved[kept], named, scores)]
        found.append(Detections(tensors[0], tensors[1], tensors[2], dataset.class_names, record.size))
    return found


def by_pycocotools(file: Path, dataset: Dataset, found: list[Detections]) -> list[float]:
    """The twelve numbers that pycocotools gives for the annotation file itself."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        ids = {entry["file_name"]: entry["id"] for entry in truth.dataset["images"]}
        categories = {entry["name"]: entry["id"] for entry in truth.dataset["categories"]}
        results = [
            {
                "image_id": ids[Path(path).name],
                "category_id": categories[dataset.class_names[label]],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
            for path, item in zip(dataset.paths, found, strict=True)
            for (x1, y1, x2, y2), label, score in zip(
                item.boxes.tolist(), item.labels.tolist(), item.scores.tolist(), strict=True
            )
        ]
        evaluator = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return list(evaluator.stats)


@pytest.mark.parametrize("split", ["val2017", "train2017"])
def test_coco_is_pycocotools_on_real_annotations(split: str) -> None:
    file = shared_path("data/coco160") / "annotations" / f"instances_{split}.json"
    dataset = load_dataset(file)
    found = guessed(dataset)
    result = coco_metrics(dataset, found)
    assert list(result.metrics.values()) == pytest.approx(by_pycocotools(file, dataset, found), abs=1e-9)
    assert result.metrics["AP"] > 0.1
    assert np.mean(list(result.ap.values())) == pytest.approx(result.metrics["AP"])
    assert np.mean(list(result.ap50.values())) == pytest.approx(result.metrics["AP50"])


def crowded(folder: Path) -> Path:
    """Annotations of three pictures with areas of their own, and crowds."""
    random = np.random.default_rng(7)
    images = []
    for number in range(3):
        picture(folder / f"{number}.jpg", 500, 400)
        images.append({"id": number * 10, "file_name": f"{number}.jpg"})
    annotations = []
    for number in range(60):
        x, y = random.uniform(0, 250), random.uniform(0, 150)
        w, h = random.uniform(5, 200, 2)
        more = {"iscrowd": int(number % 7 == 0), "area": w * h * 0.9, "id": number + 1}
        annotations.append(coco_annotation(10 * (number % 3), (7, 3)[number % 2], [x, y, w, h], **more))
    return write_coco(folder / "all.json", images=images, annotations=annotations)


def test_coco_is_pycocotools_with_crowds_and_areas(tmp_path: Path) -> None:
    file = crowded(tmp_path)
    dataset = load_dataset(file, strict=True)
    found = guessed(dataset)
    metrics = coco_metrics(dataset, found).metrics
    assert list(metrics.values()) == pytest.approx(by_pycocotools(file, dataset, found), abs=1e-9)
    assert min(metrics.values()) > 0


def test_scores_that_hardly_differ_are_ranked(tmp_path: Path) -> None:
    """A trained network is sure of nearly everything; in a file of results, of 6 decimals, these would be equal."""
    dataset = load_dataset(crowded(tmp_path))
    found = [replace(item, scores=1 - 1e-6 * (1 - item.scores)) for item in guessed(dataset)]
    expected = by_pycocotools(tmp_path / "all.json", dataset, found)
    assert list(coco_metrics(dataset, found).metrics.values()) == pytest.approx(expected, abs=1e-9)


def test_coco_by_faster_coco_eval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faster_coco_eval")
    dataset = load_dataset(crowded(tmp_path))
    found = guessed(dataset)
    expected = coco_metrics(dataset, found)
    monkeypatch.setitem(__import__("sys").modules, "pycocotools.coco", None)  # as if it were not installed
    result = coco_metrics(dataset, found)
    for part in ("metrics", "ap", "ap50"):
        assert getattr(result, part) == pytest.approx(getattr(expected, part), abs=1e-6)


def dev_kit(dataset: Dataset, found: list[Detections], label: int) -> tuple[list[float], list[float], int]:
    """Recall and precision of one class, by the text of VOC's VOCevaldet.m, a detection at a time."""
    positives = sum(int(((r.labels == label) & ~r.difficult).sum()) for r in dataset)
    detections = sorted(
        (
            (float(item.scores[place]), image, place)
            for image, item in enumerate(found)
            for place in range(len(item))
            if item.labels[place] == label
        ),
        key=lambda entry: -entry[0],
    )
    detected: set[tuple[int, int]] = set()
    hits, misses = [], []
    for _, image, place in detections:
        record = dataset[image]
        best, owner = -1.0, -1
        for row in range(len(record.labels)):
            if record.labels[row] == label:
                overlap = float(box_iou(found[image].boxes[place : place + 1].double(), record.boxes[row : row + 1]))
                if overlap > best:
                    best, owner = overlap, row
        hit = miss = 0
        if best >= 0.5:
            if not record.difficult[owner]:
                if (image, owner) in detected:
                    miss = 1
                else:
                    hit = 1
                    detected.add((image, owner))
        else:
            miss = 1
        hits.append(hit)
        misses.append(miss)
    tp, fp = np.cumsum(hits), np.cumsum(misses)
    return (tp / positives).tolist(), (tp / np.maximum(tp + fp, 1)).tolist(), positives


def area(recall: list[float], precision: list[float]) -> tuple[float, float]:
    """AP of 11 points and of all, by VOCap.m and VOCevaldet.m."""
    eleven = sum(
        max([p for r, p in zip(recall, precision, strict=True) if r >= tenth / 10 - 1e-12], default=0.0) / 11
        for tenth in range(11)
    )
    r, p = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for i in reversed(range(len(p) - 1)):
        p[i] = max(p[i], p[i + 1])
    return eleven, sum((r[i] - r[i - 1]) * p[i] for i in range(1, len(r)))


@given(seed=st.integers(0, 2**32))
def test_voc_is_the_development_kit(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    corners = torch.rand(24, 2, generator=random, dtype=torch.float64) * 60
    boxes = torch.cat([corners, corners + 5 + 30 * torch.rand(24, 2, generator=random, dtype=torch.float64)], dim=1)
    dataset = Dataset(
        "drawn",
        ("a", "b", "c"),
        ("1", "2", "3"),
        torch.full((3, 2), 100),
        torch.tensor([8, 10, 6]),
        boxes,
        torch.randint(0, 2, (24,), generator=random),  # no c
        torch.rand(24, generator=random) < 0.2,
        torch.zeros(24, dtype=torch.bool),
        torch.ones(24),
        torch.full((3,), -1),
    )
    found = guessed(dataset, seed)
    curves = voc_curves(dataset, found)
    for curve in curves:
        recall, precision, positives = dev_kit(dataset, found, curve.label)
        assert curve.objects == positives
        eleven, every = area(recall, precision)
        assert curve.ap_of_11_points() == pytest.approx(eleven)
        assert curve.ap_of_all_points() == pytest.approx(every)
    there = {int(label) for label in dataset.labels[~dataset.difficult]}
    assert {curve.label for curve in curves} == there


def test_detections_come_in_any_order(tmp_path: Path) -> None:
    dataset = load_dataset(crowded(tmp_path))
    found = guessed(dataset)
    turned = [
        replace(item, boxes=item.boxes.flip(0), labels=item.labels.flip(0), scores=item.scores.flip(0))
        for item in found
    ]
    assert coco_metrics(dataset, turned).metrics == coco_metrics(dataset, found).metrics
    for mine, theirs in zip(voc_curves(dataset, turned), voc_curves(dataset, found), strict=True):
        assert mine.hits.tolist() == theirs.hits.tolist()
        assert mine.hits[-1] > 1


def test_average_precision_by_hand() -> None:
    """Four objects; found, not, found, found: precision 1, 1/2, 2/3, 3/4 at recall 1/4, 1/4, 2/4, 3/4."""
    curve = Curve(0, 4, np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, 1, 2, 3]))
    assert curve.recall.tolist() == [0.25, 0.25, 0.5, 0.75]
    assert curve.precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3, 3 / 4])
    assert curve.ap_of_all_points() == pytest.approx(0.25 * 1 + 0.25 * 0.75 + 0.25 * 0.75)
    # recalls 0, .1, .2: 1; .3 to .7: 3/4; .8, .9, 1: 0
    assert curve.ap_of_11_points() == pytest.approx((3 * 1 + 5 * 0.75) / 11)


def test_a_recall_of_exactly_three_tenths_is_reached() -> None:
    curve = Curve(0, 10, np.ones(3), np.array([1, 2, 3]))
    assert curve.ap_of_11_points() == pytest.approx(4 / 11)
    nothing = Curve(0, 10, np.ones(0), np.zeros(0, dtype=np.int64))
    assert nothing.ap_of_11_points() == nothing.ap_of_all_points() == 0


def one_picture(difficult: list[bool], crowd: list[bool]) -> Dataset:
    """A cat at 0, 0, 20, 20 and one at 50, 50, 90, 90."""
    return Dataset(
        "one",
        ("dog", "cat"),
        ("1",),
        torch.tensor([[100, 100]]),
        torch.tensor([2]),
        torch.tensor([[0.0, 0, 20, 20], [50, 50, 90, 90]], dtype=torch.float64),
        torch.tensor([1, 1]),
        torch.tensor(difficult),
        torch.tensor(crowd),
        torch.tensor([400.0, 1600]),
        torch.tensor([-1]),
    )


def detections(*rows: tuple[float, float, float, float, int, float]) -> list[Detections]:
    table = torch.tensor(rows).reshape(-1, 6)
    return [Detections(table[:, :4], table[:, 4].long(), table[:, 5], ("dog", "cat"), (100, 100))]


def test_difficult_objects_and_crowds_do_not_count() -> None:
    found = detections((0, 0, 20, 20, 1, 0.9), (50, 50, 90, 90, 1, 0.8), (52, 52, 60, 60, 1, 0.7))
    plain = voc_curves(one_picture([False, False], [False, False]), found)[0]
    assert (plain.objects, plain.hits.tolist()) == (2, [1, 2, 2])  # the third is a false alarm
    difficult = voc_curves(one_picture([False, True], [False, False]), found)[0]
    assert (difficult.objects, difficult.hits.tolist()) == (1, [1, 1])
    crowd = voc_curves(one_picture([False, False], [False, True]), found)[0]
    assert (crowd.objects, crowd.hits.tolist()) == (1, [1])  # the third lies in the crowd
    assert voc_curves(one_picture([True, True], [False, False]), found) == []
    metrics = coco_metrics(one_picture([False, True], [False, False]), found).metrics
    assert metrics["AP"] == pytest.approx(1)


def test_confusions_by_hand() -> None:
    dataset = one_picture([False, False], [False, False])
    # a dog where the first cat is, nothing at the second, and a cat where nothing is; a weak one does not count
    found = detections((0, 0, 20, 20, 0, 0.9), (20, 70, 40, 90, 1, 0.8), (50, 50, 90, 90, 1, 0.2))
    assert confusion_matrix(dataset, found).tolist() == [[0, 0, 0], [1, 0, 1], [0, 1, 0]]
    assert confusion_matrix(dataset, found, threshold=0.1).tolist() == [[0, 0, 0], [1, 1, 0], [0, 1, 0]]
    # one to one: of two detections of an object the closer one is its own, the other a false alarm
    twice = detections((0, 0, 20, 19, 0, 0.9), (0, 0, 20, 20, 1, 0.5))
    assert confusion_matrix(dataset, twice).tolist() == [[0, 0, 0], [0, 1, 1], [1, 0, 0]]
    for excused in (one_picture([True, False], [False, False]), one_picture([False, False], [True, False])):
        assert confusion_matrix(excused, found).tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0]]
        assert confusion_matrix(excused, twice).tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_rows_of_confusions_are_the_objects() -> None:
    dataset = replace(load_dataset(BCCD, "test"), problems=())
    matrix = confusion_matrix(dataset, guessed(dataset))
    assert matrix[:-1].sum(1).tolist() == torch.bincount(dataset.labels, minlength=3).tolist()
    assert matrix[:-1, :-1].sum() > 0
    json.dumps(matrix.tolist())
