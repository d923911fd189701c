"""What all readers of annotations share: checks of boxes, of file names, of pictures, and the gathering of all."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from pydet.data.dataset import DataError, Dataset, Problem
from pydet.image import ImageError, image_size

Box = tuple[float, float, float, float]

ROUNDING = 1.0
"""Boxes may reach this many pixels beyond the picture: COCO's own do, by rounding."""

SMALLEST = 2.0**-10
"""Pixels that a box must be wide and high: narrower ones would have no width once they are moved in float32."""

LARGEST_FILE = 1 << 24
"""Bytes of a list of pictures or of names."""

LARGEST_OF_PICTURE = 1 << 22
"""Bytes of the annotations of one picture; nobody annotates that much by hand, and it is read in seconds."""


class Annotated(NamedTuple):
    """An object as a reader hands it over: its class, box in pixels, where it stands in its file, and its flags."""

    name: str
    box: Box
    where: str
    difficult: bool = False
    crowd: bool = False
    area: float | None = None


class Collector:
    """Gathers pictures and objects, checks them, and remembers what is wrong with them."""

    def __init__(self, limit: int | None = None) -> None:
        """Takes the first `limit` pictures only, or all."""
        self._room = limit
        self.problems: list[Problem] = []
        self._labels: dict[str, int] = {}
        self._paths: dict[str, int] = {}  # picture -> number of the split that brought it
        self._split = 0
        self._sizes: list[tuple[int, int]] = []
        self._counts: list[int] = []
        self._image_labels: list[int] = []
        self._rows: list[tuple[Box, int, bool, bool, float]] = []

    def start_split(self, class_names: Iterable[str]) -> None:
        """Pictures of an earlier split are not taken again; labels of new class names follow those of the old."""
        self._split += 1
        for name in class_names:
            self._labels.setdefault(name, len(self._labels))

    def bad(self, file: str | Path, where: str, reason: str) -> None:
        self.problems.append(Problem(str(file), where, reason))

    def sizes(self, paths: Sequence[str]) -> list[tuple[int, int] | None]:
        """(height, width) of pictures from their headers; a picture that is none is noted, and None here.

        None also for the pictures beyond the limit, which are not opened.
        """
        looked_at = paths[: self._room]
        if self._room is not None:
            self._room -= len(looked_at)

        def size_of(path: str) -> tuple[int, int] | ImageError:
            try:
                return image_size(path)
            except ImageError as error:
                return error

        sizes: list[tuple[int, int] | None] = []
        with ThreadPoolExecutor(8) as pool:  # they wait for the disk, or the network
            for path, size in zip(looked_at, pool.map(size_of, looked_at), strict=True):
                if isinstance(size, ImageError):
                    self.bad(path, "", str(size).removeprefix(f"{path}: "))
                sizes.append(None if isinstance(size, ImageError) else size)
        return sizes + [None] * (len(paths) - len(sizes))

    def add(
        self,
        path: str,
        size: tuple[int, int],
        file: str | Path,
        objects: Iterable[Annotated] = (),
        image_label: str | None = None,
    ) -> None:
        """Takes a picture and its objects, which stand in `file`."""
        if path in self._paths:
            if self._paths[path] == self._split:
                self.bad(file, "", f"the picture {path} is there twice; the first one is used")
            return
        self._paths[path] = self._split
        before = len(self._rows)
        for item in objects:
            box, reason = checked_box(item.box, size)
            if reason:
                self.bad(file, item.where, reason)
            if box is not None:
                area = item.area
                if area is not None and area < 0:  # COCOeval would look away from the object without a word
                    self.bad(file, item.where, f"its area is {area:g}; that of its box is taken")
                if area is None or area < 0:
                    area = (box[2] - box[0]) * (box[3] - box[1])
                self._rows.append((box, self._labels[item.name], item.difficult, item.crowd, area))
        self._counts.append(len(self._rows) - before)
        self._sizes.append(size)
        self._image_labels.append(-1 if image_label is None else self._labels[image_label])

    def dataset(self, name: str) -> Dataset:
        """What has been gathered.

        Raises:
            DataError: Not a single picture.
        """
        if not self._paths:
            raise DataError(f"{name}: no picture can be used{some_of(self.problems)}")
        boxes, labels, difficult, crowd, areas = zip(*self._rows, strict=True) if self._rows else ((),) * 5
        return Dataset(
            name,
            tuple(self._labels),
            tuple(self._paths),
            torch.tensor(self._sizes, dtype=torch.int64),
            torch.tensor(self._counts, dtype=torch.int64),
            torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
            torch.tensor(labels, dtype=torch.int64),
            torch.tensor(difficult, dtype=torch.bool),
            torch.tensor(crowd, dtype=torch.bool),
            torch.tensor(areas, dtype=torch.float64),
            torch.tensor(self._image_labels, dtype=torch.int64),
            tuple(self.problems),
        )


def checked_box(box: Box, size: tuple[int, int]) -> tuple[Box | None, str]:
    """A box [xyxy, pixels] that can be used, or None; and what is wrong with it, or nothing."""
    height, width = size
    x1, y1, x2, y2 = box
    for low, high, side, axis in ((x1, x2, "width", "x"), (y1, y2, "height", "y")):
        if not high - low >= SMALLEST:
            return None, f"its box has no {side}: {axis} from {low:g} to {high:g}"
    cut = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    if not min(cut[2] - cut[0], cut[3] - cut[1]) >= SMALLEST:
        shown = ", ".join(f"{side:g}" for side in box)
        return None, f"its box ({shown}) lies outside of the picture, {width} x {height}"
    beyond = max(abs(a - b) for a, b in zip(box, cut, strict=True))
    if beyond > ROUNDING:
        return cut, f"its box reaches {beyond:g} pixels beyond the picture, {width} x {height}; cut at the edge"
    return box, ""


def number(value: object) -> float | None:
    """A finite number, or None; text counts where it is one."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def inside(root: Path, name: str, base: Path | None = None) -> Path | None:
    """The file `name` of the folder `root`, or None where it lies outside of it: `../../etc/passwd`, `/etc/passwd`.

    Args:
        root: what must not be left.
        name: of the file.
        base: the folder that the name is relative to; None: `root`.
    """
    name = name.replace("\\", "/")  # lists that were made on Windows
    path = os.path.normpath((base or root) / name)
    # As they are written: that a folder of the user's is a link to somewhere else is the user's business
    top = os.path.normpath(root.absolute())
    if not name or "\0" in name or os.path.commonpath([top, os.path.normpath(Path(path).absolute())]) != top:
        return None
    return Path(path)


def read_text(path: Path, most: int = LARGEST_FILE) -> str:
    """A small text file in UTF-8; for Raises see `read_bytes`."""
    return read_bytes(path, most).decode("utf-8-sig", errors="replace")


def read_bytes(path: Path, most: int = LARGEST_FILE) -> bytes:
    """A file of at most so many bytes.

    Raises:
        DataError: It cannot be read, or is too large to be one.
    """
    try:
        if path.stat().st_size > most:
            raise DataError(f"{path}: larger than {most >> 20} MiB, which no annotation of this kind is")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def some_of(problems: Sequence[Problem], shown: int = 10) -> str:
    """The first problems, a line each, to stand at the end of a message."""
    return "\n  ".join([":", *first_of(problems, shown)]) if problems else ""


def first_of(problems: Sequence[object], shown: int = 10) -> list[str]:
    """The first problems as text, and where there are others how many."""
    more = [f"and {len(problems) - shown} more"] if len(problems) > shown else []
    return [*map(str, problems[:shown]), *more]
