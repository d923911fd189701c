"""All six detectors learn eight real pictures by heart: in small, and in minutes rather than seconds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import shared_path
from training_cases import small_sections

from pydet.models.darknet.cfg import Section, format_cfg
from pydet.models.darknet.sections import connected, convolution, maxpool, net, section
from pydet.training import Settings, train

TREE = "cell -1\nRBC 0\nWBC 0\nPlatelets 0\n"


def eight_pictures(folder: Path) -> Path:
    """In VOC's layout."""
    bccd = shared_path("data/bccd")
    names = (bccd / "ImageSets" / "Main" / "train.txt").read_text().split()[:8]
    for kind, ending in (("Annotations", "xml"), ("JPEGImages", "jpg")):
        (folder / kind).mkdir(parents=True)
        for name in names:
            shutil.copy(bccd / kind / f"{name}.{ending}", folder / kind)
    return folder


def body(size: tuple[int, int]) -> list[Section]:
    """Of `small_sections`, without dropout and head."""
    return [each for each in small_sections(size, 16)[:-2] if each.name != "dropout"]


def prediction(filters: int) -> Section:
    return convolution(filters, 1, activation="linear", batch_normalize=False)


def yolov1() -> list[Section]:
    layers = [net((208, 208))]
    for filters in (16, 32, 64, 128):
        layers += [convolution(filters, 3), maxpool(2, stride=2)]
    layers += [convolution(32, 3), connected(13 * 13 * (3 + 2 * 5), "linear")]
    settings = {"classes": 3, "coords": 4, "rescore": 1, "side": 13, "num": 2, "softmax": 0, "sqrt": 1}
    scales = {"object_scale": 1, "noobject_scale": ".5", "class_scale": 1, "coord_scale": 5}
    return [*layers, section("detection", **settings, **scales)]


def yolov2(classes: int = 3, **more: Any) -> list[Section]:
    shape = {"classes": classes, "coords": 4, "num": 3, "softmax": 1, "bias_match": 1, "rescore": 1}
    scales = {"object_scale": 5, "noobject_scale": 1, "class_scale": 1, "coord_scale": 1, "thresh": ".6"}
    region = section("region", anchors="1,1, 2.5,2.5, 5,5", **shape, **scales, **more)
    return [*body((192, 256)), prediction(3 * (5 + classes)), region]


def yolov3() -> list[Section]:
    head = section("yolo", mask="0,1,2", anchors="16,16, 40,40, 80,80", classes=3, num=3, ignore_thresh=".7")
    return [*body((192, 256)), prediction(3 * 8), head]


CASES: dict[str, dict[str, Any]] = {
    "yolov1": {"learning_rate": 0.002, "epochs": 400},
    # Gently: squared errors of a sigmoid that was pushed to 0 at once, as most are, have hardly a gradient any more
    "yolov2": {"learning_rate": 0.001, "warmup": 60, "epochs": 300, "clip": 3.0},
    "yolo9000": {"learning_rate": 0.001, "warmup": 60, "epochs": 300, "clip": 3.0},
    "yolov3": {"learning_rate": 0.004},
    "ssd300": {"learning_rate": 0.004, "width": 16, "clip": 10.0, "epochs": 400},
    # Version 2, for the normalisation in its subnets: they start from random numbers. At a size at which a platelet is
    # as large as the smallest anchors, of 32 pixels: smaller ones have one anchor each, that of their best overlap.
    "retinanet-resnet50-v2": {"learning_rate": 0.02, "width": 16, "size": 448, "clip": 10.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_learns_by_heart(name: str, tmp_path: Path) -> None:
    sections = {"yolov1": yolov1, "yolov2": yolov2, "yolov3": yolov3}
    options: dict[str, Any] = {"model": name}
    if name in sections:
        options = {"cfg": str(tmp_path / "small.cfg")}
        (tmp_path / "small.cfg").write_text(format_cfg(sections[name]()))
    elif name == "yolo9000":
        options = {"cfg": str(tmp_path / "small.cfg")}
        (tmp_path / "cells.tree").write_text(TREE)
        (tmp_path / "small.cfg").write_text(format_cfg(yolov2(4, tree=str(tmp_path / "cells.tree"))))
    values: dict[str, Any] = {
        "data": str(eight_pictures(tmp_path / "data")),
        "out": str(tmp_path / "run"),
        "weights": "none",
        "epochs": 250,
        "batch_size": 8,
        "schedule": "cosine",
        "warmup": 20,
        "warmup_power": 1.0,
        "ema": 0.95,
        "batch_norm_momentum": 0.1,
        "augmentation": "none",
        "checkpoint_every": 1000,
        "evaluate_every": 1000,
    }
    result = train(Settings(**values | options | CASES[name]))
    evaluation = train_result(result.folder)
    assert evaluation > 0.9


def train_result(folder: Path) -> float:
    from pydet.detector import Detector
    from pydet.evaluate import evaluate
    from pydet.models import load_checkpoint

    detector = Detector(load_checkpoint(folder / "last.safetensors"))
    result = evaluate(detector, folder.parent / "data")
    print(result.table())
    return result.metrics["AP50"]
