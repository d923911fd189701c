"""Damaged and hostile annotation files: a DataError or named problems, never another exception, never a bad box."""

from __future__ import annotations

import contextlib
import json
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
from data_files import coco_annotation, picture, voc_object, voc_xml, write, write_coco
from hypothesis import given
from hypothesis import strategies as st

from pydet.data import DataError, DataWarning, load_dataset

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
BYTES = st.binary(max_size=3) | st.sampled_from([b"-", b"9", b"/", b"<", b"\n"])
KEYS = ["id", "image_id", "category_id", "bbox", "area", "iscrowd", "file_name", "name"]
NAMES = ["..", "../a.jpg", "/etc/passwd", "a.jpg/../../b", "~", "a\0b", "\ud800"]
YAML = b"path: .\ntrain: images\nval: [images]\nnc: 2\nnames: {0: dog, 1: cat}\n"
FILES = {
    "a.json": write_coco,
    "a.xml": voc_xml(voc_object(extra="<difficult>1</difficult>"), voc_object("dog")).encode(),
    "images/a.txt": b"0 0.5 0.5 0.25 0.5\n1 0.25 0.5 0.1 0.2\n",
    "data.yaml": YAML,
    "x.data": b"classes = 2\ntrain = list.txt\nnames = x.names\n",
    "list.txt": b"images/a.jpg\n",
}


def load(folder: Path, path: Path) -> None:
    """Loads it, if it can be, and checks whatever could be loaded."""
    with contextlib.suppress(DataError):
        loaded(folder, path)


def loaded(folder: Path, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        data = load_dataset(path, images=folder if path.suffix in (".json", ".xml") else None)
        assert torch.isfinite(data.boxes).all()
        assert torch.isfinite(data.areas).all()
        assert (data.boxes[:, 2:] > data.boxes[:, :2]).all()
        assert (data.boxes >= -1).all()
        assert (data.boxes <= torch.tensor([101, 81, 101, 81])).all()
        assert ((data.labels >= 0) & (data.labels < max(len(data.class_names), 1))).all()
        assert all(Path(path).resolve().is_relative_to(folder.resolve()) for path in data.paths)


def prepared(folder: Path) -> None:
    picture(folder / "a.jpg")
    picture(folder / "images" / "a.jpg")
    for name, content in FILES.items():
        if isinstance(content, bytes):
            write(folder / name, content)
    write(folder / "x.names", "dog\ncat\n")


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
def test_damaged_bytes(name: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepared(folder)
        content = FILES[name]
        raw = bytearray(content if isinstance(content, bytes) else write_coco(folder / name).read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, len(raw)))
            length = data.draw(st.sampled_from([0, 1, 1, 1, 5]))
            raw[place : place + length] = data.draw(BYTES)
        write(folder / name, bytes(raw))
        target = {"a.xml": folder, "images/a.txt": folder / "data.yaml"}.get(name, folder / name)
        if name == "a.xml":  # a folder of XML files, nothing else
            for other in ("data.yaml", "x.data", "list.txt"):
                (folder / other).unlink()
        load(folder, target)


@given(value=VALUES, key=st.sampled_from(KEYS))
def test_any_value_anywhere_in_coco(value: object, key: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        picture(folder / "a.jpg")
        content = json.loads(write_coco(folder / "a.json").read_text())
        content["annotations"].append(coco_annotation(1, 7, [1, 2, 3, 4], area=5, iscrowd=0, id=9))
        for section in content.values():
            section.append({**section[-1], key: value})
        (folder / "a.json").write_text(json.dumps(content))
        load(folder, folder / "a.json")


@given(name=st.text(max_size=12) | st.sampled_from(NAMES))
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "data"
        picture(folder / "a.jpg")
        picture(Path(temporary) / "b.jpg")
        images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": name}]
        load(folder, write_coco(folder / "a.json", images=images))
