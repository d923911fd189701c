"""Data sets of any format: `load_dataset` finds out which one it is, reads it and checks it."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from pydet.data.coco import coco_file, coco_folder
from pydet.data.collect import Collector, some_of
from pydet.data.dataset import DataError, Dataset, DataWarning
from pydet.data.folders import class_folders
from pydet.data.source import Source
from pydet.data.voc import voc_folder
from pydet.data.yolo import darknet_data, darknet_list, yolo_folder, yolo_yaml

_FILES = {".json": coco_file, ".yaml": yolo_yaml, ".yml": yolo_yaml, ".data": darknet_data, ".txt": darknet_list}

_KNOWN = """\
  COCO: instances.json, or a folder with annotations/*.json
  VOC: a folder with Annotations/*.xml and JPEGImages, or with XML files beside the pictures
  YOLO: data.yaml, or a folder with images and labels, or with label files beside the pictures
  Darknet: a .data file, or a .txt list of pictures
  pictures without boxes: a folder with one folder for each class"""


def load_dataset(
    path: str | os.PathLike[str],
    split: str | None = None,
    images: str | os.PathLike[str] | None = None,
    strict: bool = False,
    limit: int | None = None,
) -> Dataset:
    """Reads the annotations of a data set and checks all of them; its pictures are only looked at for their size.

    The format is recognised by what is there: COCO's JSON, VOC's XML, Darknet's text files (with a .data file, a list
    or ultralytics' data.yaml), or a folder of pictures for each class. No file outside of the folder that is named is
    opened, and nothing in any file is ever run.

    What cannot be used is left out: a box without area or outside of its picture, an object without a class, a picture
    that is missing, damaged or of another size than its annotations say. A box that reaches more than a pixel beyond
    the picture is cut at its edge. Each is a `Problem` of the result. An outline in ultralytics' text files counts as
    the box around it.

    Args:
        path: File or folder.
        split: Which part: "train", "val", "train+val", ... of those that it has; "val" also finds "val2017" and
            "valid". None for all of them.
        images: Folder of the pictures, where it cannot be guessed or they lie elsewhere.
        strict: Refuse a data set with problems, instead of warning about them.
        limit: Take only the first so many pictures, and look at no others.

    Returns:
        The data set. VOC's files have the same labels in every split, and so have those of every other format.

    Raises:
        DataError: There is nothing to read, it is of no known format, or (strict) it has problems.
        ValueError: limit is below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"load_dataset: limit must be at least 1, got {limit}")
    source = recognise(path, images)
    collector = Collector(limit)
    for read in source.choose(split):
        read(collector)
    dataset = collector.dataset(f"{source.path} ({source.format}{f', {split}' if split else ''})")
    if dataset.problems:
        count = f"{len(dataset.problems)} problem{'s' if len(dataset.problems) > 1 else ''}"
        if strict:
            raise DataError(f"{dataset.name} has {count}{some_of(dataset.problems)}")
        warnings.warn(f"{dataset.name} has {count}{some_of(dataset.problems)}", DataWarning, stacklevel=2)
    return dataset


def recognise(path: str | os.PathLike[str], images: str | os.PathLike[str] | None = None) -> Source:
    """The format of a data set, and its splits.

    Raises:
        DataError: There is nothing, or it is of no known format.
    """
    path, folder = Path(path), Path(images) if images is not None else None
    if folder is not None and not folder.is_dir():
        raise DataError(f"{folder}: no such folder (for the pictures)")
    if path.is_file():
        if path.suffix.lower() in _FILES:
            return _FILES[path.suffix.lower()](path, folder)
        raise DataError(f"{path}: not a data set; known are\n{_KNOWN}")
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    # In this order: VOC's folder may also hold label files that were made of its XML files.
    for of_format in (voc_folder, coco_folder, yolo_folder):
        source = of_format(path, folder)
        if source is not None:
            return source
    source = class_folders(path)
    if source is None:
        raise DataError(f"{path}: not a data set that is known; known are\n{_KNOWN}")
    return source
