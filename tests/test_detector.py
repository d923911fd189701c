"""Pictures in, detections out, with the real embedded YOLOv3-tiny."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pydet
from pydet.detector import Detection, Detections, Detector
from pydet.image import ImageError, read_image

DOG = Path(__file__).parent.parent / "pydet" / "assets" / "dog.jpg"


@pytest.fixture(scope="module")
def detector() -> Detector:
    return pydet.load("yolov3-tiny")


def assert_same(found: Detections, expected: Detections) -> None:
    assert found.labels.tolist() == expected.labels.tolist()
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=1e-4, atol=0.05)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-4)


def test_the_dog_the_bicycle_and_the_car(detector: Detector) -> None:
    found = detector.detect(DOG)
    where = {item.name: item.box for item in found}
    assert {"dog", "bicycle"} < set(where)
    assert {"car", "truck"} & set(where)
    # what a person draws around the dog; IoU above one half is PASCAL VOC's notion of "found"
    assert iou(where["dog"], (125, 210, 315, 540)) > 0.5
    assert iou(where["bicycle"], (115, 120, 570, 430)) > 0.5


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def test_detections_are_rows_that_belong_together(detector: Detector) -> None:
    found = detector.detect(DOG, threshold=0.1)
    assert len(found) == len(found.boxes) == len(found.labels) == len(found.scores) == len(found.names) > 3
    assert found.image_size == (576, 768)
    assert found.path == str(DOG)
    assert (found.scores[1:] <= found.scores[:-1]).all()
    for index, item in enumerate(found):
        assert isinstance(item, Detection)
        assert item.name == found.names[index] == detector.class_names[item.label]
        assert list(item.box) == found.boxes[index].tolist()
        assert item.score == found.scores[index].item() > 0.1


def test_every_source_of_one_picture_gives_the_same(detector: Detector) -> None:
    expected = detector.detect(DOG)
    array = np.asarray(Image.open(DOG))
    for source in (str(DOG), DOG.read_bytes(), Image.open(DOG), array, read_image(DOG), array / np.float32(255)):
        assert_same(detector.detect(source), expected)


def test_a_list_gives_a_list_whatever_the_batches(detector: Detector) -> None:
    dog = Image.open(DOG)
    pictures = [dog, dog.resize((300, 500)), dog.crop((100, 150, 600, 450)), dog.convert("L"), dog.rotate(90)]
    singly = [detector.detect(picture) for picture in pictures]
    for batch_size in (1, 2, 8):
        together = detector.detect(pictures, batch_size=batch_size)
        assert isinstance(together, list)
        for found, expected in zip(together, singly, strict=True):
            assert_same(found, expected)
    assert detector.detect([]) == []
    assert len(detector.detect((DOG,))) == 1


def test_boxes_are_cut_at_the_edges(detector: Detector) -> None:
    picture = read_image(Image.open(DOG).crop((180, 230, 640, 470)))  # through the dog and both wheels
    raw = detector.model([picture], score_threshold=0.005, iou_threshold=0.45)[0]["boxes"]
    limits = torch.tensor([460.0, 240.0, 460.0, 240.0])
    assert (raw < 0).any()
    assert (raw > limits).any()
    boxes = detector.detect(picture, threshold=0.005).boxes
    assert (boxes >= 0).all()
    assert (boxes <= limits).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_the_threshold_removes_and_the_iou_threshold_merges(detector: Detector) -> None:
    many = detector.detect(DOG, threshold=0.01)
    few = detector.detect(DOG, threshold=0.5)
    assert 0 < len(few) < len(many)
    assert min(few.scores) > 0.5
    assert len(detector.detect(DOG, threshold=0.01, iou_threshold=1.0)) > len(many)


@pytest.mark.parametrize("size", [(1, 1), (12000, 40), (40, 12000)])
def test_extreme_sizes_are_only_uninteresting(detector: Detector, size: tuple[int, int]) -> None:
    found = detector.detect(Image.new("RGB", size, (90, 120, 150)))
    assert found.image_size == size[::-1]


def test_nothing_detected(detector: Detector) -> None:
    picture = Image.new("RGB", (320, 240), (128, 128, 128))
    found = detector.detect(picture)
    assert len(found) == 0
    assert list(found) == []
    assert found.names == []
    assert found.boxes.shape == (0, 4)
    assert found.table() == repr(found) == "nothing detected"
    np.testing.assert_array_equal(np.asarray(found.draw()), np.asarray(picture))


def test_table() -> None:
    boxes = torch.tensor([[1.0, 2.0, 30.0, 40.0], [0.0, 0.0, 1234.5, 5.25]])
    found = Detections(boxes, torch.tensor([1, 0]), torch.tensor([0.9, 0.25]), ("ox", "traffic light"), (50, 2000))
    assert found.table().split("\n") == [
        "class          score      x1      y1      x2      y2",
        "traffic light   0.90     1.0     2.0    30.0    40.0",
        "ox              0.25     0.0     0.0  1234.5     5.2",
    ]


def test_save_draws_and_leaves_the_original(detector: Detector, tmp_path: Path) -> None:
    copy = tmp_path / "in.jpg"
    copy.write_bytes(DOG.read_bytes())
    found = detector.detect(copy)
    found.save(tmp_path / "out.png")
    assert copy.read_bytes() == DOG.read_bytes()
    drawn = read_image(tmp_path / "out.png")
    assert drawn.shape == (3, 576, 768)
    assert (drawn != read_image(copy)).any()
    with pytest.raises(ValueError, match=r"out\.doc: no picture format ends with '\.doc'"):
        found.save(tmp_path / "out.doc")
    copy.unlink()
    with pytest.raises(ImageError, match="no such file"):
        found.draw()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 25}, r"threshold must be in 0\.\.1, got 25"),
        ({"threshold": float("nan")}, "threshold"),
        ({"iou_threshold": -0.1}, "iou_threshold"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_bad_arguments(detector: Detector, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detector.detect(DOG, **options)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=message):  # at once, not at the first result
        detector.detect_files([str(DOG)], **options)  # type: ignore[arg-type]


def test_results_are_ordinary_tensors(detector: Detector) -> None:
    """Those of inference mode can neither be changed in place nor have a gradient."""
    found = detector.detect(DOG)
    for tensor in (found.boxes, found.scores, found.labels):
        tensor.mul_(2)
    assert found.boxes.requires_grad_().sum().backward() is None


def test_files_one_by_one_with_a_bad_one_between(detector: Detector, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    results = list(detector.detect_files([str(DOG), str(bad), str(DOG)], batch_size=2))
    assert [result.path for result in results] == [str(DOG), str(bad), str(DOG)]
    assert isinstance(results[1].detections, ImageError)
    assert results[1].picture is None
    for result in (results[0], results[2]):
        assert isinstance(result.detections, Detections)
        assert_same(result.detections, detector.detect(DOG))
        assert result.detections.path == str(DOG)
        assert result.detections.draw().size == (768, 576)
        assert result.picture is not None
        assert torch.equal(result.picture, read_image(DOG))


def test_paths_of_files(detector: Detector) -> None:
    (result,) = detector.detect_files([DOG])
    assert result.path == str(DOG)
    with pytest.raises(TypeError, match="detect_files: paths must be a list of paths, got '"):
        detector.detect_files(str(DOG))
    with pytest.raises(TypeError, match="Tensor"):
        detector.detect_files([torch.zeros(3, 8, 8)])  # type: ignore[list-item]


@pytest.mark.parametrize("size", [416.0, "416", (416,), (416, 416, 3), (416, 416.0)])
def test_sizes_that_are_none(size: Any) -> None:
    with pytest.raises(ValueError, match="load: image_size must be a number of pixels or"):
        pydet.load(image_size=size)


def test_names_that_are_none() -> None:
    with pytest.raises(ValueError, match="load: class_names must be strings, got 0"):
        pydet.load(class_names=range(80))  # type: ignore[arg-type]
