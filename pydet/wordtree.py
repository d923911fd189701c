"""WordTree (YOLO9000, section 4): classes as the nodes of a tree, a softmax over the children of each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from pydet.files import is_file

ASSETS = Path(__file__).parent / "assets"
MAX_BYTES = 10 * 1024 * 1024  # 9k.tree has 140 kB; a cfg may come from a stranger and name any file


_INTEGER = re.compile(r"-?[0-9]{1,12}")  # str.isdigit is true of "²", which is no number


class TreeError(ValueError):
    """A tree or a map that cannot be used; the message names the file and the line."""


@dataclass(frozen=True)
class WordTree:
    """Nodes in the order of the network's classes: parents before their children, siblings next to each other.

    Attributes:
        ids: of each node, such as WordNet's "n02123394".
        parents: of each node, its index; -1 for a root.
    """

    ids: tuple[str, ...]
    parents: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.parents):
            raise TreeError(f"WordTree: ids must be {len(self.parents)}, one for each parent, got {len(self.ids)}")
        spaced = next((name for name in self.ids if len(name.split()) != 1), None)
        if spaced is not None:  # `parse` could not read what `text` writes
            raise TreeError(f"WordTree: an id must be a word without spaces, got {spaced[:40]!r}")
        _check(self.parents, [f"node {i}" for i in range(len(self.parents))], "WordTree")

    def __len__(self) -> int:
        return len(self.parents)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> WordTree:
        """A file of Darknet, a line for each node: its id and the index of its parent, -1 for a root.

        A file that is not there is looked for by its name among those that come with pydet (`9k.tree`).
        """
        return cls.parse(_text(path), os.fspath(path))

    @classmethod
    def parse(cls, text: str, source: str = "tree") -> WordTree:
        """`read` of a text; `source` names it in errors."""
        ids, parents, places = [], [], []
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            place = f"{source}, line {number}"
            words = line.split()
            if len(words) != 2 or not _INTEGER.fullmatch(words[1]):
                raise TreeError(f"{place}: must be an id and the index of its parent, got {line[:40]!r}")
            ids.append(words[0])
            parents.append(int(words[1]))
            places.append(place)
        _check(parents, places, source)
        return cls(tuple(ids), tuple(parents))

    def text(self) -> str:
        """What `parse` reads."""
        return "".join(f"{name} {parent}\n" for name, parent in zip(self.ids, self.parents, strict=True))

    @classmethod
    def from_wordnet(cls, synsets: Iterable[str], folder: str | os.PathLike[str] = "/usr/share/wordnet") -> WordTree:
        """The tree above a list of noun synsets, as in section 4 of the paper.

        Synsets with one way up to a root come first; of the others the way that adds the fewest nodes is taken.

        Args:
            synsets: WordNet 3.0 ids, such as "n02123394".
            folder: of WordNet's database, with `data.noun` (Debian's package wordnet-base).

        Raises:
            TreeError: an id that WordNet does not have; a damaged database.
            OSError: there is no database in that folder.
        """
        above = _hypernyms(Path(folder))
        wanted = list(dict.fromkeys(synsets))
        for name in wanted:
            if name not in above:
                raise TreeError(f"WordTree.from_wordnet: {name!r} is no noun synset of {Path(folder) / 'data.noun'}")
        ways = {name: _ways_up(name, above) for name in wanted}
        parent_of: dict[str, str | None] = {}
        for name in sorted(wanted, key=lambda n: len(ways[n]) > 1):  # stable: in their order otherwise
            way = min(ways[name], key=lambda w: sum(node not in parent_of for node in w))
            for node, parent in zip(way, [*way[1:], None], strict=True):
                parent_of.setdefault(node, parent)
        return cls(*_in_order(parent_of))

    def path(self, node: int) -> list[int]:
        """From the root down to a node, which is included."""
        nodes = [node]
        while self.parents[nodes[-1]] >= 0:
            nodes.append(self.parents[nodes[-1]])
        return nodes[::-1]

    def groups(self) -> list[tuple[int, int]]:
        """(first node, how many) of each group of siblings, in their order."""
        starts = [i for i, parent in enumerate(self.parents) if i == 0 or parent != self.parents[i - 1]]
        return [(start, end - start) for start, end in zip(starts, [*starts[1:], len(self)], strict=True)]

    def tensor(self, device: torch.device | str = "cpu") -> Tensor:
        """The parents, as the operators take them: int64 [N]."""
        if torch.compiler.is_compiling():  # a tensor of the tracer is not to be kept
            return torch.tensor(self.parents, device=device)
        return self._parents.to(device)

    @cached_property
    def _parents(self) -> Tensor:
        with torch.inference_mode(False):  # it may be kept for a gradient later
            return torch.tensor(self.parents, device="cpu")


def read_map(path: str | os.PathLike[str], nodes: int) -> list[int]:
    """A file of Darknet that says which node of a tree each class of another set of classes is, one on each line.

    Raises:
        TreeError: a line that is no index of one of the tree's `nodes`.
    """
    found = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        word = line.strip()
        if not word:
            continue
        if not _INTEGER.fullmatch(word) or not 0 <= int(word) < nodes:
            raise TreeError(f"{path}, line {number}: must be the index of a node, 0 to {nodes - 1}, got {word[:40]!r}")
        found.append(int(word))
    return found


def find_file(path: str | os.PathLike[str]) -> Path | None:
    """The file or, where it is not there, the one of that name that comes with pydet."""
    places = Path(path), ASSETS / Path(path).name
    return next((place for place in places if is_file(place)), None)


def _text(path: str | os.PathLike[str]) -> str:
    found = find_file(path)
    if found is None:
        raise TreeError(f"{os.fspath(path)}: no such file")
    if found.stat().st_size > MAX_BYTES:
        raise TreeError(f"{os.fspath(path)}: {found.stat().st_size:,} bytes are too many (at most {MAX_BYTES:,})")
    return found.read_text(encoding="utf-8-sig", errors="replace")


def _check(parents: Sequence[int], places: Sequence[str], source: str) -> None:
    if not parents:
        raise TreeError(f"{source}: a tree must have nodes")
    seen: set[int] = set()
    for i, parent in enumerate(parents):
        if parent < -1 or parent >= len(parents):
            raise TreeError(f"{places[i]}: parent must be -1 or 0 to {len(parents) - 1}, got {parent}")
        if parent == i:
            raise TreeError(f"{places[i]}: a node cannot be its own parent")
        if parent > i:
            raise TreeError(f"{places[i]}: a parent must come before its children, got {parent} as that of node {i}")
        if parent in seen and parents[i - 1] != parent:
            raise TreeError(f"{places[i]}: siblings must be next to each other, those of parent {parent} are not")
        seen.add(parent)


def _hypernyms(folder: Path) -> dict[str, list[str]]:
    """Of every noun synset those above it, from WordNet's database."""
    above: dict[str, list[str]] = {}
    path = folder / "data.noun"
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if line.startswith(" "):  # the licence
                continue
            words = line.split()
            try:
                first = 4 + 2 * int(words[3], 16)  # behind the words of the synset: how many pointers there are
                pointers = [words[first + 1 + 4 * i :][:2] for i in range(int(words[first]))]
                above[f"n{words[0]}"] = [f"n{offset}" for symbol, offset in pointers if symbol in ("@", "@i")]
            except (IndexError, ValueError):
                raise TreeError(f"{path}, line {number}: not a noun synset of WordNet, got {line[:40]!r}") from None
    for name, parents in above.items():
        for parent in parents:
            if parent not in above:
                raise TreeError(f"{path}: {parent}, which is above {name}, is not there")
    return above


def _ways_up(name: str, above: dict[str, list[str]], below: tuple[str, ...] = ()) -> list[list[str]]:
    if name in below:
        raise TreeError(f"WordTree.from_wordnet: {name} is above itself in this WordNet")
    if not above[name]:
        return [[name]]
    return [[name, *way] for parent in above[name] for way in _ways_up(parent, above, (*below, name))]


def _in_order(parent_of: dict[str, str | None]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Level by level: siblings together, parents first."""
    children: dict[str | None, list[str]] = {}
    for node, parent in parent_of.items():
        children.setdefault(parent, []).append(node)
    ids: list[str] = []
    parents: list[int] = []
    level: list[tuple[str | None, int]] = [(None, -1)]
    while level:
        below: list[tuple[str | None, int]] = []
        for parent, index in level:
            for node in children.get(parent, []):
                below.append((node, len(ids)))
                ids.append(node)
                parents.append(index)
        level = below
    return tuple(ids), tuple(parents)
