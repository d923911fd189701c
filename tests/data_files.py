"""Small data sets in every format, written for a test, and what must be true of any data set that was loaded."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from pydet.data import DataWarning, load_dataset
from pydet.data.load import recognise

BCCD = Path(__file__).parent / "data" / "bccd"  # four real pictures; see its README.md


def picture(path: Path, width: int = 100, height: int = 80, **options: Any) -> Path:
    """A picture file, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (90, 120, 150)).save(path, **options)
    return path


def write(path: Path, text: str | bytes) -> Path:
    """A file, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def coco_annotation(image: Any, category: int, bbox: list[float], **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": bbox, **more}


def write_coco(path: Path, **sections: Any) -> Path:
    """COCO annotations of `a.jpg`, 100 x 80, with a cat at 10, 20, 40, 60; sections replace its parts."""
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}],
        "annotations": [coco_annotation(1, 7, [10, 20, 30, 40])],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
    }
    return write(path, json.dumps(content | sections))


def voc_object(name: str | None = "cat", box: tuple[Any, Any, Any, Any] = (10, 20, 40, 60), extra: str = "") -> str:
    sides = "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object>{f'<name>{name}</name>' if name else ''}<bndbox>{sides}</bndbox>{extra}</object>"


def voc_xml(*objects: str, size: tuple[int, int] = (100, 80), head: str = "") -> str:
    """An annotation of a picture of (width, height) `size`."""
    told = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation>{head}{told}{''.join(objects)}</annotation>"


# Annotation files, in a folder of their own that also holds the others and the pictures; and what is loaded.
FILES: dict[str, bytes | Callable[[Path], Any]] = {
    "a.json": write_coco,
    "images/a.txt": b"0 0.5 0.5 0.25 0.5\n1 0.25 0.5 0.1 0.2\n1 .1 .1 .5 .1 .5 .5\n",
    "data.yaml": b"path: .\ntrain: images\nval: [images]\nnc: 2\nnames: {0: dog, 1: cat}\n",
    "x.data": b"classes = 2\ntrain = list.txt\nnames = x.names\n",
    "x.names": b"dog\ncat\n",
    "list.txt": b"images/a.jpg\n",
    "voc/Annotations/a.xml": voc_xml(voc_object(extra="<difficult>1</difficult>"), voc_object("dog")).encode(),
    "voc/ImageSets/Main/train.txt": b"a\n",
}
LOADED = {"images/a.txt": "x.data", "x.names": "x.data", **dict.fromkeys(list(FILES)[-2:], "voc")}


def put(path: Path, name: str) -> None:
    content = FILES[name]
    write(path, content) if isinstance(content, bytes) else content(path)


def prepared(folder: Path) -> None:
    for place in ("a.jpg", "images/a.jpg", "voc/JPEGImages/a.jpg"):
        picture(folder / place)
    for name in FILES:
        put(folder / name, name)


def loaded(folder: Path, path: Path) -> None:
    """A data set, split by split where it has any, and checks whatever could be loaded."""
    for split in recognise(path).splits or (None,):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)
            data = load_dataset(path, split)
        assert torch.isfinite(data.boxes).all()
        assert torch.isfinite(data.areas).all()
        assert (data.areas >= 0).all()
        assert (data.boxes[:, 2:] > data.boxes[:, :2]).all()
        assert (data.boxes >= -1).all()
        assert (data.boxes <= torch.tensor([101, 81, 101, 81])).all()
        assert ((data.labels >= 0) & (data.labels < max(len(data.class_names), 1))).all()
        assert all(isinstance(name, str) for name in data.class_names)
        assert all(Path(path).resolve().is_relative_to(folder.resolve()) for path in data.paths)
