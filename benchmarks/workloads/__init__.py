"""Realistic inputs: what detectors and data sets really give, frozen as numbers. README.md says where they are from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

HERE = Path(__file__).parent


def candidates(side: int, picture: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """What YOLOv3-tiny finds above 0.001 in a photo at 416, 608 or 1280: boxes [N, 4], scores [N], labels int64 [N]."""
    with np.load(HERE / f"yolov3-tiny-{side}.npz") as file:
        mine = file["picture"] == picture
        boxes, scores, labels = file["boxes"][mine], file["scores"][mine], file["labels"][mine]
    return torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(labels.astype(np.int64))


def detector_outputs(side: int) -> tuple[Tensor, Tensor]:
    """The same as the network gives it, of all 7 photos: boxes [7, N, 4], scores [7, N, 80].

    Below 0.001 there is nothing: scores are 0, and so are the boxes of rows without a candidate.
    """
    with np.load(HERE / f"yolov3-tiny-{side}.npz") as file:
        pictures, rows, n = file["picture"].astype(int), file["rows"].astype(int), int(file["n"])
        boxes = np.zeros((pictures.max() + 1, n, 4), np.float32)
        scores = np.zeros((pictures.max() + 1, n, 80), np.float32)
        boxes[pictures, rows] = file["boxes"]
        scores[pictures, rows, file["labels"].astype(int)] = file["scores"]
    return torch.from_numpy(boxes), torch.from_numpy(scores)


def objects(name: str, images: int) -> tuple[Tensor, Tensor]:
    """Ground truths of the first images of "coco160" or "bccd", resized to 800 x 1333: [G, 4] and counts [images]."""
    with np.load(HERE / f"{name}.npz") as file:
        counts = torch.from_numpy(file["counts"][:images].astype(np.int64))
        return torch.from_numpy(file["boxes"][: int(counts.sum())].astype(np.float32)), counts


def retinanet_anchors(height: int, width: int) -> Tensor:
    """[A, 4]: five levels, three ratios and three sizes a cell, as in RetinaNet section 4."""
    levels = []
    for stride in (8, 16, 32, 64, 128):
        sizes = [4 * stride * 2 ** (octave / 3) for octave in range(3)]
        roots = (0.5**0.5, 1, 2**0.5)  # of height / width
        half = torch.tensor([[size / root / 2, size * root / 2] for size in sizes for root in roots])
        y, x = (torch.arange(-(-extent // stride)) * stride for extent in (height, width))
        centre = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 1, 2)
        levels.append(torch.cat([centre - half, centre + half], dim=-1).reshape(-1, 4))
    return torch.cat(levels)
