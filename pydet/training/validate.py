"""Measuring a network on a data set, each process its part of the pictures."""

from __future__ import annotations

import copy
import time

import torch

from pydet.data import Dataset
from pydet.detector import Detections, Detector
from pydet.evaluate import Evaluation, Speed, measure
from pydet.image import ImageError
from pydet.models import DetectionModel
from pydet.training.processes import Processes

# As Darknet's `detector valid`.
THRESHOLD, IOU_THRESHOLD = 0.005, 0.45


def validate(network: DetectionModel, dataset: Dataset, group: Processes, batch_size: int = 8) -> Evaluation | None:
    """The metrics of a network, in the first process; in the others None.

    Args:
        network: which is left as it is; a copy of it is fused and used.
        dataset: with the labels of the network.
        group: the processes, each of which looks at every `world`th picture.
        batch_size: pictures at once.

    Raises:
        DataError: there is nothing to be found in the data.
    """
    start = time.perf_counter()
    found, problems = detect(network, dataset, group, batch_size)
    per_picture = 1000 * (time.perf_counter() - start) * group.world / max(len(dataset), 1)
    parts = group.gather((found, problems))
    if not group.first:
        return None
    results = {number: item for part, _ in parts for number, item in part.items()}
    readable = torch.tensor([number in results for number in range(len(dataset))])
    every_problem = [str(problem) for problem in dataset.problems] + [each for _, part in parts for each in part]
    ordered = [results[number] for number in sorted(results)]
    return measure(dataset.take(readable), ordered, every_problem, Speed(0.0, per_picture))


def detect(
    network: DetectionModel, dataset: Dataset, group: Processes, batch_size: int = 8
) -> tuple[dict[int, Detections], list[str]]:
    """What is found in the pictures of this process, by their numbers, and what is wrong with the other ones."""
    detector = Detector(copy.deepcopy(network).eval().requires_grad_(False).fuse())
    mine = range(group.rank, len(dataset), group.world)
    paths = [dataset.paths[number] for number in mine]
    found: dict[int, Detections] = {}
    problems: list[str] = []
    results = detector.detect_files(paths, THRESHOLD, IOU_THRESHOLD, batch_size)
    for number, result in zip(mine, results, strict=True):
        if isinstance(result.detections, ImageError):
            problems.append(str(result.detections))
        else:
            found[number] = result.detections
    return found, problems
