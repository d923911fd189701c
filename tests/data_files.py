"""Small data sets in every format, written for a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

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
