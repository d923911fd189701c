"""A folder of pictures for each class: labels of whole pictures, without boxes."""

from __future__ import annotations

import functools
from pathlib import Path

from pydet.data.collect import Collector
from pydet.data.source import Read, Source, folders_in, pictures_in

_SPLITS = ("train", "val", "valid", "test")


def class_folders(folder: Path) -> Source | None:
    """`<class>/*.jpg`, or `<split>/<class>/*.jpg` where the folders are called train, val, ..."""
    splits = [part for part in folders_in(folder) if part.name in _SPLITS]
    if splits and len(splits) == len(folders_in(folder)):
        splits = [part for part in splits if _classes(part)]
        names = sorted({path.name for part in splits for path in _classes(part)})
        reads: dict[str, Read] = {part.name: functools.partial(_read, part, names) for part in splits}
        return Source(folder, "folder per class", reads) if splits else None
    names = [path.name for path in _classes(folder)]
    return Source(folder, "folder per class", {}, functools.partial(_read, folder, names)) if names else None


def _classes(folder: Path) -> list[Path]:
    return [path for path in folders_in(folder) if pictures_in(path)]


def _read(folder: Path, names: list[str], collector: Collector) -> None:
    collector.start_split(names)
    classes = _classes(folder)
    pictures = [(str(path), place.name) for place in classes for path in pictures_in(place)]
    for place in folders_in(folder):
        if place not in classes:
            collector.bad(place, "", "has no pictures, which are to be in the folder of the class itself")
        for inner in folders_in(place) if place in classes else ():
            collector.bad(inner, "", f"is in the folder of the class {place.name!r}, and is not looked into")
    for (path, name), size in zip(pictures, collector.sizes([path for path, _ in pictures]), strict=True):
        if size is not None:
            collector.add(path, size, path, image_label=name)
