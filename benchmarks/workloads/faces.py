"""Dense candidates of one class, as an SSD face detector gives them where everything above 0.01 enters the NMS.

Modelled on the ResNet-10 SSD that OpenCV's users know (`res10_300x300_ssd_iter_140000.caffemodel`, licence not stated:
nothing of it is here) with pictures of 300, 600 and 900 pixels: nearly every prior is above 0.01. Its priors are those
of SSD (Liu et al. 2016, section 2.2). What the network adds is drawn at random, with spreads measured on the model:

    | at 300 px, three photos              | the model     | this |
    |---|---|---|
    | boxes kept by NMS at 0.45            | 1,364 - 1,771 | 1,299 |
    | others that a box overlaps above 0.3 | 56 - 64       | 56 |
    | the same above 0.5                   | 9.6 - 11.5    | 9.4 |
    | standard deviation of log score      | 0.21 - 0.27   | 0.23 |
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

COUNTS = {300: 8_881, 600: 34_612, 900: 78_249}
"""Side of the picture in pixels -> candidates above 0.01."""

LEVELS = [
    (8, 8, 30, 60, (2,)),
    (16, 16, 60, 111, (2, 3)),
    (32, 32, 111, 162, (2, 3)),
    (64, 64, 162, 213, (2, 3)),
    (64, 100, 213, 264, (2,)),
    (64, 300, 264, 315, (2,)),
]
"""Stride of the map, distance of its priors (beyond the picture too), smallest and largest size, ratios."""


def face_candidates(side: int) -> tuple[Tensor, Tensor]:
    """Boxes [N, 4] in pixels and scores [N], N as in COUNTS."""
    random = np.random.RandomState(side)  # whose numbers are the same under every version of numpy
    centre, shape, cell = priors(side)
    n = len(centre)
    # Neighbours are moved alike: four fifths of the variance is shared along the rows of the map.
    shared = np.stack([np.convolve(random.randn(n + 40), np.full(41, 41**-0.5), "valid") for _ in range(5)], axis=1)
    x, y, w, h, confidence = (0.8**0.5 * shared + 0.2**0.5 * random.randn(n, 5)).T
    # The network makes the priors of a cell more alike: half of what sets a shape apart from its cell is taken back.
    width, height = (np.sqrt(shape * cell[:, None]) * np.exp(0.2 * (0.8 * np.stack([w - 1, h], axis=1)))).T
    left = centre[:, 0] + 0.048 * shape[:, 0] * x - width / 2
    top = centre[:, 1] + 0.048 * shape[:, 1] * y - height / 2
    boxes = np.stack([left, top, left + width, top + height], axis=1).astype(np.float32)
    scores = np.exp(0.24 * confidence - 2.9).astype(np.float32)
    chosen = np.sort(random.permutation(n)[: COUNTS[side]])
    return torch.from_numpy(boxes[chosen]), torch.from_numpy(scores[chosen])


def priors(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre [P, 2] and shape [P, 2] of every prior, and the mean side of its own shape [P]."""
    centres, shapes = [], []
    for stride, step, small, large, ratios in LEVELS:
        at = (np.arange(-(-side // stride)) + 0.5) * step
        y, x = np.meshgrid(at, at, indexing="ij")
        middle = (small * large) ** 0.5
        turned = [(small * a**0.5, small / a**0.5) for ratio in ratios for a in (ratio, 1 / ratio)]
        own = np.array([(small, small), (middle, middle), *turned])
        centres.append(np.repeat(np.stack([x, y], axis=-1).reshape(-1, 2), len(own), axis=0))
        shapes.append(np.tile(own, (at.size**2, 1)))
    shape = np.concatenate(shapes)
    return np.concatenate(centres), shape, np.sqrt(shape.prod(axis=1))
