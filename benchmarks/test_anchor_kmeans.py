"""anchor_kmeans beside the reference and the usual NumPy program, from the same start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pydet import ops, reference

ITERATIONS = 10
"""Of each, so that all do the same work; until no box changes there are a hundred."""


def numpy_kmeans(wh: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, float]:
    """Assignments and medians with the whole matrix of IoUs, as programs for YOLO do it."""
    for iteration in range(ITERATIONS + 1):
        overlap = np.minimum(wh[:, None], centres).prod(axis=2)
        iou = overlap / (wh.prod(axis=1)[:, None] + centres.prod(axis=1) - overlap)
        nearest = iou.argmax(axis=1)
        if iteration < ITERATIONS:
            centres = np.stack([np.median(wh[nearest == c], axis=0) for c in range(len(centres))])
    return centres, iou.max(axis=1).mean()


def near(a: Any, b: Any) -> bool:
    """The same average IoU but for another median of two in the middle."""
    return abs(float(a[1]) - float(b[1])) < 1e-3


@pytest.mark.parametrize(("n", "k"), [(5000, 9), (100_000, 9)])
def test_anchor_kmeans(race: Callable[..., Any], n: int, k: int) -> None:
    wh = torch.exp(0.8 * torch.randn(n, 2, generator=torch.Generator().manual_seed(0)) + 3)
    sizes = wh.double().numpy()
    start = ops.anchor_kmeans(wh.double(), k, max_iterations=0)[0].numpy()
    contenders: dict[str, Callable[[], Any]] = {
        "pydet": lambda: ops.anchor_kmeans(wh, k, max_iterations=ITERATIONS),
        "numpy, without the start": lambda: numpy_kmeans(sizes, start),
    }
    yardsticks = {}
    if n < 100_000:
        contenders["reference"] = lambda: reference.anchor_kmeans(wh, k, max_iterations=ITERATIONS)
    else:
        few = wh[:5000].clone()
        yardsticks["reference, 5,000 boxes"] = lambda: reference.anchor_kmeans(few, k, max_iterations=ITERATIONS)
    race(contenders, near, yardsticks=yardsticks)
