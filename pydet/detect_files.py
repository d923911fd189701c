"""The work of `pydet detect`: which files are meant, where their results go, and what became of each."""

from __future__ import annotations

import glob
import os
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydet.files import is_file_or_lost, is_stream

if TYPE_CHECKING:  # these bring torch along, which the checks before any work do not need
    from pydet.detector import Detections
    from pydet.engines.engine import Outcome

IMAGE_ENDINGS = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "jp2", "png", "apng", "gif", "webp", "avif", "heic", "heif"),
        *("bmp", "dib", "tif", "tiff", "tga", "pbm", "pgm", "ppm", "pnm"),
    )
)
"""Which files of a folder are taken for pictures. A file that is named itself is always tried."""

_SAVED_AS_IS = frozenset({".jpg", ".jpeg", ".png", ".webp"})  # other pictures are written as PNG
_BAR_FROM = 10  # pictures; fewer are done before a progress bar helps


@dataclass
class Inputs:
    """The pictures that the command line means.

    Attributes:
        paths: Every picture once, in the order of the arguments; those of a folder or pattern by name.
        problems: A sentence for every argument that gives no picture.
        skipped: Number of files in the folders that do not look like pictures.
    """

    paths: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    skipped: int = 0


def find_inputs(arguments: Sequence[str]) -> Inputs:
    """Expands files, folders (not the folders within) and patterns (``**`` crosses folders, but no links) to files."""
    inputs = Inputs()
    seen: set[str] = set()
    for argument in arguments:
        if os.path.isdir(argument):  # noqa: PTH112 - Path.is_dir raises where a parent folder is closed to us
            _add_folder(Path(argument), inputs, seen)
        elif os.path.lexists(argument) or not glob.has_magic(argument):
            _add(argument, inputs, seen)
        else:
            matches = [match for match in sorted(_matches(argument)) if Path(match).is_file()]
            if not matches:
                inputs.problems.append(f"{argument}: no file matches")
            for match in matches:
                _add(match, inputs, seen)
    return inputs


def _matches(pattern: str) -> set[str]:
    """As `glob.glob`, but ** leads through no links to folders: two that lead back to their own would never end."""
    if Path(pattern).name == "**":
        pattern = os.path.join(pattern, "*")  # noqa: PTH118 - Path takes away the ./ that the user wrote
    above, stars, rest = pattern.partition(f"**{os.sep}")
    if not stars or (above and not above.endswith(os.sep)):
        return set(glob.glob(pattern))  # noqa: PTH207 - Path.glob takes no absolute pattern
    found: set[str] = set()
    for top in glob.glob(above) if above else [""]:  # noqa: PTH207
        for folder, folders, _ in os.walk(top or os.curdir):
            folders[:] = [name for name in folders if not name.startswith(".")]
            inner = os.path.join(folder, "")  # noqa: PTH118
            found |= _matches(glob.escape(inner if top else inner.removeprefix(os.curdir + os.sep)) + rest)
    return found


def _add_folder(folder: Path, inputs: Inputs, seen: set[str]) -> None:
    try:
        files = sorted(entry for entry in folder.iterdir() if is_file_or_lost(entry) and not entry.name.startswith("."))
    except OSError as error:
        inputs.problems.append(f"{folder}: cannot be listed ({error.strerror})")
        return
    pictures = [file for file in files if file.suffix.lower() in IMAGE_ENDINGS]
    inputs.skipped += len(files) - len(pictures)
    if not pictures:
        inputs.problems.append(f"{folder}: no images in this folder")
    for file in pictures:
        _add(str(file), inputs, seen)


def _add(path: str, inputs: Inputs, seen: set[str]) -> None:
    real = os.path.realpath(path)
    if real not in seen:
        seen.add(real)
        inputs.paths.append(path)


def picture_targets(paths: Sequence[str], folder: Path) -> list[Path]:
    """Where the annotated picture of each input goes: its own name in the folder, or name-2, name-3, ... where that
    is the place of an input, a link to one, or another input's result (upper and lower case count as the same)."""

    def place(folder: str | Path, name: str) -> str:
        return os.path.join(os.path.realpath(folder), name).casefold()  # noqa: PTH118

    taken = {os.path.realpath(path).casefold() for path in paths}
    taken |= {place(Path(path).parent, Path(path).name) for path in paths}
    last: Counter[str] = Counter()
    targets = []
    for path in map(Path, paths):
        ending = path.suffix if path.suffix.lower() in _SAVED_AS_IS else ".png"
        name = path.stem + ending
        while {place(folder, name), os.path.realpath(folder / name).casefold()} & taken:
            last[(path.stem + ending).casefold()] += 1
            name = f"{path.stem}-{last[(path.stem + ending).casefold()] + 1}{ending}"
        taken.add(place(folder, name))
        targets.append(folder / name)
    return targets


def check_writable(folder: Path) -> None:
    """Makes the folder where needed and tries to write in it.

    Raises:
        OSError: It cannot be made or written in; the message is a sentence.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"cannot write in the folder {folder}: {error.strerror or error}") from None


def check_output_file(path: Path, inputs: Sequence[str | Path | None]) -> None:
    """As `check_writable` for a file that is written later; it must not be one of those that are read.

    Args:
        inputs: what is read; None for an option that was not given.

    Raises:
        OSError: It cannot be written; the message is a sentence.
    """
    if path.is_dir():
        raise OSError(f"cannot write {path}: it is a folder")
    if is_stream(path):
        return
    if os.path.realpath(path) in {os.path.realpath(name) for name in inputs if name is not None}:
        raise OSError(f"cannot write {path}: it is one of the inputs")
    check_writable(path.parent)


@dataclass
class Report:
    """What became of the pictures.

    Attributes:
        done: Number of pictures that could be read.
        objects: Number of objects in them.
        problems: A sentence for everything that failed.
        interrupted: Whether Ctrl-C ended it early.
    """

    done: int = 0
    objects: int = 0
    problems: list[str] = field(default_factory=list)
    interrupted: bool = False


def show(
    outcomes: Iterable[Outcome], total: int, report: Report, keep: Sequence[Callable[[Detections], None]] = ()
) -> None:
    """Prints the table of every picture as it comes, with a bar if there are many, and adds it to the report.

    Args:
        outcomes: Of the pictures.
        total: How many there are.
        report: Which is told what is found and what fails.
        keep: What else is done with the detections of each picture.
    """
    from tqdm import tqdm

    hide_bar = None if total >= _BAR_FROM else True  # None: hide it unless stderr is a terminal
    with tqdm(outcomes, total=total, unit="image", disable=hide_bar) as bar:
        for outcome in bar:
            report.problems += outcome.problems
            found = outcome.detections
            if found is None:
                continue
            report.done += 1
            report.objects += len(found)
            tqdm.write(_paragraph(found), file=sys.stdout)
            for chain in outcome.chains:
                tqdm.write(chain, file=sys.stdout)
            for add in keep:
                add(found)


def _paragraph(found: Detections) -> str:
    height, width = found.image_size
    heading = f"{found.path} ({width}x{height}): "
    if not len(found):
        return heading + found.table()
    objects = "1 object" if len(found) == 1 else f"{len(found)} objects"
    return heading + objects + "\n" + textwrap.indent(found.table(), "  ") + "\n"
