"""Average precision: what the real Darknet scores on real pictures, and what happens to imperfect annotations."""

from __future__ import annotations

import csv
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import shared_path
from data_files import BCCD, voc_object, voc_xml, write
from PIL import Image

import pydet
from pydet.data import DataError, load_dataset
from pydet.detector import Detector
from pydet.evaluate import evaluate
from pydet.plots import check_matplotlib
from pydet.report import write_report
from pydet.training import Settings, train

pytest.importorskip("pycocotools")
pytest.importorskip("matplotlib")

DOG = Path(__file__).parent.parent / "pydet" / "assets" / "dog.jpg"
CATEGORIES = [{"id": 5, "name": "dog"}, {"id": 2, "name": "bicycle"}, {"id": 11, "name": "car"}]
DOG_BOX, BICYCLE_BOX, CAR_BOX = [125, 200, 190, 340], [115, 120, 455, 310], [468, 75, 220, 98]  # drawn by hand, xywh


@pytest.fixture(scope="module")
def detector() -> Detector:
    return pydet.load("yolov3-tiny")


def annotation(image: int, category: int, box: list[float], **more: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": image, "category_id": category, "bbox": box, **more}


def annotated(folder: Path, **sections: list[dict[str, Any]]) -> Path:
    """Annotations of dog.jpg; sections replace or add to them."""
    folder.mkdir(exist_ok=True)
    (folder / "dog.jpg").write_bytes(DOG.read_bytes())
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "dog.jpg"}],
        "annotations": [annotation(1, 5, DOG_BOX), annotation(1, 2, BICYCLE_BOX), annotation(1, 11, CAR_BOX)],
        "categories": CATEGORIES,
    }
    (folder / "annotations.json").write_text(json.dumps(content | sections))
    return folder / "annotations.json"


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("val2017", {"AP": 0.224, "AP50": 0.431, "AP75": 0.210, "AR100": 0.308}),
        ("train2017", {"AP": 0.237, "AP50": 0.445, "AP75": 0.240, "AR100": 0.337}),
    ],
)
def test_the_real_darknets_average_precision(detector: Detector, split: str, expected: dict[str, float]) -> None:
    data = shared_path("data/coco160")
    result = evaluate(detector, data / "annotations" / f"instances_{split}.json", data / split)
    assert result.images == 80
    assert result.problems == []
    assert {name: result.metrics[name] for name in expected} == pytest.approx(expected, abs=0.002)


def test_agreement_with_faster_coco_eval(detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faster_coco_eval")
    file = annotated(tmp_path)
    expected = evaluate(detector, file, tmp_path)
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)  # as if it were not installed
    result = evaluate(detector, file, tmp_path)
    assert 0 < expected.metrics["AP"] < 1
    assert result.metrics == pytest.approx(expected.metrics, abs=1e-6)


def test_without_either_package(detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    monkeypatch.setattr(detector, "detect", None)  # it is told before the work
    with pytest.raises(ImportError, match=r"pip install 'pydet\[evaluate\]'"):
        evaluate(detector, annotated(tmp_path), tmp_path)
    with pytest.raises(ImportError, match=r"pip install 'pydet\[evaluate\]'"):
        train(Settings(data=str(BCCD), out=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_annotating_what_the_detector_finds_scores_one(detector: Detector, tmp_path: Path) -> None:
    found = detector.detect(DOG, threshold=0.5)
    names = sorted(set(found.names))
    boxes = [
        annotation(1, names.index(item.name) + 1, [*item.box[:2], item.box[2] - item.box[0], item.box[3] - item.box[1]])
        for item in found
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    result = evaluate(detector, annotated(tmp_path, annotations=boxes, categories=categories), tmp_path, threshold=0.5)
    for name in ("AP", "AP50", "AP75", "AR100", "VOC07", "VOC10"):
        assert result.metrics[name] == pytest.approx(1)
    assert result.objects == len(found) > 2


def test_hand_drawn_boxes(detector: Detector, tmp_path: Path) -> None:
    result = evaluate(detector, annotated(tmp_path), tmp_path)
    assert result.metrics["AP50"] == pytest.approx(1)  # all three are found, before any false alarm
    assert "AP50   1.000" in result.table()
    assert "1 images, 3 annotated objects" in result.table()


def test_nothing_detected_scores_zero(detector: Detector, tmp_path: Path) -> None:
    file = annotated(tmp_path)
    Image.new("RGB", (768, 576), (128, 128, 128)).save(tmp_path / "dog.jpg")
    metrics = evaluate(detector, file, tmp_path, threshold=0.5).metrics
    assert {metrics[name] for name in ("AP", "AP50", "AR100", "VOC07", "VOC10")} == {0.0}
    assert metrics["APs"] == -1  # there are no small objects


def test_missing_and_damaged_pictures_are_named_and_left_out(detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(DOG.read_bytes()[:50_000])
    file = annotated(
        tmp_path,
        images=[{"id": n, "file_name": name} for n, name in enumerate(["gone.jpg", "dog.jpg", "cut.jpg"])],
        annotations=[annotation(0, 5, DOG_BOX), annotation(1, 5, DOG_BOX), annotation(2, 5, DOG_BOX)],
    )
    result = evaluate(detector, file, tmp_path)
    assert (result.images, result.objects) == (1, 1)
    assert result.metrics["AP50"] == pytest.approx(1)
    assert len(result.problems) == 2
    assert "gone.jpg: no such file" in result.problems[0]
    assert "cut.jpg: truncated image" in result.problems[1]


def test_categories_are_matched_by_name(detector: Detector, tmp_path: Path) -> None:
    """COCO says "tv" where Darknet says "tvmonitor"; an unknown one is named and does not count."""
    categories = [*CATEGORIES, {"id": 1, "name": "TV"}, {"id": 3, "name": "unicorn"}, {"id": 4, "name": "dragon"}]
    boxes = [annotation(1, 5, DOG_BOX), annotation(1, 1, CAR_BOX), annotation(1, 3, CAR_BOX), annotation(1, 3, DOG_BOX)]
    result = evaluate(detector, annotated(tmp_path, annotations=boxes, categories=categories), tmp_path)
    assert len(result.problems) == 1
    assert result.problems[0].endswith("class 'unicorn': unknown to the model: its 2 objects are left out")
    assert result.objects == 2
    assert result.metrics["AP50"] == pytest.approx(0.5)  # the dog; there is no television


def test_limit(detector: Detector, tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "dog.jpg"}, {"id": 2, "file_name": "never_looked_at.jpg"}]
    result = evaluate(detector, annotated(tmp_path, images=images), tmp_path, limit=1)
    assert result.images == 1
    assert result.problems == []


@pytest.mark.parametrize("number", [0, -1])
def test_numbers_below_one_are_refused(detector: Detector, tmp_path: Path, number: int) -> None:
    """-1 would be all pictures but the last, or no batch at all."""
    file = annotated(tmp_path)
    data = load_dataset(file)
    with pytest.raises(ValueError, match=f"limit must be at least 1, got {number}"):
        evaluate(detector, file, limit=number)
    with pytest.raises(ValueError, match=f"the first pictures must be at least 1, got {number}"):
        evaluate(detector, data, limit=number)
    with pytest.raises(ValueError, match=f"batch_size must be at least 1, got {number}"):
        evaluate(detector, data, batch_size=number)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"images": None}, "not COCO annotations: no list 'images'"),
        ({"annotations": []}, "nothing to evaluate: no annotated objects"),
        ({"categories": [{"id": 5, "name": "unicorn"}]}, "nothing to evaluate: .*there is no category with id 2"),
        ({"annotations": [annotation(1, 5, [1, 2, 3])]}, r"nothing to evaluate: .*bbox must be four numbers"),
    ],
)
def test_bad_annotations(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sections: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(detector, "detect", None)  # it is told before the work
    with pytest.raises(DataError, match=message):
        evaluate(detector, annotated(tmp_path, **sections), tmp_path)


def test_bad_annotations_are_named_or_refused(detector: Detector, tmp_path: Path) -> None:
    file = annotated(tmp_path, annotations=[annotation(1, 5, DOG_BOX), annotation(1, 5, [9, 9, 0, 9])])
    result = evaluate(detector, file)
    assert len(result.problems) == 1
    assert "annotations[1] (id 1) (dog): its box has no width: x from 9 to 9" in result.problems[0]
    assert (result.images, result.objects) == (1, 1)
    with pytest.raises(DataError, match="has 1 problem"):
        evaluate(detector, file, strict=True)


def test_any_format_gives_the_same(detector: Detector, tmp_path: Path) -> None:
    """The annotations of dog.jpg as COCO's, VOC's and Darknet's; the latter with a split."""
    expected = evaluate(detector, annotated(tmp_path / "coco"))
    objects, lines = [], []
    names = ("dog", "bicycle", "car")
    for number, (name, (x, y, w, h)) in enumerate(zip(names, (DOG_BOX, BICYCLE_BOX, CAR_BOX), strict=True)):
        objects.append(voc_object(name, (x, y, x + w, y + h)))
        lines.append(f"{number} {(x + w / 2) / 768} {(y + h / 2) / 576} {w / 768} {h / 576}\n")
    write(tmp_path / "voc" / "dog.jpg", DOG.read_bytes())
    write(tmp_path / "voc" / "dog.xml", voc_xml(*objects, size=(768, 576)))
    write(tmp_path / "yolo" / "images" / "val" / "dog.jpg", DOG.read_bytes())
    write(tmp_path / "yolo" / "labels" / "val" / "dog.txt", "".join(lines))
    write(tmp_path / "yolo" / "data.yaml", f"val: images/val\nnames: {list(names)}\n")
    for path, split in ((tmp_path / "voc", None), (tmp_path / "yolo", "val")):
        result = evaluate(detector, path, split=split, strict=True)
        assert result.metrics == pytest.approx(expected.metrics, abs=1e-6)
        assert torch.equal(result.confusion, expected.confusion)


def test_classes_confusions_and_speed(detector: Detector, tmp_path: Path) -> None:
    result = evaluate(detector, annotated(tmp_path))
    by_name = {item.name: item for item in result.classes}
    assert set(by_name) == {"dog", "bicycle", "car"}
    assert all(item.objects == 1 and item.ap50 == pytest.approx(1) for item in by_name.values())
    assert result.metrics["AP"] == pytest.approx(sum(item.ap for item in by_name.values()) / 3)
    dog = detector.class_names.index("dog")
    assert result.confusion[dog, dog] == 1
    assert result.confusion[:-1].sum() == 3
    assert result.speed.detect > 0
    table = result.table()
    assert re.search(r"^dog +1  0\.\d{3}  1\.000  1\.000  1\.000$", table, re.MULTILINE)
    assert re.search(r"3 found, 0 missed, 0 taken for another class; \d+ false alarms", table)
    assert re.search(r"pictures a second: .* ms to read one, .* to detect", table)


def test_report(detector: Detector, tmp_path: Path) -> None:
    result = evaluate(detector, annotated(tmp_path))
    write_report(result, tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["metrics"] == pytest.approx(result.metrics)
    with (tmp_path / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [item.name for item in result.classes]
    assert float(rows[0]["ap50"]) == pytest.approx(1)
    with (tmp_path / "confusion.csv").open() as file:
        table = list(csv.reader(file))
    assert len(table) == 82
    assert sum(map(int, table[-1][1:])) == int(result.confusion[-1].sum())
    with (tmp_path / "precision_recall.csv").open() as file:
        points = list(csv.DictReader(file))
    assert len(points) == sum(len(curve.scores) for curve in result.curves)
    assert all(0 <= float(point["precision"]) <= 1 for point in points)
    for name in ("precision_recall.png", "confusion.png"):
        with Image.open(tmp_path / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 5  # something is drawn


def test_names_are_no_formulas(detector: Detector, tmp_path: Path) -> None:
    """Between two dollars matplotlib reads one, and raises ValueError where it is none."""
    result = evaluate(detector, annotated(tmp_path))
    names = tuple(f"${name}\\is$" for name in result.class_names)
    classes = [replace(item, name=names[0]) for item in result.classes]
    write_report(replace(result, class_names=names, classes=classes), tmp_path)
    with (tmp_path / "classes.csv").open() as file:
        assert next(csv.DictReader(file))["name"] == names[0]


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"plots need matplotlib: pip install 'pydet\[plots\]'"):
        check_matplotlib()
