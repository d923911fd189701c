"""Darknet's label files in the layouts of Darknet, ultralytics and Roboflow; what is checked."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_files import picture, write

from pydet.data import DataError, DataWarning, load_dataset

LINE = "1 0.25 0.5 0.3 0.5\n"  # of a picture of 100 x 80
BOX = [10, 20, 40, 60]
YAML = "train: images/train\nval: images/val\nnc: 2\nnames: [dog, cat]\n"


def labelled(image: Path, label: Path, text: str = LINE) -> Path:
    write(label, text)
    return picture(image)


def check(path: Path, split: str | None = None, names: tuple[str, ...] = ("dog", "cat"), **options: Path) -> None:
    data = load_dataset(path, split, strict=True, **options)
    assert (len(data), data.class_names, data.labels.tolist()) == (1, names, [1])
    assert data.boxes[0].tolist() == pytest.approx(BOX)


@pytest.mark.parametrize(
    "yaml",
    [
        YAML,
        YAML.replace("[dog, cat]", "{1: cat, 0: dog}"),
        YAML + "path: .\n",
        YAML + "path: /somewhere/on/another/machine\n",
        YAML.replace("images/train", "../images/train"),  # what Roboflow writes
        YAML.replace("train: images/train", "train: [images/train]"),
        YAML + "download: |\n  import os\n  os._exit(1)\n",
    ],
)
def test_ultralytics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, yaml: str) -> None:
    for split in ("train", "val"):
        labelled(tmp_path / f"images/{split}/a.jpg", tmp_path / f"labels/{split}/a.txt")
    write(tmp_path / "data.yaml", yaml)
    monkeypatch.chdir(tmp_path.parent)
    for folder in (tmp_path, Path(tmp_path.name)):
        for path in (folder, folder / "data.yaml"):
            for split in ("train", "val"):
                check(path, split)


def test_splits_that_are_named_and_not_there(tmp_path: Path) -> None:
    """Roboflow names a test split whether it wrote one or not; and of COCO many people have only val."""
    labelled(tmp_path / "val/images/a.jpg", tmp_path / "val/labels/a.txt")
    path = "train: ../train/images\nval: ../val/images\ntest: ../test/images\nnames: [dog, cat]\n"
    check(write(tmp_path / "data.yaml", path), "val")
    with pytest.raises(DataError, match=r"no split named 'test'; it has: train, val$"):
        load_dataset(tmp_path, "test")
    with pytest.raises(DataError, match=r"data.yaml: '../train/images' is not in .*; where the pictures are elsewhere"):
        load_dataset(tmp_path, "train")


def test_an_outline_counts_as_the_box_around_it(tmp_path: Path) -> None:
    text = "1 0.1 0.25 0.4 0.5 0.2 0.75\n"  # a triangle
    labelled(tmp_path / "images/a.jpg", tmp_path / "labels/a.txt", text)
    write(tmp_path / "classes.txt", "dog\ncat\n")
    check(tmp_path)


def test_ultralytics_with_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labelled(tmp_path / "images/a.jpg", tmp_path / "labels/a.txt")
    write(tmp_path / "train.txt", "./images/a.jpg\n\n")
    write(tmp_path / "data.yaml", "train: train.txt\nnames: [dog, cat]\n")
    check(tmp_path / "data.yaml")
    monkeypatch.chdir(tmp_path.parent)
    check(Path(tmp_path.name, "data.yaml"))


@pytest.mark.parametrize("base", [".", "data"])
def test_darknet_data(tmp_path: Path, base: str) -> None:
    """Paths are relative to where Darknet is run: the folder of the file, or that above."""
    labelled(tmp_path / "data/obj/a.jpg", tmp_path / "data/obj/a.txt")
    prefix = "data/" if base == "." else ""
    write(tmp_path / "data/train.txt", f"{prefix}obj/a.jpg\n")
    write(tmp_path / "data/obj.names", "dog\ncat\n")
    text = f"classes = 2\n# comment = x\ntrain={prefix}train.txt\nnames = {prefix}obj.names\nbackup = backup/\n"
    write(tmp_path / "data/obj.data", text)
    check(tmp_path / "data/obj.data")
    check(tmp_path / "data", "train")


def test_darknet_list_with_absolute_paths(tmp_path: Path) -> None:
    image = labelled(tmp_path / "voc/JPEGImages/a.jpg", tmp_path / "voc/labels/a.txt")
    write(tmp_path / "voc.names", "dog\ncat\n")
    check(write(tmp_path / "train.txt", f"{image}\n"))
    check(write(tmp_path / "windows.txt", "voc\\JPEGImages\\a.jpg\r\n"))


def test_folders(tmp_path: Path) -> None:
    labelled(tmp_path / "one/images/a.jpg", tmp_path / "one/labels/a.txt")
    check(tmp_path / "one", names=("0", "1"))  # no names anywhere: numbers
    write(tmp_path / "one/classes.txt", "dog\ncat\n")
    check(tmp_path / "one")
    labelled(tmp_path / "two/images/val/a.jpg", tmp_path / "two/labels/val/a.txt")
    write(tmp_path / "two/labels/classes.txt", "dog\ncat\n")
    check(tmp_path / "two", "val")
    labelled(tmp_path / "three/val/images/a.jpg", tmp_path / "three/val/labels/a.txt")
    write(tmp_path / "three/obj.names", "dog\ncat\n")
    check(tmp_path / "three", "val")
    labelled(tmp_path / "four/a.jpg", tmp_path / "four/a.txt")
    write(tmp_path / "four/classes.txt", "dog\ncat\n")
    check(tmp_path / "four")
    write(tmp_path / "one/notes.json", '{"categories": []}')  # Label Studio
    check(tmp_path / "one")


def test_a_picture_without_label_file_has_no_objects(tmp_path: Path) -> None:
    labelled(tmp_path / "images/a.jpg", tmp_path / "labels/a.txt")
    picture(tmp_path / "images/b.jpg")
    labelled(tmp_path / "images/c.jpg", tmp_path / "labels/c.txt", "")
    assert load_dataset(tmp_path, strict=True).counts.tolist() == [1, 0, 0]


def test_label_files_without_a_picture_are_named(tmp_path: Path) -> None:
    labelled(tmp_path / "images/a.jpg", tmp_path / "labels/a.txt")
    write(tmp_path / "labels/b.txt", LINE)
    write(tmp_path / "labels/classes.txt", "dog\ncat\n")
    with pytest.warns(DataWarning, match=r"has 1 problem:\n.*b.txt: there is no picture of this name"):
        load_dataset(tmp_path)
    check(write(tmp_path / "list.txt", "images/a.jpg\n"))  # which may leave pictures out


def test_without_any_label_file(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.jpg")
    (tmp_path / "labels").mkdir()
    with pytest.raises(DataError, match=r"no label files: the first one would be .*labels/a.txt"):
        load_dataset(tmp_path)


def test_a_label_of_the_whole_picture(tmp_path: Path) -> None:
    """Darknet's mark of a class without a place, for YOLO9000's classification data: x = y = 0."""
    labelled(tmp_path / "images/a.jpg", tmp_path / "labels/a.txt", "3 0 0 0 0\n" + LINE)
    data = load_dataset(tmp_path, strict=True)
    assert data.image_labels.tolist() == [3]
    assert data.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 0.5 0.5 0.1", "must be five numbers, class x y width height, got '1 0.5 0.5 0.1'"),
        ("1 " + "0.5 " * 5, "got '1 0.5 0.5 0.5 0.5 0.5'"),  # with a score
        ("1 " + "0.5 " * 199, "got '200 fields'"),
        ("1 0.5 0.5 0.6 nan 0.7 0.7", "must be five numbers"),
        ("1 " + "0.5 " * 8, r"\(cat\): its box has no width"),  # an outline
        ("1 1 2 3 4 50 6", "x, y, width, height must be parts of the picture"),
        ("cat 0.5 0.5 0.1 0.1", "must be five numbers"),
        ("1 0.5 0.5 nan 0.1", "must be five numbers"),
        ("2 0.5 0.5 0.1 0.1", "the class must be 0 to 1, got 2"),
        ("-1 0.5 0.5 0.1 0.1", "the class must be 0 to 1, got -1"),
        ("0.5 0.5 0.5 0.1 0.1", "the class must be 0 to 1, got 0.5"),
        ("1 50 40 10 10", "x, y, width, height must be parts of the picture, 0..1, got '1 50 40 10 10'"),
        ("1 0.5 0.5 0 0.1", r"\(cat\): its box has no width"),
        ("1 0.5 0.5 0.1 -0.1", r"\(cat\): its box has no height"),
        ("1 1.3 0.5 0.1 0.1", r"\(cat\): its box \(125, 36, 135, 44\) lies outside of the picture, 100 x 80"),
    ],
)
def test_bad_lines_are_named_and_left_out(tmp_path: Path, line: str, message: str) -> None:
    labelled(tmp_path / "images/a.jpg", tmp_path / "labels/a.txt", f"{LINE}\n{line}\n")
    write(tmp_path / "classes.txt", "dog\ncat\n")
    with pytest.warns(DataWarning, match=rf"labels/a.txt: line 3.*{message}"):
        data = load_dataset(tmp_path)
    assert data.boxes.flatten().tolist() == pytest.approx(BOX)


def test_many_names_take_no_more_than_a_moment(tmp_path: Path) -> None:
    """Of so many, each compared with all others would take an hour."""
    labelled(tmp_path / "a.jpg", tmp_path / "a.txt")
    write(tmp_path / "classes.txt", "\n".join(f"class {number}" for number in range(300_000)))
    assert len(load_dataset(tmp_path).class_names) == 300_000


@pytest.mark.parametrize("entry", ["../secret.jpg", "/secret.jpg", "{}/secret.jpg", "data/../../secret.jpg"])
def test_no_picture_outside_of_the_folder(tmp_path: Path, entry: str) -> None:
    labelled(tmp_path / "secret.jpg", tmp_path / "secret.txt")
    labelled(tmp_path / "above/data/a.jpg", tmp_path / "above/data/a.txt")
    file = write(tmp_path / "above/data/list.txt", f"data/a.jpg\n{entry.format(tmp_path)}\n")
    with pytest.warns(DataWarning, match=r"list.txt: line 2: .*secret.jpg lies outside of .*name the folder"):
        assert len(load_dataset(file)) == 1
    write(tmp_path / "above/list.txt", f"{tmp_path}/secret.jpg\n")
    check(tmp_path / "above/list.txt", names=("0", "1"), images=tmp_path)  # if the user says so


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("a: [", "not a YAML file"),
        ("[" * 10_000, "not a YAML file"),
        ("3", "must have the keys train, val, test and names"),
        ("train: x", "names must be a list of the classes, got None"),
        ("train: x\nnames: []", r"names must be a list of the classes, got \[\]"),
        ("train: x\nnames: [a, a]", "two classes have the name 'a'"),
        ("train: x\nnames: {0: a, 2: b}", r"the numbers of the names must be 0 to 1, got \[0, 2\]"),
        ("train: x\nnames: [a]\nnc: 2", "nc is 2, but there are 1 names"),
        ("train: {a: b}\nnames: [a]", "train must be a path or a list of paths"),
        ("train: missing\nnames: [a]", "'missing' is not in .*; where the pictures are elsewhere, say so"),
        ("train: ../../..\nnames: [a]", "'../../..' is not in"),
        ("train: /etc\nnames: [a]", "'/etc' is not in"),
        ("names: [a]", "names no pictures: there is none of the keys train, val, valid, test"),
        ("train: !!python/object/apply:os._exit [1]\nnames: [a]", "not a YAML file"),
    ],
)
def test_bad_yaml(tmp_path: Path, yaml: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"data.yaml: {message}"):
        load_dataset(write(tmp_path / "data.yaml", yaml))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names = x", "names no list of pictures"),
        ("train = missing.txt", "'missing.txt' is not in .* or .*"),
        ("train = /etc/hostname", "'/etc/hostname' is not in"),
    ],
)
def test_bad_darknet_data(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"x.data: {message}"):
        load_dataset(write(tmp_path / "data" / "x.data", text))


def test_darknet_data_from_inside_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its names are relative to the folder above, which "obj.data" does not name."""
    labelled(tmp_path / "data/obj/a.jpg", tmp_path / "data/obj/a.txt")
    write(tmp_path / "data/train.txt", "data/obj/a.jpg\n")
    write(tmp_path / "data/obj.names", "dog\ncat\n")
    write(tmp_path / "data/obj.data", "train=data/train.txt\nnames=data/obj.names\n")
    monkeypatch.chdir(tmp_path / "data")
    check(Path("obj.data"))
    check(Path("train.txt"))


@pytest.mark.parametrize("lines", ["\n{}\n", "./{}\n", "data/obj/missing.jpg\n{}\n"])
def test_first_lines_of_a_list(tmp_path: Path, lines: str) -> None:
    labelled(tmp_path / "data/obj/a.jpg", tmp_path / "data/obj/a.txt")
    write(tmp_path / "data/train.txt", lines.format("data/obj/a.jpg"))
    write(tmp_path / "data/obj.data", "train=data/train.txt\n")
    if "missing" in lines:
        with pytest.warns(DataWarning, match=r"missing\.jpg"):
            data = load_dataset(tmp_path / "data/obj.data", "train")
        assert (len(data), data.labels.tolist()) == (1, [1])
    else:
        check(tmp_path / "data/obj.data", names=("0", "1"))
