"""Files that pydet writes: COCO results, CSV tables, pictures. Each is written whole or not at all."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from pydet.files import whole_file

if TYPE_CHECKING:
    from pydet.detector import Detections

# Darknet's coco.names keeps six names of COCO's early days (VOC's names).
_DARKNET_NAMES = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
}
_UNUSED_COCO_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # of 1..90: planned in 2014, never annotated


def official_name(name: str) -> str:
    """The name that COCO's annotations use for a class: "tvmonitor" is "tv"; others stay as they are."""
    return _DARKNET_NAMES.get(name, name)


def category_ids(class_names: Sequence[str]) -> list[int]:
    """The category id of each class in result files.

    A model of COCO's 80 classes in their usual order gets COCO's own ids (1..90, with gaps), and so does one with
    torchvision's 91 labels, which are these ids; any other model gets 1, 2, 3, ... in the order of its classes.
    """
    from pydet.models import coco_names
    from pydet.models.registry import ASSETS, read_lines

    if list(class_names) == read_lines(ASSETS / "coco91.names"):
        return list(range(len(class_names)))
    if [official_name(name) for name in class_names] == [official_name(name) for name in coco_names()]:
        return [number for number in range(1, 91) if number not in _UNUSED_COCO_IDS]
    return list(range(1, len(class_names) + 1))


def image_ids(paths: Sequence[str]) -> list[int | str]:
    """The image id of each file in result files: its name without ending, as a number where it is one (COCO's are).

    Where two files would get the same id, both are named by their whole path instead.
    """
    stems = [Path(path).stem for path in paths]
    ids: list[int | str] = [int(stem) if stem.isascii() and stem.isdigit() else stem for stem in stems]
    count = Counter(ids)
    return [path if count[number] > 1 else number for path, number in zip(paths, ids, strict=True)]


def coco_results(
    detections: Sequence[Detections], ids: Sequence[int | str], categories: Sequence[int | None]
) -> list[dict[str, Any]]:
    """Detections as COCO's results format: a dict each of image_id, category_id, bbox and score.

    Args:
        detections: One per picture.
        ids: The image id of each picture.
        categories: The category id of each class of the model.

    Returns:
        Boxes are (x, y, width, height) in pixels to 2 decimals, scores have 6.
    """
    return [
        {
            "image_id": image_id,
            "category_id": categories[item.label],
            "bbox": [round(value, 2) for value in _xywh(item.box)],
            "score": round(item.score, 6),
        }
        for found, image_id in zip(detections, ids, strict=True)
        for item in found
    ]


def _xywh(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box
    return x1, y1, x2 - x1, y2 - y1


def write_json(path: Path, content: object) -> None:
    """Writes a JSON file."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")


@contextmanager
def coco_results_file(
    path: Path, ids: Mapping[str, int | str], categories: Sequence[int | None]
) -> Iterator[Callable[[Detections], None]]:
    """A file of `coco_results` that is written picture by picture, by what this yields; whole at the end, or not there.

    Args:
        path: Of the file.
        ids: The image id of each picture's path.
        categories: The category id of each class of the model.
    """
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        separator = ""

        def add(found: Detections) -> None:
            nonlocal separator
            for entry in coco_results([found], [ids[found.path or ""]], categories):
                file.write(separator + json.dumps(entry))
                separator = ", "

        file.write("[")
        yield add
        file.write("]\n")


@contextmanager
def csv_file(path: Path) -> Iterator[Callable[[Detections], None]]:
    """A table with a row per detection: file, class, label, score, x1, y1, x2, y2 (pixels).

    It is written picture by picture, by what this yields; whole at the end, or not there.
    """
    # surrogateescape: file names that are not UTF-8 come out as the bytes they are
    with (
        whole_file(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["file", "class", "label", "score", "x1", "y1", "x2", "y2"])

        def add(found: Detections) -> None:
            for item in found:
                box = [f"{side:.2f}" for side in item.box]
                rows.writerow([found.path or "", item.name, item.label, f"{item.score:.6f}", *box])

        yield add


def save_picture(picture: Image.Image, path: Path) -> None:
    """Writes a picture in the format of the path's ending, JPEG at quality 95.

    Raises:
        ValueError: Pillow writes no format with that ending.
    """
    picture_format = Image.registered_extensions().get(path.suffix.lower())
    if picture_format not in Image.SAVE:
        raise ValueError(f"{path}: no picture format ends with {path.suffix!r}; use .jpg or .png")
    content = io.BytesIO()  # Pillow says nothing when the disk takes a part of what it writes
    with whole_file(path) as temporary:
        picture.save(content, format=picture_format, quality=95)
        temporary.write_bytes(content.getbuffer())
