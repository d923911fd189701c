"""Hostile values and names in annotation files: a DataError or named problems, nothing else, and never a bad box.

Damaged bytes are for `test_fuzz`.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path

from data_files import coco_annotation, loaded, picture, write_coco
from hypothesis import given
from hypothesis import strategies as st

from pydet.data import DataError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["id", "image_id", "category_id", "bbox", "area", "iscrowd", "file_name", "name"]
NAMES = ["..", "../a.jpg", "/etc/passwd", "a.jpg/../../b", "~", "a\0b", "\ud800"]


def load(folder: Path, path: Path) -> None:
    """Loads it, if it can be, and checks whatever could be loaded."""
    with contextlib.suppress(DataError):
        loaded(folder, path)


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
