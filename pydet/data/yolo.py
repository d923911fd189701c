"""Darknet's label files, a line `class x y width height` for each object, in the folders that people keep them in."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pydet.data.collect import LARGEST_OF_PICTURE, Annotated, Box, Collector, inside, number, read_text
from pydet.data.dataset import DataError
from pydet.data.source import Read, Source, folders_in, pictures_in, with_ending
from pydet.files import is_file, is_there

_SPLITS = ("train", "val", "valid", "test")
_LARGEST_YAML = 1 << 20  # PyYAML reads as much in seconds
_DEEPEST = 10  # lists and mappings in one another
_NAMES = ("classes.txt", "obj.names", "labels.txt")


class _Part(NamedTuple):
    """A split: where its pictures are, files or folders or lists, in which folder all lies, and the classes."""

    pictures: tuple[Path, ...]
    root: Path
    class_names: tuple[str, ...] | None


class _Loader(yaml.SafeLoader):
    """Without aliases and deep nesting: a data.yaml needs neither, and a few lines of it take gigabytes or minutes."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event, problem = self.peek_event(), ""
        if isinstance(event, yaml.AliasEvent):
            problem = "aliases are not read; write the value itself"
        elif self.depth > _DEEPEST:
            problem = "nested too deeply"
        if problem:
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def yolo_yaml(path: Path, images: Path | None) -> Source:
    """Ultralytics' `data.yaml`: path, train, val, test, names. What it says to download, or to run, is not."""
    text = read_text(path, _LARGEST_YAML)
    try:
        content = yaml.load(text, _Loader)
    except Exception as error:  # a date or a number that is none raises what Python raises
        raise DataError(f"{path}: not a YAML file ({error})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: must have the keys train, val, test and names")
    names = _yaml_names(path, content)
    root = images or path.parent
    base = inside(root, str(content.get("path") or "."))
    if base is None or not (is_there(base) and base.is_dir()):  # it says where the data was on another machine
        base = root
    splits: dict[str, Read] = {}
    for split in _SPLITS:
        entries = content.get(split) or []
        entries = entries if isinstance(entries, list) else [entries]
        if not all(isinstance(entry, str) for entry in entries):
            raise DataError(f"{path}: {split} must be a path or a list of paths, got {content[split]!r}")
        # Roboflow names a test split whether it has written one or not
        if entries and (split != "test" or any(_yaml_entry(base, root, entry) for entry in entries)):
            splits[split] = functools.partial(_read_yaml, path, base, root, entries, names)
    if not splits:
        raise DataError(f"{path}: names no pictures: there is none of the keys {', '.join(_SPLITS)}")
    return Source(path, "YOLO", splits)


def _yaml_names(path: Path, content: dict[str, Any]) -> tuple[str, ...]:
    names = content.get("names")
    if isinstance(names, dict):
        if sorted(map(str, names)) != sorted(map(str, range(len(names)))):
            raise DataError(f"{path}: the numbers of the names must be 0 to {len(names) - 1}, got {list(names)}")
        names = [names[key] for key in sorted(names, key=int)]
    if not isinstance(names, list) or not names:
        raise DataError(f"{path}: names must be a list of the classes, got {names!r}")
    if content.get("nc") not in (None, len(names)):
        raise DataError(f"{path}: nc is {content['nc']}, but there are {len(names)} names")
    return _unique(path, [str(name) for name in names])


def _read_yaml(
    path: Path, base: Path, root: Path, entries: list[str], names: tuple[str, ...], collector: Collector
) -> None:
    places = []
    for entry in entries:  # only now: whoever wants to measure on val need not have train
        found = _yaml_entry(base, root, entry)
        if found is None:
            raise DataError(
                f"{path}: {entry!r} is not in {base}; where the pictures are elsewhere, say so: images=, --images"
            )
        places.append(found)
    _read(path, _Part(tuple(places), root, names), collector)


def _yaml_entry(base: Path, root: Path, entry: str) -> Path | None:
    """A folder or a list of pictures, if it is there. Roboflow writes ../train/images where it means train/images."""
    for name in (entry, entry.removeprefix("../")):
        found = inside(root, name, base)
        if found is not None and is_there(found):
            return found
    return None


def darknet_data(path: Path, images: Path | None) -> Source:
    """Darknet's `.data`: train, valid, names, each a file; relative to the folder above, where Darknet is run."""
    content: dict[str, str] = {}
    for line in read_text(path).splitlines():
        key, equals, value = line.partition("=")
        if equals and not key.strip().startswith(("#", ";")):
            content[key.strip()] = value.strip()
    lists = {split: content[split] for split in _SPLITS if content.get(split)}
    if not lists:
        raise DataError(f"{path}: names no list of pictures: there is no line train = ... or valid = ...")
    roots = (images,) if images else (path.parent, path.absolute().parent.parent)
    files = {split: _first_inside(path, roots, name) for split, name in lists.items()}
    names = _read_names(_first_inside(path, roots, content["names"])) if content.get("names") else None
    root = images or _root_of(next(iter(files.values())), roots)
    return Source(
        path,
        "Darknet",
        {split: functools.partial(_read, path, _Part((file,), root, names)) for split, file in files.items()},
    )


def _first_inside(path: Path, roots: Sequence[Path], name: str) -> Path:
    for root in roots:
        found = inside(root, name)
        if found is not None and is_there(found):
            return found
    looked = " or ".join(map(str, roots))
    raise DataError(f"{path}: {name!r} is not in {looked}; where the files are elsewhere, say so: images=, --images")


def darknet_list(path: Path, images: Path | None) -> Source:
    """A text file with a picture a line, each with its label file where Darknet looks for it."""
    root = images or _root_of(path, (path.parent, path.absolute().parent.parent))
    return Source(path, "Darknet", {}, functools.partial(_read, path, _Part((path,), root, _find_names(path.parent))))


def _root_of(listed: Path, roots: Sequence[Path]) -> Path:
    """The folder that the lines of a list are relative to: the first where one of its first pictures is."""
    for line in islice(filter(None, map(str.strip, read_text(listed).split("\n"))), 100):
        for root in roots:
            found = inside(root, line)
            if found is not None and is_file(found):
                return root
    return roots[0]


def yolo_folder(folder: Path, images: Path | None) -> Source | None:
    """Folders `images` and `labels`, each with or without one for each split, or a pair in each split's folder, or
    label files beside the pictures; after a data.yaml or a .data, which tell it themselves."""
    told = with_ending(folder, ".yaml") + with_ending(folder, ".yml")
    for file in told:
        if file.stem in ("data", "dataset", folder.name) or len(told) == 1:
            return yolo_yaml(file, images)
    darknet = sorted(folder.glob("*.data"))
    if len(darknet) == 1:
        return darknet_data(darknet[0], images)
    names = _find_names(folder)
    pictures = images or folder / "images"
    if pictures.is_dir() and (folder / "labels").is_dir():
        parts = folders_in(pictures) if not pictures_in(pictures) else []
        splits = {part.name: part for part in parts} or None
    else:
        parts = [p for p in folders_in(folder) if (p / "images").is_dir() and (p / "labels").is_dir()]
        splits = {part.name: part / "images" for part in parts} or None
        pictures = folder
        if splits is None and not any(path.with_suffix(".txt").is_file() for path in pictures_in(folder)):
            return None

    def read(part: Path) -> Read:
        return functools.partial(_read, folder, _Part((part,), folder, names))

    if splits is None:
        return Source(folder, "YOLO", {}, read(pictures))
    return Source(folder, "YOLO", {name: read(part) for name, part in splits.items()})


def _find_names(folder: Path) -> tuple[str, ...] | None:
    """The names of the classes from where tools leave them; None where they have only numbers."""
    for place in (folder, folder / "labels", folder.absolute().parent):
        files = [place / name for name in _NAMES if (place / name).is_file()] or sorted(place.glob("*.names"))
        if len(files) == 1:
            return _read_names(files[0])
    return None


def _read_names(path: Path) -> tuple[str, ...]:
    names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not names:
        raise DataError(f"{path}: has no names of classes")
    return _unique(path, names)


def _unique(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{path}: two classes have the name {min(twice)!r}")
    return tuple(names)


def _read(path: Path, part: _Part, collector: Collector) -> None:
    pictures = [picture for place in part.pictures for picture in _pictures(place, part.root, collector)]
    labels = {picture: file for picture in pictures if (file := label_file(picture)) is not None}
    if pictures and not labels:
        raise DataError(f"{path}: no label files: the first one would be {_candidates(pictures[0])[0]}")
    if all(place.is_dir() for place in part.pictures):  # a list may leave pictures out
        _name_lonely(labels, collector)
    lines = {picture: _lines(file, part.class_names, collector) for picture, file in labels.items()}
    names = part.class_names
    if names is None:  # only numbers: as many classes as the highest one says
        highest = max((label for objects in lines.values() for label, _, _ in objects), default=-1)
        names = tuple(map(str, range(highest + 1)))
    collector.start_split(names)
    for picture, size in zip(pictures, collector.sizes([str(picture) for picture in pictures]), strict=True):
        if size is not None:
            told = lines.get(picture, [])
            whole = next((names[label] for label, box, _ in told if _is_label_of_picture(box)), None)
            objects = [_object(line, names, size) for line in told if not _is_label_of_picture(line[1])]
            collector.add(str(picture), size, labels.get(picture, picture), objects, whole)


def _pictures(place: Path, root: Path, collector: Collector) -> list[Path]:
    """The pictures of a folder and of those in it, or of a list of them."""
    if place.is_dir():
        return pictures_in(place) + [
            path for folder in folders_in(place) for path in _pictures(folder, root, collector)
        ]
    found = []
    for number_of_line, line in enumerate(read_text(place).splitlines(), start=1):
        name = line.strip()
        path = inside(root, name) if name else None
        if name.startswith("./"):  # for Ultralytics beside the list, for Darknet like all others
            beside = inside(root, name, place.parent)
            path = beside if path is None or (beside is not None and is_file(beside)) else path
        if path is not None:
            found.append(path)
        elif name:
            collector.bad(
                place,
                f"line {number_of_line}",
                f"{name} lies outside of {root}; if that is right, name the folder of the pictures: images=, --images",
            )
    return found


def label_file(picture: Path) -> Path | None:
    """Where the objects of a picture stand; None where there is no such file, which means that it has none."""
    return next((path for path in _candidates(picture) if is_file(path)), None)


def _name_lonely(labels: dict[Path, Path], collector: Collector) -> None:
    """Label files without a picture. Beside pictures there are other text files, too."""
    used = set(labels.values())
    for folder in sorted({file.parent for picture, file in labels.items() if file.parent != picture.parent}):
        for file in with_ending(folder, ".txt"):
            if file not in used and file.name not in _NAMES:
                collector.bad(file, "", "there is no picture of this name")


def _candidates(picture: Path) -> list[Path]:
    """In a folder `labels` in the place of `images` (the last one) or `JPEGImages`, or beside the picture."""
    file = picture.with_suffix(".txt")
    found = [file]
    for name in ("JPEGImages", "images"):
        if name in file.parts[:-1]:
            place = len(file.parts) - 1 - file.parts[::-1].index(name)
            found.insert(0, Path(*file.parts[:place], "labels", *file.parts[place + 1 :]))
    return found


def _lines(file: Path, names: tuple[str, ...] | None, collector: Collector) -> list[tuple[int, Box, str]]:
    """Class, box (x, y, width, height in parts of the picture) and place of every good line."""
    found = []
    for place, line in enumerate(read_text(file, LARGEST_OF_PICTURE).splitlines(), start=1):
        where = f"line {place}"
        fields = line.split()
        values = [number(field) for field in fields]
        if not fields:
            continue
        if len(fields) >= 7 and len(fields) % 2 and None not in values:
            values = _around([value for value in values if value is not None])
        elif len(fields) != 5 or None in values:
            shown = line.strip() if len(line) < 80 else f"{len(fields)} fields"
            collector.bad(file, where, f"must be five numbers, class x y width height, got {shown!r}")
            continue
        label, x, y, width, height = (value for value in values if value is not None)
        if not label.is_integer() or not 0 <= label < (len(names) if names else 1 << 16):
            known = f"0 to {len(names) - 1}" if names else "a whole number from 0"
            collector.bad(file, where, f"the class must be {known}, got {fields[0]}")
        elif max(abs(x), abs(y), abs(width), abs(height)) > 1.5:  # pixels; what is a bit beyond is cut, as elsewhere
            collector.bad(file, where, f"x, y, width, height must be parts of the picture, 0..1, got {line.strip()!r}")
        else:
            found.append((int(label), (x, y, width, height), where))
    return found


def _around(values: list[float]) -> list[float | None]:
    """Class and box of an outline, class x1 y1 x2 y2 x3 y3 ..., which Ultralytics takes in the place of a box."""
    x1, y1, x2, y2 = min(values[1::2]), min(values[2::2]), max(values[1::2]), max(values[2::2])
    return [values[0], (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]


def _is_label_of_picture(box: Box) -> bool:
    """Darknet's mark of a class that is somewhere on the picture (YOLO9000's classification data)."""
    return box[:2] == (0, 0)


def _object(line: tuple[int, Box, str], names: tuple[str, ...], size: tuple[int, int]) -> Annotated:
    label, (x, y, w, h), where = line
    height, width = size
    box = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
    return Annotated(names[label], box, f"{where} ({names[label]})")
