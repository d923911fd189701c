"""What a reader of a format tells about a data set before it reads it: which splits there are, and how to read one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydet.data.collect import Collector
from pydet.data.dataset import DataError
from pydet.files import is_file_or_lost

Read = Callable[[Collector], None]

PICTURES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Source:
    """A data set whose format is known.

    Attributes:
        path: What the user named.
        format: For people.
        splits: How to read each of its parts, by name; empty where it has none.
        everything: How to read what belongs to no split; None where the splits are all.
    """

    path: Path
    format: str
    splits: dict[str, Read]
    everything: Read | None = None

    def choose(self, split: str | None) -> list[Read]:
        """How to read "val", "train+val" or, for None, all of it; "val" is also "val2017" or "valid".

        Raises:
            DataError: There is no such split, or several could be meant.
        """
        if split is None:
            return [self.everything] if self.everything else list(self.splits.values())
        return [self.splits[self.find(name)] for name in split.split("+")]

    def find(self, name: str) -> str:
        """The full name of a split."""
        if name in self.splits:
            return name
        found = [known for known in self.splits if name and known.startswith(name)]
        if len(found) == 1:
            return found[0]
        has = f"it has: {', '.join(self.splits)}" if self.splits else "it has no splits"
        raise DataError(f"{self.path}: {'several splits' if found else 'no split'} named {name!r}; {has}")

    def usual(self, *names: str) -> str | None:
        """The first of these splits that there is; None where there is none, or nothing else."""
        if len(self.splits) == 1 and self.everything is None:
            return None
        return next((name for name in names if self._named(name)), None)

    def _named(self, name: str) -> bool:
        return name in self.splits or sum(known.startswith(name) for known in self.splits) == 1


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder, in alphabetical order."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES and is_file_or_lost(path))


def with_ending(folder: Path, ending: str) -> list[Path]:
    """What a folder holds with an ending such as ".xml", in upper or lower case, in alphabetical order."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() == ending) if folder.is_dir() else []


def folders_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
