"""Data sets: one form for every format, the real ones, splits, strictness, classes by name."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import shared_path
from data_files import BCCD, picture, voc_object, voc_xml, write, write_coco
from PIL import Image

from pydet.data import DataError, Dataset, DataWarning, load_dataset
from pydet.data.load import recognise


def quiet(path: Path, split: str | None = None) -> Dataset:
    """Loads real data, whose problems are the business of other tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return load_dataset(path, split)


def test_bccd_counts_and_its_two_bad_annotations() -> None:
    data = shared_path("data/bccd")
    with pytest.warns(DataWarning, match="has 2 problems"):
        everything = load_dataset(data)
    assert len(everything) == 364
    count = torch.bincount(everything.labels)
    # data/README: RBC 4,155, WBC 372, Platelets 361; the two without area are red cells
    assert dict(zip(everything.class_names, count.tolist(), strict=True)) == {
        "Platelets": 361,
        "RBC": 4153,
        "WBC": 372,
    }
    assert [Path(problem.file).name for problem in everything.problems] == [
        "BloodImage_00338.xml",
        "BloodImage_00343.xml",
    ]
    assert "object 13 (RBC): its box has no width: x from 504 to 504" in str(everything.problems[0])
    parts = {split: len(quiet(data, split)) for split in ("train", "val", "test", "trainval", "train+val")}
    assert parts == {"train": 205, "val": 87, "test": 72, "trainval": 292, "train+val": 292}
    assert quiet(data, "test").class_names == everything.class_names


@pytest.mark.parametrize(("split", "objects"), [("val", 815), ("train", 705)])
def test_coco160(split: str, objects: int) -> None:
    data = load_dataset(shared_path("data/coco160"), split, strict=True)
    assert (len(data), len(data.labels), len(data.class_names)) == (80, objects, 80)
    file = json.loads((shared_path("data/coco160") / "annotations" / f"instances_{split}2017.json").read_text())
    assert data.crowd.sum() == sum(entry["iscrowd"] for entry in file["annotations"])
    assert data.areas.sum().item() == pytest.approx(sum(entry["area"] for entry in file["annotations"]))
    assert data.class_names[:2] == ("person", "bicycle")


def test_one_data_set_in_three_formats(tmp_path: Path) -> None:
    """The small BCCD as it comes (VOC), and the same written as COCO and as YOLO files, is the same."""
    voc = quiet(BCCD)
    assert (len(voc), len(voc.labels), len(voc.problems)) == (4, 63 - 2, 2)  # objects counted with grep
    images, annotations = [], []
    for number, record in enumerate(voc):
        name = Path(record.path).name
        images.append({"id": number, "file_name": name, "height": record.size[0], "width": record.size[1]})
        height, width = record.size
        lines = []
        for (x1, y1, x2, y2), label in zip(record.boxes.tolist(), record.labels.tolist(), strict=True):
            annotations.append({"image_id": number, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1]})
            sides = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
            lines.append(f"{label} " + " ".join(map(repr, sides)))
        write(tmp_path / "yolo" / "labels" / f"{Path(name).stem}.txt", "\n".join(lines))
        for folder in ("yolo/images", "coco"):
            write(tmp_path / folder / name, Path(record.path).read_bytes())
    write(tmp_path / "yolo" / "classes.txt", "\n".join(voc.class_names))
    categories = [{"id": label, "name": name} for label, name in enumerate(voc.class_names)]
    write_coco(tmp_path / "coco" / "all.json", images=images, annotations=annotations, categories=categories)
    for other in (load_dataset(tmp_path / "coco", strict=True), load_dataset(tmp_path / "yolo", strict=True)):
        assert other.class_names == voc.class_names
        assert [Path(path).name for path in other.paths] == [Path(path).name for path in voc.paths]
        for part in ("sizes", "counts", "labels", "difficult", "crowd"):
            assert torch.equal(getattr(other, part), getattr(voc, part))
        torch.testing.assert_close(other.boxes, voc.boxes)
        torch.testing.assert_close(other.areas, voc.areas)


def test_records_are_slices_of_the_whole() -> None:
    data = quiet(BCCD)
    records = list(data)
    assert torch.equal(torch.cat([record.boxes for record in records]), data.boxes)
    assert [len(record.labels) for record in records] == data.counts.tolist()
    assert records[0].size == (480, 640)
    assert records[0].image_label is None
    with pytest.raises(IndexError, match="there is no picture 4; it has 4"):
        data[4]


def test_first_pictures_of_a_data_set() -> None:
    data = quiet(BCCD)
    assert torch.equal(data.first(2).boxes, torch.cat([data[0].boxes, data[1].boxes]))
    assert data.first(2).paths == data.paths[:2]
    assert data.first(None) is data
    assert data.first(99).paths == data.paths
    for limit in (0, -1):
        with pytest.raises(ValueError, match=f"load_dataset: limit must be at least 1, got {limit}"):
            load_dataset(BCCD, limit=limit)
    last = data.take(torch.tensor([False, False, False, True]))
    assert last.paths == data.paths[3:]
    assert torch.equal(last.boxes, data[3].boxes)


def test_classes_are_found_by_name() -> None:
    data = quiet(BCCD)
    model = data.with_classes(["wbc", "cat", "Rbc"])  # case does not matter
    assert model.class_names == ("wbc", "cat", "Rbc")
    kept = data.labels != data.class_names.index("Platelets")
    assert torch.equal(model.boxes, data.boxes[kept])
    assert [model.class_names[label].upper() for label in model.labels] == [
        data.class_names[label] for label in data.labels[kept]
    ]
    lost = int((~kept).sum())
    assert lost > 0
    assert str(model.problems[-1]).endswith(f"class 'Platelets': unknown to the model: its {lost} objects are left out")
    assert data.with_classes(data.class_names) is data
    alike = replace(data, class_names=("Cat", "cat", "CAT"))
    assert torch.equal(alike.with_classes(["background", "CAT", "cat", "Cat"]).labels, 3 - data.labels)


def test_strict_refuses_and_names_what_is_wrong() -> None:
    with pytest.raises(DataError, match=r"has 2 problems:\n.*00338.xml: object 13 \(RBC\): its box has no width"):
        load_dataset(BCCD, strict=True)
    assert not load_dataset(BCCD, "test", strict=True).problems


def test_many_problems_are_counted(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    write(tmp_path / "a.xml", voc_xml(*[voc_object("cat", (5, 5, 5, 9))] * 30))
    with pytest.raises(DataError, match=r"has 30 problems(.*\n){11}  and 20 more"):
        load_dataset(tmp_path, strict=True)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("dev", "no split named 'dev'; it has: test, train"),
        ("t", "several splits named 't'"),
        ("", "no split named ''"),
    ],
)
def test_unknown_splits(split: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(BCCD, split)


def test_what_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing: no such file or folder"):
        load_dataset(tmp_path / "missing")
    with pytest.raises(DataError, match=r"not a data set that is known; known are\n  COCO"):
        load_dataset(tmp_path)
    with pytest.raises(DataError, match=r"x.zip: not a data set; known are\n  COCO"):
        load_dataset(write(tmp_path / "x.zip", b"PK"))
    with pytest.raises(DataError, match="nowhere: no such folder"):
        load_dataset(BCCD, images=tmp_path / "nowhere")
    picture(tmp_path / "flat" / "a.jpg")
    write(tmp_path / "flat" / "a.xml", voc_xml(voc_object()))
    with pytest.raises(DataError, match="it has no splits"):
        load_dataset(tmp_path / "flat", "train")


def test_a_data_set_without_any_usable_picture(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", b"no picture")
    write(tmp_path / "a.xml", voc_xml(voc_object()))
    with pytest.raises(DataError, match=r"no picture can be used:\n.*a.jpg: not an image"):
        load_dataset(tmp_path)


def test_folders_of_classes(tmp_path: Path) -> None:
    for name in ("train/cat/1.jpg", "train/dog/2.png", "val/dog/3.jpg", "val/fox/4.jpg"):
        picture(tmp_path / name)
    assert recognise(tmp_path).format == "folder per class"
    data = load_dataset(tmp_path, strict=True)
    assert data.class_names == ("cat", "dog", "fox")
    assert data.image_labels.tolist() == [0, 1, 1, 2]
    assert data.counts.tolist() == [0, 0, 0, 0]
    assert data[2].image_label == 1
    assert "4 pictures with a label as a whole" in data.describe()
    assert load_dataset(tmp_path, "val").class_names == data.class_names
    assert load_dataset(tmp_path / "train").image_labels.tolist() == [0, 1]
    assert data.with_classes(["fox"]).image_labels.tolist() == [-1, -1, -1, 0]


def test_pictures_in_folders_of_class_folders_are_named(tmp_path: Path) -> None:
    for name in ("cat/1.jpg", "cat/kittens/2.jpg", "dog/puppies/3.jpg"):
        picture(tmp_path / name)
    (tmp_path / "fox").mkdir()
    with pytest.warns(DataWarning):
        data = load_dataset(tmp_path)
    assert (data.class_names, len(data)) == (("cat",), 1)
    assert {Path(problem.file).name for problem in data.problems} == {"kittens", "dog", "fox"}


def test_pictures_are_turned_upright(tmp_path: Path) -> None:
    """A telephone's picture that lies on its side: annotations are of what one sees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "a.jpg", 100, 80, exif=exif)
    write(tmp_path / "a.xml", voc_xml(voc_object(box=(1, 2, 70, 95)), size=(80, 100)))
    data = load_dataset(tmp_path, strict=True)
    assert data[0].size == (100, 80)
    write(tmp_path / "a.xml", voc_xml(voc_object(), size=(100, 80)))
    with pytest.raises(DataError, match=r"a.xml: size: is 100 x 80 there, but .*a.jpg is 80 x 100"):
        load_dataset(tmp_path, strict=True)


def test_loading_opens_no_pixels(tmp_path: Path) -> None:
    """A PNG that ends after its header has a size, which is all that is asked."""
    file = picture(tmp_path / "a.png")
    file.write_bytes(file.read_bytes()[:60])
    write(tmp_path / "a.xml", voc_xml(voc_object()))
    assert load_dataset(tmp_path)[0].size == (80, 100)


@pytest.mark.parametrize(
    ("box", "problem", "kept"),
    [
        ((10, 20, 10, 60), "its box has no width: x from 10 to 10", None),
        ((10, 60, 40, 20), "its box has no height: y from 60 to 20", None),
        ((50, 20, 50.000001, 60), "its box has no width: x from 50 to 50", None),  # the same number in float32
        ((-9, 20, 0.000001, 60), "its box .* lies outside of the picture", None),
        ((100, 20, 130, 60), r"its box \(100, 20, 130, 60\) lies outside of the picture, 100 x 80", None),
        ((-50, 20, 30, 60), "its box reaches 50 pixels beyond the picture, 100 x 80; cut at the edge", (0, 20, 30, 60)),
        ((10, 20, 100.5, 80.9), None, (10, 20, 100.5, 80.9)),  # rounding, as in COCO
    ],
)
def test_boxes_are_checked(
    tmp_path: Path, box: tuple[float, ...], problem: str | None, kept: tuple[float, ...] | None
) -> None:
    picture(tmp_path / "a.jpg")
    write(tmp_path / "a.xml", voc_xml(voc_object("dog"), voc_object("cat", box)))  # type: ignore[arg-type]
    if problem:
        with pytest.warns(DataWarning, match=rf"a.xml: object 2 \(cat\): {problem}"):
            data = load_dataset(tmp_path)
    else:
        data = load_dataset(tmp_path, strict=True)
    assert data.boxes[1:].tolist() == ([list(kept)] if kept else [])
