"""What an engine is, and the work that every engine has done."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pydet.detector import Detections, Detector
from pydet.draw import draw_boxes
from pydet.image import ImageError
from pydet.outputs import save_picture


class Picture(NamedTuple):
    """A file, and where its picture with the boxes goes, if anywhere."""

    path: str
    target: Path | None


class Outcome(NamedTuple):
    """What became of a picture.

    Attributes:
        detections: None where it could not be read.
        problems: A sentence for everything that failed.
        chains: Where they were asked for, the classes above each detection, a line each.
    """

    detections: Detections | None
    problems: tuple[str, ...] = ()
    chains: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """What is done with every picture, wherever that is.

    Attributes:
        model: The arguments of `pydet.load`, but for the device.
        threshold: Keep objects with a score above this.
        iou_threshold: Overlap above which the weaker of two boxes of one class is dropped.
        batch_size: Pictures that the model sees at once.
        explain: Whether the classes above each detection are wanted.
    """

    model: dict[str, Any]
    threshold: float = 0.25
    iou_threshold: float = 0.45
    batch_size: int = 8
    explain: bool = False


class Engine(ABC):
    """By whom pictures are worked through.

    Attributes:
        device: What the detector of this process is loaded on.
        first: Whether this is the process that speaks and writes the results.
    """

    first = True

    def __init__(self, device: str) -> None:
        self.device = device

    @abstractmethod
    def outcomes(self, detector: Detector, job: Job, pictures: Sequence[Picture]) -> Iterator[Outcome]:
        """What became of each picture, in their order; in a process that is not the first, nothing.

        Args:
            detector: That of the job, on `device`.
            job: What is to be done.
            pictures: The same in all processes.
        """


def work(detector: Detector, job: Job, pictures: Sequence[Picture]) -> Iterator[Outcome]:
    """Detects in every picture and writes it with the boxes, where it has a target; one outcome each, in order."""
    paths = [picture.path for picture in pictures]
    results = detector.detect_files(paths, job.threshold, job.iou_threshold, job.batch_size)
    for result, (_, target) in zip(results, pictures, strict=True):
        found = result.detections
        if isinstance(found, ImageError):
            yield Outcome(None, (str(found),))
            continue
        problems: tuple[str, ...] = ()
        if target is not None:
            assert result.picture is not None
            problems = _draw(found, result.picture, target)
        yield Outcome(found, problems, tuple(explanations(detector, found)) if job.explain else ())


def _draw(found: Detections, picture: Any, target: Path) -> tuple[str, ...]:
    try:
        save_picture(draw_boxes(picture, found.boxes, found.labels, found.scores, found.class_names), target)
    except OSError as error:
        return (str(error),)
    return ()


def explanations(detector: Detector, found: Detections) -> list[str]:
    """For each detection the classes from the root of the tree down to its own, a line each."""
    tree, names = detector.tree, detector.class_names
    if tree is None:
        return []
    return [" > ".join(names[node] for node in tree.path(one.label)) + f"  {one.score:.2f}" for one in found]


def named(outcome: Outcome, class_names: tuple[str, ...]) -> Outcome:
    """The outcome with other class names: with none on its way between processes, since YOLO9000 has 9,418."""
    if outcome.detections is None:
        return outcome
    return outcome._replace(detections=replace(outcome.detections, class_names=class_names))
