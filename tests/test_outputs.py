"""Result files hold what was found, in the format that other tools read, and are whole or absent."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from pydet.detector import Detections
from pydet.models import coco_names
from pydet.outputs import (
    category_ids,
    coco_results,
    coco_results_file,
    csv_file,
    image_ids,
    save_picture,
    write_json,
)


def detections(path: str | None = None) -> Detections:
    boxes = torch.tensor([[10.0, 20.0, 40.5, 60.25], [0.0, 0.0, 5.0, 7.0]])
    return Detections(boxes, torch.tensor([1, 0]), torch.tensor([0.75, 0.5]), ("cat", "dog, small"), (100, 200), path)


def test_coco_ids() -> None:
    ids = category_ids(coco_names())
    # from COCO's own list of categories
    known = {"person": 1, "traffic light": 10, "fire hydrant": 11, "stop sign": 13, "dog": 18, "bottle": 44,
             "tvmonitor": 72, "toothbrush": 90}  # fmt: skip
    assert {name: ids[coco_names().index(name)] for name in known} == known
    assert len(set(ids)) == 80


def test_coco_ids_of_the_official_names_too() -> None:
    renamed = {"motorbike": "motorcycle", "aeroplane": "airplane", "sofa": "couch", "pottedplant": "potted plant",
               "diningtable": "dining table", "tvmonitor": "tv"}  # fmt: skip
    assert category_ids([renamed.get(name, name) for name in coco_names()])[-1] == 90


def test_other_classes_count_from_one() -> None:
    assert category_ids(["RBC", "WBC", "Platelets"]) == [1, 2, 3]
    assert category_ids(coco_names()[::-1]) == list(range(1, 81))


def test_image_ids() -> None:
    assert image_ids(["a/000000532481.jpg", "dog.jpg", "x.tar.png"]) == [532481, "dog", "x.tar"]
    assert image_ids(["a/1.jpg", "b/01.jpg", "2.jpg"]) == ["a/1.jpg", "b/01.jpg", 2]


def test_coco_results() -> None:
    assert coco_results([detections()], [7], [3, 9]) == [
        {"image_id": 7, "category_id": 9, "bbox": [10.0, 20.0, 30.5, 40.25], "score": 0.75},
        {"image_id": 7, "category_id": 3, "bbox": [0.0, 0.0, 5.0, 7.0], "score": 0.5},
    ]


def test_pycocotools_reads_the_results(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco").COCO()
    coco.dataset = {"images": [{"id": 7}], "categories": [{"id": 3}, {"id": 9}], "annotations": []}
    coco.createIndex()
    write_json(tmp_path / "results.json", coco_results([detections()], [7], [3, 9]))
    loaded = coco.loadRes(str(tmp_path / "results.json"))
    assert [entry["bbox"] for entry in loaded.dataset["annotations"]] == [[10.0, 20.0, 30.5, 40.25], [0, 0, 5, 7]]


def test_a_file_of_coco_results_is_what_json_writes(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    pictures = [detections("7.jpg"), detections("8.jpg")]
    with coco_results_file(path, {"7.jpg": 7, "8.jpg": 8}, [3, 9]) as add:
        for each in pictures:
            add(each)
    whole = path.read_bytes()
    write_json(path, coco_results(pictures, [7, 8], [3, 9]))
    assert whole == path.read_bytes()
    with pytest.raises(KeyError), coco_results_file(path, {"7.jpg": 7}, [3, 9]) as add:
        add(pictures[1])
    assert path.read_bytes() == whole
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_csv(tmp_path: Path) -> None:
    with csv_file(tmp_path / "table.csv") as add:
        add(detections("a, b.jpg"))
        assert not (tmp_path / "table.csv").exists()
        add(detections(os.fsdecode(b"latin-\xe9.jpg")))
    data = (tmp_path / "table.csv").read_bytes()
    rows = list(csv.reader(data.decode("utf-8", "surrogateescape").splitlines()))
    assert rows[0] == ["file", "class", "label", "score", "x1", "y1", "x2", "y2"]
    assert rows[1] == ["a, b.jpg", "dog, small", "1", "0.750000", "10.00", "20.00", "40.50", "60.25"]
    assert len(rows) == 5
    assert b"latin-\xe9.jpg" in data


def test_a_failing_picture_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "picture.jpg"
    target.write_bytes(b"old")
    with pytest.raises(OSError, match="cannot write mode RGBA as JPEG"):
        save_picture(Image.new("RGBA", (4, 4)), target)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("ending", [".jpg", ".JPG", ".png", ".webp", ".bmp", ".tif"])
def test_picture_formats(ending: str, tmp_path: Path) -> None:
    save_picture(Image.new("RGB", (40, 30), (255, 0, 0)), tmp_path / f"picture{ending}")
    with Image.open(tmp_path / f"picture{ending}") as read:
        red, green, blue = read.convert("RGB").getpixel((20, 15))  # type: ignore[misc]
    assert red > 250
    assert max(green, blue) < 5
