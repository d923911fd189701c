"""COCO's JSON: where the pictures are, what is checked, and files that mean harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from data_files import coco_annotation, picture, write, write_coco

from pydet.data import DataError, DataWarning, load_dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    picture(tmp_path / "a.jpg")
    return tmp_path


def test_a_file(folder: Path) -> None:
    data = load_dataset(write_coco(folder / "instances_val.json"), strict=True)
    assert data.class_names == ("dog", "cat")  # in the order of the ids
    assert data.boxes.tolist() == [[10, 20, 40, 60]]
    assert (data.labels.tolist(), data.areas.tolist(), data.crowd.tolist()) == ([1], [1200], [False])


def test_pictures_are_in_the_order_of_their_ids(folder: Path) -> None:
    """By which pycocotools ranks detections of equal scores."""
    images = []
    for number in (10, 9, 2):
        picture(folder / f"{number}.jpg")
        images.append({"id": number, "file_name": f"{number}.jpg"})
    data = load_dataset(write_coco(folder / "x.json", images=images, annotations=[]), images=folder)
    assert [Path(path).name for path in data.paths] == ["2.jpg", "9.jpg", "10.jpg"]


def test_area_and_crowd(folder: Path) -> None:
    entry = coco_annotation(1, 3, [10, 20, 30, 40], area=7.5, iscrowd=1)
    data = load_dataset(write_coco(folder / "x.json", annotations=[entry]))
    assert (data.areas.tolist(), data.crowd.tolist()) == ([7.5], [True])


@pytest.mark.parametrize(
    ("json", "pictures"),
    [
        ("annotations/instances_val2017.json", "val2017"),  # COCO
        ("annotations/instances_val.json", "images/val"),
        ("annotations/all.json", "images"),
        ("val/_annotations.coco.json", "val"),  # Roboflow
        ("all.json", "images"),
        ("labels.json", "data"),  # FiftyOne
    ],
)
def test_layouts(tmp_path: Path, json: str, pictures: str) -> None:
    picture(tmp_path / pictures / "a.jpg")
    write_coco(tmp_path / json)
    split = "val" if "val" in json else None
    for path, part in ((tmp_path, split), (tmp_path / json, None)):
        data = load_dataset(path, part, strict=True)
        assert data.paths == (str(tmp_path / pictures / "a.jpg"),)


def test_other_annotations_of_the_same_pictures_are_left_alone(tmp_path: Path) -> None:
    picture(tmp_path / "val2017" / "a.jpg")
    write_coco(tmp_path / "annotations" / "instances_val2017.json")
    write(tmp_path / "annotations" / "captions_val2017.json", "{}")
    assert len(load_dataset(tmp_path, strict=True)) == 1


def test_a_named_folder_of_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere" / "a.jpg")
    file = write_coco(tmp_path / "x" / "y" / "all.json")
    with pytest.raises(DataError, match=r"its pictures \(a.jpg, ...\) are in none of .*say where: images=, --images"):
        load_dataset(file)
    assert len(load_dataset(file, images=tmp_path / "elsewhere", strict=True)) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no json", "not a JSON file"),
        (b"\xff\xfe\x00", "not a JSON file"),
        (b"[" * 100_000, "not COCO annotations: nested too deeply"),
        (b"[]", "not COCO annotations: no list 'images'"),
        (b'{"images": [], "annotations": 3}', "not COCO annotations: no list 'annotations'"),
        (b'{"images": [], "annotations": [], "categories": []}', "no picture can be used"),
    ],
)
def test_files_of_another_kind(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=f"bad.json.*: {message}"):
        load_dataset(write(tmp_path / "bad.json", content), images=tmp_path)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (3, "not an annotation"),
        (coco_annotation(2, 7, [1, 2, 3, 4]), "there is no image with id 2"),
        (coco_annotation([], 7, [1, 2, 3, 4]), r"there is no image with id \[\]"),
        (coco_annotation(1, 5, [1, 2, 3, 4]), "there is no category with id 5"),
        (coco_annotation(1, True, [1, 2, 3, 4]), "there is no category with id True"),
        (coco_annotation(1, 7, [1, 2, 3]), r"bbox must be four numbers x, y, width, height, got \[1, 2, 3\]"),
        (coco_annotation(1, 7, [1, 2, 3, float("nan")]), "bbox must be four numbers"),
        (coco_annotation(1, 7, [1, 2, 3, 10**400]), "bbox must be four numbers"),
        (coco_annotation(1, 7, [1, 2, 3, "4"]), "bbox must be four numbers"),
        (coco_annotation(1, 7, [1, 2, 3, True]), "bbox must be four numbers"),
        ({"image_id": 1, "category_id": 7}, "bbox must be four numbers x, y, width, height, got None"),
        (coco_annotation(1, 7, [1, 2, 3, 4], iscrowd=2), "iscrowd must be 0 or 1, got 2"),
        (coco_annotation(1, 7, [1, 2, 3, 4], area="big"), "area must be a number of at least 0, got 'big'"),
        (coco_annotation(1, 7, [1, 2, 3, 4], area=-5), "area must be a number of at least 0, got -5"),
        (coco_annotation(1, 7, [1, 2, 0, 4]), r"\(cat\): its box has no width: x from 1 to 1"),
    ],
)
def test_bad_annotations_are_named_and_left_out(folder: Path, annotation: Any, message: str) -> None:
    good = coco_annotation(1, 7, [10, 20, 30, 40])
    file = write_coco(folder / "bad.json", annotations=[good, annotation])
    with pytest.warns(DataWarning, match=rf"bad.json: annotations\[1\].*{message}"):
        data = load_dataset(file)
    assert data.boxes.tolist() == [[10, 20, 40, 60]]


def test_the_id_of_an_annotation_is_said(folder: Path) -> None:
    bad = coco_annotation(1, 7, [10, 20, 0, 40], id=4711)
    with pytest.raises(DataError, match=r"annotations\[0\] \(id 4711\) \(cat\)"):
        load_dataset(write_coco(folder / "bad.json", annotations=[bad]), strict=True)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"images": [{"file_name": "b.jpg"}]}, r"images\[1\]: has no 'id', a whole number or text"),
        ({"images": [{"id": 2}]}, r"images\[1\]: has no text 'file_name'"),
        ({"images": [{"id": 1, "file_name": "b.jpg"}]}, r"images\[1\]: there is an image with id 1 already"),
        ({"images": [{"id": 2, "file_name": "a.jpg"}]}, "the picture .*a.jpg is there twice; the first one is used"),
        ({"images": [{"id": 2, "file_name": "b.jpg"}]}, r"b.jpg: no such file"),
        ({"images": [{"id": 2, "file_name": "bad.jpg"}]}, r"bad.jpg: not an image"),
        (
            {"images": [{"id": 2, "file_name": "c.jpg", "width": 80, "height": 100}]},
            r"image 2: is 80 x 100 there, but .*c.jpg is 100 x 80",
        ),
        ({"categories": [{"id": "1", "name": "fox"}]}, r"categories\[2\]: has no whole number 'id' and text 'name'"),
        ({"categories": [{"id": 7, "name": "fox"}]}, r"categories\[2\]: id 7 is that of 'cat' already"),
    ],
)
def test_bad_pictures_and_categories(folder: Path, sections: dict[str, list[Any]], message: str) -> None:
    write(folder / "bad.jpg", b"no picture")
    picture(folder / "c.jpg")
    whole = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
    }
    file = write_coco(folder / "bad.json", **{name: whole[name] + more for name, more in sections.items()})
    with pytest.warns(DataWarning, match=message):
        data = load_dataset(file)
    assert data.boxes.tolist() == [[10, 20, 40, 60]]


@pytest.mark.parametrize("name", ["../secret.jpg", "x/../../secret.jpg", "..\\secret.jpg", "{}/secret.jpg", "a\0.jpg"])
def test_no_picture_outside_of_the_folder(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "secret.jpg")
    picture(tmp_path / "data" / "a.jpg")
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": name.format(tmp_path)}]
    with pytest.warns(DataWarning, match="image 2: its file .* lies outside of"):
        data = load_dataset(write_coco(tmp_path / "data" / "x.json", images=images))
    assert len(data) == 1
