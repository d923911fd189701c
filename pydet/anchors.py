"""Anchors for a data set: what `pydet anchors` shows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pydet.data.dataset import DataError, Dataset
from pydet.ops import anchor_elbow, anchor_kmeans

CELL = 32  # pixels: the stride of YOLOv2, whose anchors are in cells
_STEPS = 1024  # of a pixel of the network's input, to which sizes are rounded


@dataclass(frozen=True, eq=False)
class Anchors:
    """Anchors and how well they fit.

    Attributes:
        sizes: [k, 2] width and height in pixels of the network's input, to a thousandth, smallest area first.
        average_iou: Of each object with the anchor that fits it best.
        elbow: The average IoU with 1, 2, ... anchors.
        image_size: (height, width) of the network's input.
    """

    sizes: Tensor
    average_iou: float
    elbow: list[float]
    image_size: tuple[int, int]

    def table(self) -> str:
        """The anchors as lines of a Darknet cfg, and what other numbers of them would give."""
        k = len(self.sizes)
        height, width = self.image_size
        lines = [f"{k} anchors for pictures of {width} x {height}, average IoU {self.average_iou:.3f}", ""]
        pixels = ",  ".join(f"{w:.0f},{h:.0f}" for w, h in self.sizes.tolist())
        cells = ",  ".join(f"{w:.2f},{h:.2f}" for w, h in (self.sizes / CELL).tolist())
        lines += [f"anchors = {pixels}", "  (YOLOv3: pixels)", f"anchors = {cells}", "  (YOLOv2: cells of 32 pixels)"]
        lines += ["", "anchors  average IoU"]
        for number, value in enumerate(self.elbow, start=1):
            lines.append(f"{number:7}  {value:.3f}  {'#' * round(value * 60)}{' <' if number == k else ''}")
        return "\n".join(lines)


def find_anchors(dataset: Dataset, k: int, image_size: tuple[int, int] = (416, 416), seed: int = 0) -> Anchors:
    """Clusters the sizes of a data set's boxes, as they are on a letterboxed picture.

    Args:
        dataset: Crowds in it do not count.
        k: How many anchors.
        image_size: (height, width) of the network's input in pixels.
        seed: Of the random start.

    Raises:
        DataError: There are fewer different boxes than anchors.
    """
    # The letterbox scales both sides of a picture by what makes the tighter one fit
    scale = (torch.tensor(image_size, dtype=torch.float64) / dataset.sizes).amin(1).repeat_interleave(dataset.counts)
    sizes = ((dataset.boxes[:, 2:] - dataset.boxes[:, :2]) * scale[:, None])[~dataset.crowd]
    # One size in two places differs in the last bits, from which anchors of their own would be made
    sizes = (sizes * _STEPS).round().clamp(min=1) / _STEPS
    different = len(sizes.unique(dim=0))
    if k > different:
        raise DataError(f"{dataset.name}: {k} anchors need as many boxes of different size, and there are {different}")
    anchors, average_iou = anchor_kmeans(sizes, k, seed)
    elbow = anchor_elbow(sizes, min(max(k + 3, 12), different), seed)
    return Anchors(anchors, float(average_iou), elbow.tolist(), image_size)
