"""PASCAL VOC's XML files, and what labelImg, CVAT, Roboflow and others write in their form."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from pydet.data.collect import LARGEST_OF_PICTURE, Annotated, Collector, number, read_bytes, read_text
from pydet.data.dataset import DataError
from pydet.data.source import PICTURES, Read, Source, folders_in, pictures_in, with_ending

VOC_CLASSES = (Path(__file__).parent.parent / "assets" / "voc.names").read_text(encoding="utf-8").split()

_EDGES = ("xmin", "ymin", "xmax", "ymax")


def voc_folder(folder: Path, images: Path | None) -> Source | None:
    """A folder as VOC's (Annotations, JPEGImages, ImageSets/Main), or one with XML files beside the pictures.

    Roboflow makes one of the latter kind for each split.
    """
    annotations = folder / "Annotations"
    if with_ending(annotations, ".xml"):
        beside = next((folder / name for name in ("JPEGImages", "images") if (folder / name).is_dir()), annotations)
        everything = _Part(annotations, images or beside, annotations)
        splits: dict[str, Read] = {
            file.stem: functools.partial(_read, everything._replace(listed=file))
            for file in sorted(folder.glob("ImageSets/Main/*.txt"))
            if not _is_of_one_class(file)
        }
        return Source(folder, "VOC", splits, functools.partial(_read, everything))
    if with_ending(folder, ".xml"):
        return Source(folder, "VOC", {}, functools.partial(_read, _Part(folder, images or folder, folder)))
    parts = [part for part in folders_in(folder) if with_ending(part, ".xml")]
    if not parts:
        return None
    return Source(folder, "VOC", {p.name: functools.partial(_read, _Part(p, images or p, folder)) for p in parts})


class _Part(NamedTuple):
    """Where the XML files and the pictures of a split are, and all XML files that share its classes."""

    annotations: Path
    pictures: Path
    family: Path
    listed: Path | None = None


def _is_of_one_class(file: Path) -> bool:
    """Whether it is `aeroplane_train.txt` or its like: names with a column that says whether the class is there."""
    lines = [line.rsplit(maxsplit=1) for line in read_text(file).splitlines() if line.strip()]
    return bool(lines) and all(len(fields) == 2 and fields[1] in ("-1", "0", "1") for fields in lines)


def _read(part: _Part, collector: Collector) -> None:
    files = with_ending(part.annotations, ".xml")
    family = files
    if part.family != part.annotations:
        family = [file for folder in folders_in(part.family) for file in with_ending(folder, ".xml")]
    parsed: dict[Path, ElementTree.Element | str] = {}
    for file in family:
        try:
            parsed[file] = parse_xml(file)
        except DataError as error:
            parsed[file] = str(error).removeprefix(f"{file}: ")
    collector.start_split(_class_names([root for root in parsed.values() if not isinstance(root, str)]))
    there = pictures_in(part.pictures)
    pictures = {path.stem: path for path in there} | {path.name: path for path in there}
    wanted: list[tuple[Path, ElementTree.Element, str]] = []
    for file in _listed(part, files, collector):
        root = parsed[file]
        if isinstance(root, str):
            collector.bad(file, "", root)
        elif (picture := _picture(root, file, pictures)) is None:
            collector.bad(file, "", f"its picture is not in {part.pictures}")
        else:
            wanted.append((file, root, str(picture)))
    sizes = collector.sizes([path for _, _, path in wanted])
    for (file, root, path), size in zip(wanted, sizes, strict=True):
        if size is not None and _same_size(root, size, path, file, collector):
            collector.add(path, size, file, _objects(root, file, collector))


def parse_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file.

    A file with a document type is refused: annotations need none, and entities are declared there, which can expand to
    gigabytes or to the content of other files.

    Raises:
        DataError: The file cannot be read, is not XML, or has a document type.
    """
    text = _decoded(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DataError(f"{path}: has a document type, which annotations do not need and which could do harm; not read")
    try:
        return ElementTree.fromstring(text)  # a str: what the file says about its encoding no longer counts
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path}: not an XML file ({error})") from None


def _decoded(path: Path) -> str:
    """The text of an XML file, in the encoding that its first bytes or it itself name."""
    raw = read_bytes(path, LARGEST_OF_PICTURE)
    declared = re.match(rb"<\?xml[^>]*encoding=[\"']([\w.-]+)[\"']", raw)
    encoding = declared[1].decode() if declared else "utf-8-sig"
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    try:
        return raw.decode(encoding, errors="replace")
    except LookupError:
        raise DataError(f"{path}: in an unknown encoding, {encoding}") from None


def _class_names(roots: Sequence[ElementTree.Element]) -> list[str]:
    """All names of all files, so that every split has the same labels: VOC's own 20 for its files, others sorted."""
    names = {_text(item, "name") for root in roots for item in root.iter("object")} - {""}
    return VOC_CLASSES if names <= set(VOC_CLASSES) and any(map(_is_of_voc, roots)) else sorted(names)


def _is_of_voc(root: ElementTree.Element) -> bool:
    return _text(root, "source/database").startswith("The VOC")


def _listed(part: _Part, files: Sequence[Path], collector: Collector) -> list[Path]:
    """The XML files of the split."""
    if part.listed is None:
        return list(files)
    by_stem = {file.stem: file for file in files}
    found = []
    lines = read_text(part.listed).splitlines()
    if not any(map(str.strip, lines)):
        collector.bad(part.listed, "", "names no pictures")
    for place, line in enumerate(lines, start=1):
        name = line.strip()  # which may have spaces in it
        if not name:
            continue
        if name in by_stem:
            found.append(by_stem[name])
        else:
            collector.bad(part.listed, f"line {place} ({name})", f"there is no {name}.xml in {part.annotations}")
    return found


def _picture(root: ElementTree.Element, file: Path, pictures: dict[str, Path]) -> Path | None:
    """The picture that is named as the XML file is, else the one that it names: some tools leave an old name in it.

    Of several that are named so, `a.jpg` and a mask `a.png`, the one that it names.
    """
    told = _text(root, "filename").replace("\\", "/").rsplit("/", 1)[-1]
    stem = told[: -len(Path(told).suffix)] if Path(told).suffix.lower() in PICTURES else told
    exactly = pictures.get(told) if stem == file.stem else None
    return exactly or pictures.get(file.stem) or pictures.get(stem)


def _same_size(
    root: ElementTree.Element, size: tuple[int, int], picture: str, file: Path, collector: Collector
) -> bool:
    """Whether the picture is as large as the annotations think; some tools write 0 for "not known"."""
    told = (number(_text(root, "size/height")), number(_text(root, "size/width")))
    if not all(told) or told == size:
        return True
    collector.bad(file, "size", f"is {told[1]:g} x {told[0]:g} there, but {picture} is {size[1]} x {size[0]}")
    return False


def _objects(root: ElementTree.Element, file: Path, collector: Collector) -> list[Annotated]:
    # VOC counts pixels from 1, and the last one belongs to the object. Others who write this format write edges.
    first = 1 if _is_of_voc(root) else 0
    found = []
    for place, item in enumerate(root.iter("object"), start=1):
        name, where = _text(item, "name"), f"object {place}"
        edges = [number(_text(item, f"bndbox/{edge}")) for edge in _EDGES]
        if not name:
            collector.bad(file, where, "has no name")
            continue
        where += f" ({name})"
        if None in edges:
            missing = _EDGES[edges.index(None)]
            collector.bad(file, where, f"{missing} must be a number, got {_text(item, f'bndbox/{missing}')!r}")
            continue
        x1, y1, x2, y2 = (edge for edge in edges if edge is not None)
        difficult = number(_text(item, "difficult")) not in (None, 0)
        found.append(Annotated(name, (x1 - first, y1 - first, x2, y2), where, difficult=difficult))
    return found


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()
