"""One form for every data set: pictures, boxes, labels, flags; and what was wrong with the annotations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from pydet.outputs import official_name


class DataError(ValueError):
    """A data set that cannot be used; the message names the file and what is wrong with it."""


class DataWarning(UserWarning):
    """Parts of a data set were left out or put right; the message names some of them."""


@dataclass(frozen=True)
class Problem:
    """Something in a data set that was left out or put right.

    Attributes:
        file: In which it is.
        where: The object, line or entry in it; empty where it is the whole file.
        reason: What is wrong.
    """

    file: str
    where: str
    reason: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.file, self.where, self.reason)))


@dataclass(frozen=True, eq=False)
class Record:
    """One picture and what is annotated on it.

    Attributes:
        path: The picture's file. It is not opened before somebody reads it.
        size: (height, width) of the upright picture in pixels.
        boxes: float64 [G, 4] xyxy in pixels; they reach at most one pixel beyond the picture (COCO's own do).
        labels: int64 [G], indexes into the data set's class_names.
        difficult: bool [G], objects that VOC neither asks for nor punishes.
        crowd: bool [G], boxes around many objects at once (COCO's iscrowd): nothing to train on.
        areas: float64 [G] in square pixels: COCO's, which is that of the outline, else that of the box.
        image_label: What the whole picture shows, where nobody drew boxes (a folder per class); else None.
    """

    path: str
    size: tuple[int, int]
    boxes: Tensor
    labels: Tensor
    difficult: Tensor
    crowd: Tensor
    areas: Tensor
    image_label: int | None = None


@dataclass(frozen=True, eq=False)
class Dataset:
    """Pictures with objects, whatever format they came in: a sequence of `Record`.

    The objects of all pictures lie one after another, which is how `pydet.ops.match_anchors` and its like take them and
    what makes a million of them small.

    Attributes:
        name: Of the file or folder, and the split, for people.
        class_names: The name of each label.
        paths: The N pictures' files.
        sizes: int64 [N, 2] height, width of the pictures.
        counts: int64 [N], how many objects each picture has.
        boxes: float64 [sum of counts, 4]; for this and the others see `Record`.
        labels: int64 [sum of counts].
        difficult: bool [sum of counts].
        crowd: bool [sum of counts].
        areas: float64 [sum of counts].
        image_labels: int64 [N], -1 where the picture as a whole has no label.
        problems: What was left out or put right on the way here.
    """

    OF_PICTURES = ("sizes", "counts", "image_labels")
    OF_OBJECTS = ("boxes", "labels", "difficult", "crowd", "areas")

    name: str
    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    sizes: Tensor
    counts: Tensor
    boxes: Tensor
    labels: Tensor
    difficult: Tensor
    crowd: Tensor
    areas: Tensor
    image_labels: Tensor
    problems: tuple[Problem, ...] = ()

    @cached_property
    def _starts(self) -> list[int]:
        """Where the objects of each picture begin."""
        starts: list[int] = (self.counts.cumsum(0) - self.counts).tolist()
        return starts

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: there is no picture {index}; it has {len(self)}")
        start = self._starts[index]
        rows = slice(start, start + int(self.counts[index]))
        height, width = self.sizes[index].tolist()
        label = int(self.image_labels[index])
        return Record(
            self.paths[index],
            (height, width),
            self.boxes[rows],
            self.labels[rows],
            self.difficult[rows],
            self.crowd[rows],
            self.areas[rows],
            None if label < 0 else label,
        )

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def first(self, count: int | None) -> Dataset:
        """The first `count` pictures; None for all of them.

        Raises:
            ValueError: count is below 1.
        """
        if count is not None and count < 1:
            raise ValueError(f"{self.name}: the first pictures must be at least 1, got {count}")
        return self if count is None else self.take(torch.arange(len(self)) < count)

    def take(self, chosen: Tensor) -> Dataset:
        """The pictures where `chosen`, bool [N], is true."""
        objects = chosen.repeat_interleave(self.counts)
        cut = {name: getattr(self, name)[objects] for name in self.OF_OBJECTS}
        of_pictures = {name: getattr(self, name)[chosen] for name in self.OF_PICTURES}
        paths = tuple(path for path, is_chosen in zip(self.paths, chosen.tolist(), strict=True) if is_chosen)
        return replace(self, paths=paths, **cut, **of_pictures)

    def keep(self, kept: Tensor) -> Dataset:
        """The same pictures with the objects where `kept`, bool [sum of counts], is true."""
        picture = torch.arange(len(self)).repeat_interleave(self.counts)
        counts = torch.bincount(picture[kept], minlength=len(self))
        cut = {name: getattr(self, name)[kept] for name in self.OF_OBJECTS}
        return replace(self, counts=counts, **cut)

    def with_classes(self, class_names: Sequence[str]) -> Dataset:
        """The same data with the labels of a model's classes, which are found by name.

        Where a name is not there as it stands, case does not matter, and Darknet's names for COCO's classes are the
        same ("tvmonitor" is "tv"). The objects of a class that is not among them are left out, which the problems say.
        """
        if tuple(class_names) == self.class_names:
            return self
        table = torch.tensor(places_of(self.class_names, class_names), dtype=torch.int64)
        labels = table[self.labels] if len(table) else self.labels
        known = self.image_labels >= 0
        image_labels = self.image_labels.clone()
        image_labels[known] = table[self.image_labels[known]]
        lost = Counter(self.labels[labels < 0].tolist())
        lost += Counter(self.image_labels[known & (image_labels < 0)].tolist())
        problems = [
            Problem(
                self.name,
                f"class {self.class_names[label]!r}",
                f"unknown to the model: its {count} objects are left out",
            )
            for label, count in sorted(lost.items())
        ]
        renamed = replace(
            self,
            class_names=tuple(class_names),
            labels=labels,
            image_labels=image_labels,
            problems=self.problems + tuple(problems),
        )
        return renamed.keep(labels >= 0)

    def describe(self) -> str:
        """One line: how many pictures, objects and classes."""
        labelled = int((self.image_labels >= 0).sum())
        text = f"{self.name}: {len(self)} pictures, {len(self.labels)} objects of {len(self.class_names)} classes"
        return text + (f", {labelled} pictures with a label as a whole" if labelled else "")


def places_of(names: Sequence[str], others: Sequence[str]) -> list[int]:
    """For each name its first place among the others, -1 where it is not there: as it stands, or else by `_key`."""
    exact: dict[str, int] = {}
    alike: dict[str, int] = {}
    for place, other in enumerate(others):
        exact.setdefault(other, place)
        alike.setdefault(_key(other), place)
    return [exact.get(name, alike.get(_key(name), -1)) for name in names]


def _key(name: str) -> str:
    return official_name(name.strip().lower())
