"""Measuring a network on a data set, each process its part of the pictures."""

from __future__ import annotations

import copy

from pydet.data import Dataset
from pydet.detector import Detector
from pydet.evaluate import detect_and_measure
from pydet.evaluation import Evaluation
from pydet.models import DetectionModel
from pydet.processes import Processes

# As Darknet's `detector valid`.
THRESHOLD, IOU_THRESHOLD = 0.005, 0.45


def validate(network: DetectionModel, dataset: Dataset, group: Processes, batch_size: int = 8) -> Evaluation | None:
    """The metrics of a network, in the first process; in the others None.

    Args:
        network: which is left as it is; a copy of it is fused and used.
        dataset: with the labels of the network.
        group: the processes, each of which looks at every `world`th batch.
        batch_size: pictures at once.

    Raises:
        DataError: there is nothing to be found in the data.
    """
    detector = Detector(copy.deepcopy(network).eval().requires_grad_(False).fuse())
    return detect_and_measure(group, detector, dataset, THRESHOLD, IOU_THRESHOLD, batch_size)
