"""COCO's `instances_*.json`, and what CVAT, Roboflow and others write in its form."""

from __future__ import annotations

import functools
import json
from collections import Counter
from pathlib import Path
from typing import Any

from pydet.data.collect import Annotated, Collector, inside, number
from pydet.data.dataset import DataError
from pydet.data.source import Source, folders_in, with_ending
from pydet.files import is_file

Entry = dict[str, Any]  # of the file: an image, an annotation or a category


def coco_file(path: Path, images: Path | None) -> Source:
    """A data set that is one file; `images` is the folder of its pictures where that cannot be guessed."""
    return Source(path, "COCO", {_split_name(path): functools.partial(_read, path, images)})


def coco_folder(folder: Path, images: Path | None) -> Source | None:
    """A folder with `annotations/*.json`, with `*.json`, or with `<split>/_annotations.coco.json` (Roboflow)."""
    files = with_ending(folder / "annotations", ".json")
    if not files and not (folder / "labels").is_dir():  # Label Studio leaves a notes.json beside YOLO's labels
        files = with_ending(folder, ".json")
    files = files or sorted(folder.glob("*/_annotations.coco.json"))
    # COCO's own folder also has captions and key points of the same pictures
    files = [file for file in files if file.name.startswith("instances_")] or files
    if not files:
        return None
    return Source(folder, "COCO", {_split_name(file): functools.partial(_read, file, images) for file in files})


def _split_name(file: Path) -> str:
    return file.parent.name if file.name == "_annotations.coco.json" else file.stem.removeprefix("instances_")


def _read(path: Path, images: Path | None, collector: Collector) -> None:
    content = _content(path)
    names = _categories(path, content["categories"], collector)
    collector.start_split(names.values())
    listed = _images(path, content["images"], collector)
    objects: dict[Any, list[Annotated]] = {number: [] for number in listed}
    for place, entry in enumerate(content["annotations"]):
        where = f"annotations[{place}]"
        if isinstance(entry, dict) and "id" in entry:
            where += f" (id {entry['id']})"
        outcome = _annotation(entry, where, names, objects)
        if isinstance(outcome, str):
            collector.bad(path, where, outcome)
        else:
            objects[entry["image_id"]].append(outcome)
    folder = images or _find_pictures(path, [str(entry["file_name"]) for entry in listed.values()])
    files: dict[Any, str] = {}
    for key, entry in listed.items():
        file = inside(folder, entry["file_name"])
        if file is None:
            collector.bad(path, f"image {key}", f"its file {entry['file_name']!r} lies outside of {folder}")
        else:
            files[key] = str(file)
    for (key, picture), size in zip(files.items(), collector.sizes(list(files.values())), strict=True):
        if size is not None and _same_size(listed[key], picture, size, path, collector):
            collector.add(picture, size, path, objects[key])


def _content(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except RecursionError:
        raise DataError(f"{path}: not COCO annotations: nested too deeply") from None
    except ValueError as error:
        raise DataError(f"{path}: not a JSON file ({error})") from None
    for section in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(section), list):
            raise DataError(f"{path}: not COCO annotations: no list {section!r}")
    return content


def _categories(path: Path, entries: list[Any], collector: Collector) -> dict[int, str]:
    """Category id -> name, in the order of the ids, which is that of the labels."""
    names: dict[int, str] = {}
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict) or type(entry.get("id")) is not int or not isinstance(entry.get("name"), str):
            collector.bad(path, f"categories[{place}]", "has no whole number 'id' and text 'name'")
        elif names.setdefault(entry["id"], entry["name"]) != entry["name"]:
            collector.bad(path, f"categories[{place}]", f"id {entry['id']} is that of {names[entry['id']]!r} already")
    return dict(sorted(names.items()))


def _images(path: Path, entries: list[Any], collector: Collector) -> dict[Any, Entry]:
    """Image id -> entry, in the order of the ids, by which pycocotools ranks equal scores."""
    listed: dict[Any, Entry] = {}
    for place, entry in enumerate(entries):
        where = f"images[{place}]"
        if not isinstance(entry, dict) or type(entry.get("id")) not in (int, str):
            collector.bad(path, where, "has no 'id', a whole number or text")
        elif not isinstance(entry.get("file_name"), str):
            collector.bad(path, where, "has no text 'file_name'")
        elif entry["id"] in listed:
            collector.bad(path, where, f"there is an image with id {entry['id']} already")
        else:
            listed[entry["id"]] = entry
    return dict(sorted(listed.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def _annotation(entry: Any, where: str, names: dict[int, str], objects: dict[Any, list[Annotated]]) -> Annotated | str:
    """An object, or what is wrong with it."""
    if not isinstance(entry, dict):
        return "not an annotation"
    if type(entry.get("image_id")) not in (int, str) or entry["image_id"] not in objects:
        return f"there is no image with id {entry.get('image_id')!r}"
    if type(entry.get("category_id")) is not int or entry["category_id"] not in names:
        return f"there is no category with id {entry.get('category_id')!r}"
    given = entry.get("bbox")
    box = [None if isinstance(side, str) else number(side) for side in given] if isinstance(given, list) else []
    if len(box) != 4 or None in box:
        return f"bbox must be four numbers x, y, width, height, got {given!r}"
    x, y, width, height = (side for side in box if side is not None)
    crowd = entry.get("iscrowd")
    if crowd not in (None, 0, 1):  # false and true are 0 and 1
        return f"iscrowd must be 0 or 1, got {crowd!r}"
    area = number(entry.get("area"))
    if entry.get("area") is not None and area is None:
        return f"area must be a number, got {entry['area']!r}"
    name = names[entry["category_id"]]
    return Annotated(name, (x, y, x + width, y + height), f"{where} ({name})", crowd=bool(crowd), area=area)


def _find_pictures(path: Path, names: list[str]) -> Path:
    """The folder where most of the first pictures are, of those where tools put them."""
    split, above = _split_name(path), path.parent.parent
    folders = [path.parent, path.parent / "images", path.parent / split, above / split, above / "images" / split]
    folders += [above / "images", *folders_in(path.parent)]
    hits = Counter({folder: sum(_is_there(folder, name) for name in names[:20]) for folder in folders})
    folder, found = hits.most_common(1)[0]
    if names and not found:
        looked = ", ".join(dict.fromkeys(map(str, folders)))
        raise DataError(f"{path}: its pictures ({names[0]}, ...) are in none of {looked}; say where: images=, --images")
    return folder


def _is_there(folder: Path, name: str) -> bool:
    file = inside(folder, name)
    return file is not None and is_file(file)


def _same_size(entry: Entry, picture: str, size: tuple[int, int], path: Path, collector: Collector) -> bool:
    """Whether the picture is as large as the annotations think; other boxes would be somewhere else on it."""
    told = (number(entry.get("height")), number(entry.get("width")))
    if None in told or told == size:
        return True
    collector.bad(
        path, f"image {entry['id']}", f"is {told[1]:g} x {told[0]:g} there, but {picture} is {size[1]} x {size[0]}"
    )
    return False
