"""The losses of the YOLOs with settings and objects that no recording has, beside Darknet's rules written as loops."""

from __future__ import annotations

import itertools
from typing import Any

import darknet_losses
import numpy as np
import pytest
import torch
from test_losses_darknet import darknet_targets
from torch import Tensor

from pydet.losses import (
    DetectionSettings,
    RegionSettings,
    Targets,
    TreeTables,
    yolo9000_loss,
    yolov1_loss,
    yolov2_loss,
    yolov3_loss,
)
from pydet.wordtree import WordTree

SIZE = (96, 128)
ROWS, COLUMNS = 3, 4
PIXELS = torch.tensor([[10.0, 14], [30, 22], [25, 60], [90, 70]], dtype=torch.float64)
SHARES = (PIXELS / torch.tensor([128.0, 96])).numpy()
PARENTS = [-1, -1, -1, 0, 0, 1, 3, 3, 3, 5, 5, 9, 9]
TREE = WordTree(tuple(f"n{i}" for i in range(13)), tuple(PARENTS))
CLASSES = len(PARENTS)


def crowd(g: np.random.Generator, count: int) -> list[Any]:
    """Objects of which many share a cell, and a prediction."""
    centres = g.uniform(0.02, 0.98, (max(count // 3, 1), 2))
    truths = []
    for _ in range(count):
        x, y = centres[g.integers(len(centres))]
        w, h = SHARES[g.integers(4)] * g.uniform(0.7, 1.4, 2)
        truths.append((x, y, w, h, int(g.integers(CLASSES))))
    return truths


def images_of(g: np.random.Generator) -> list[list[Any]]:
    return [crowd(g, 14), [], crowd(g, 1), crowd(g, 30)]


def ragged(images: list[list[Any]]) -> Targets:
    return darknet_targets([np.array(truths).reshape(-1, 5) for truths in images], SIZE, torch.float64)


def raw_map(g: np.random.Generator, batch: int, anchors: int, scale: float = 0.7) -> Tensor:
    raw = scale * g.standard_normal((batch, anchors * (5 + CLASSES), ROWS, COLUMNS))
    return torch.from_numpy(raw).requires_grad_()


def assert_downhill(terms: dict[str, Tensor], raw: Tensor, wanted: list[np.ndarray]) -> None:
    """Minus the gradient of the sum over the images."""
    for name, term in terms.items():
        assert torch.isfinite(term), name
    (sum(terms.values()) * len(raw)).backward()
    torch.testing.assert_close(-raw.grad, torch.from_numpy(np.stack(wanted)).view_as(raw), rtol=0, atol=1e-10)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("mask", [[0, 1], [3, 1, 2]], ids=str)
@pytest.mark.parametrize(("ignore", "truth"), [(0.5, 1.0), (0.3, 1.0), (0.2, 0.4), (0.5, 0.3)])
def test_yolov3(ignore: float, truth: float, mask: list[int], layout: torch.memory_format) -> None:
    g = np.random.default_rng(0)
    images = images_of(g)
    raw = raw_map(g, len(images), len(mask)).detach().contiguous(memory_format=layout).requires_grad_()
    terms = yolov3_loss(raw, ragged(images), SIZE, PIXELS, mask, ignore, truth)
    maps = raw.detach().reshape(len(images), len(mask), -1, ROWS, COLUMNS).numpy()
    wanted = [darknet_losses.yolo(m, t, SHARES, mask, ignore, truth) for m, t in zip(maps, images, strict=True)]
    assert_downhill(terms, raw, wanted)


SETTINGS = [
    dict(zip(("softmax", "rescore", "bias_match"), flags, strict=True))
    | {"object_scale": 4.0, "noobject_scale": 0.6, "class_scale": 1.7, "coord_scale": 0.9, "thresh": 0.35}
    for flags in itertools.product([False, True], repeat=3)
]


@pytest.mark.parametrize("seen", [12_799, 12_800, None])
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(k for k, v in s.items() if v is True) or "none")
def test_yolov2(settings: dict[str, Any], seen: int | None) -> None:
    g = np.random.default_rng(1)
    images = images_of(g)
    raw = raw_map(g, len(images), 4)
    terms = yolov2_loss(raw, ragged(images), SIZE, PIXELS / 32, RegionSettings(**settings), seen)
    maps = raw.detach().view(len(images), 4, -1, ROWS, COLUMNS).numpy()
    early = seen == 12_799
    wanted = [darknet_losses.region(m, t, SHARES, settings, early) for m, t in zip(maps, images, strict=True)]
    assert_downhill(terms, raw, wanted)
    assert (terms["prior"] > 0) == early


@pytest.mark.parametrize("seen", [100, None])
@pytest.mark.parametrize("image_labels", [None, [-1, 12, 8, -1], [-1, 0, 5, -1], [-1, -1, -1, -1]], ids=str)
def test_yolo9000(image_labels: list[int] | None, seen: int | None) -> None:
    """Detection alone, and joint batches: of an image with a label the boxes are not looked at."""
    g = np.random.default_rng(2)
    images = images_of(g)
    settings = SETTINGS[-1]
    raw = raw_map(g, len(images), 4)
    targets = ragged(images)
    if image_labels is not None:
        targets = targets._replace(image_labels=torch.tensor(image_labels))
    terms = yolo9000_loss(raw, targets, SIZE, PIXELS / 32, TreeTables.of(TREE), RegionSettings(**settings), seen)
    maps = raw.detach().view(len(images), 4, -1, ROWS, COLUMNS).numpy()
    wanted = [
        darknet_losses.region(m, t, SHARES, settings, seen is not None, PARENTS, label)
        for m, t, label in zip(maps, images, image_labels or [-1] * 4, strict=True)
    ]
    assert_downhill(terms, raw, wanted)


@pytest.mark.parametrize(
    ("sqrt", "softmax", "rescore"), list(itertools.product([False, True], repeat=3)), ids=lambda flag: str(flag)
)
def test_yolov1(sqrt: bool, softmax: bool, rescore: bool) -> None:
    g = np.random.default_rng(3)
    images, side, count = images_of(g), 3, 2
    scales = {"object_scale": 1.1, "noobject_scale": 0.4, "class_scale": 1.3, "coord_scale": 4.0}
    settings: dict[str, Any] = {"sqrt": sqrt, "softmax": softmax, "rescore": rescore, **scales}
    outputs = 0.4 + 0.5 * g.standard_normal((len(images), side * side * (CLASSES + 5 * count)))
    raw = torch.from_numpy(outputs).requires_grad_()
    terms = yolov1_loss(raw, ragged(images), SIZE, side, count, DetectionSettings(**settings))
    wanted = [darknet_losses.detection(r, t, side, count, settings) for r, t in zip(outputs, images, strict=True)]
    assert_downhill(terms, raw, wanted)
