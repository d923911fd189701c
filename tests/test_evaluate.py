"""Average precision: what the real Darknet scores on real pictures, and what happens to imperfect annotations."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import shared_path
from PIL import Image

import pydet
from pydet.detector import Detector
from pydet.evaluate import AnnotationError, evaluate, read_annotations

pytest.importorskip("pycocotools")

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
    assert result.metrics == pytest.approx(expected, abs=0.002)


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
    with pytest.raises(ImportError, match=r"pip install 'pydet\[evaluate\]'"):
        evaluate(detector, annotated(tmp_path), tmp_path)


def test_annotating_what_the_detector_finds_scores_one(detector: Detector, tmp_path: Path) -> None:
    found = detector.detect(DOG, threshold=0.5)
    names = sorted(set(found.names))
    boxes = [
        annotation(1, names.index(item.name) + 1, [*item.box[:2], item.box[2] - item.box[0], item.box[3] - item.box[1]])
        for item in found
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    result = evaluate(detector, annotated(tmp_path, annotations=boxes, categories=categories), tmp_path, threshold=0.5)
    assert result.metrics == pytest.approx({"AP": 1, "AP50": 1, "AP75": 1, "AR100": 1})
    assert result.objects == len(found) > 2


def test_hand_drawn_boxes(detector: Detector, tmp_path: Path) -> None:
    result = evaluate(detector, annotated(tmp_path), tmp_path)
    assert result.metrics["AP50"] == pytest.approx(1)  # all three are found, before any false alarm
    assert "AP50   1.000" in result.table()
    assert "1 images, 3 annotated objects" in result.table()


def test_nothing_detected_scores_zero(detector: Detector, tmp_path: Path) -> None:
    file = annotated(tmp_path)
    Image.new("RGB", (768, 576), (128, 128, 128)).save(tmp_path / "dog.jpg")
    assert set(evaluate(detector, file, tmp_path, threshold=0.5).metrics.values()) == {0.0}


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
    assert result.problems == ["category 'unicorn' is unknown to the model: its 2 objects are left out"]
    assert result.objects == 2
    assert result.metrics["AP50"] == pytest.approx(0.5)  # the dog; there is no television


def test_limit(detector: Detector, tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "dog.jpg"}, {"id": 2, "file_name": "never_looked_at.jpg"}]
    result = evaluate(detector, annotated(tmp_path, images=images), tmp_path, limit=1)
    assert result.images == 1
    assert result.problems == []


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"images": None}, "not COCO annotations: no list 'images'"),
        ({"images": [{"id": 1}]}, r"images\[0\] has no 'file_name' of type str"),
        ({"annotations": [{"image_id": 1, "category_id": 5}]}, r"annotations\[0\] has no 'bbox' of type list"),
        ({"annotations": [annotation(1, 5, [1, 2, 3])]}, r"annotations\[0\]: bbox must be four numbers"),
        ({"annotations": [annotation(1, 5, [1, 2, 3, float("nan")])]}, "bbox must be four numbers"),
        ({"categories": ["dog"]}, r"categories\[0\] has no 'id' of type int"),
        ({"annotations": []}, "nothing to evaluate: no annotated objects"),
        ({"categories": [{"id": 5, "name": "unicorn"}]}, "nothing to evaluate: category 'unicorn' is unknown"),
    ],
)
def test_bad_annotations(detector: Detector, tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        evaluate(detector, annotated(tmp_path, **sections), tmp_path)


def test_bad_annotation_files(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"missing\.json: cannot be read \(No such file"):
        read_annotations(tmp_path / "missing.json")
    for content in (b"not json", b"\xff\xfe\x00", b"[]"):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(AnnotationError, match=r"bad\.json: not"):
            read_annotations(tmp_path / "bad.json")


def test_area_and_crowd_flag_may_be_missing(tmp_path: Path) -> None:
    given = read_annotations(annotated(tmp_path, annotations=[annotation(1, 5, [1, 2, 3, 4])]))["annotations"][0]
    assert given["area"] == 12
    assert given["iscrowd"] == 0
    kept = read_annotations(annotated(tmp_path, annotations=[annotation(1, 5, [1, 2, 3, 4], area=7, iscrowd=1)]))
    assert (kept["annotations"][0]["area"], kept["annotations"][0]["iscrowd"]) == (7, 1)
