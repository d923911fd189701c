"""A detector that is trained in a second, on the real pictures of tests/data, for the tests of training."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from data_files import BCCD

from pydet.models.darknet.cfg import Section, format_cfg
from pydet.models.darknet.sections import convolution, dropout, joined, maxpool, net, section, shortcut
from pydet.training import Settings, checkpoint
from pydet.training.settings import as_toml

ANCHORS = ((8, 8), (16, 16), (30, 30))


def small_sections(size: tuple[int, int] = (64, 96), filters: int = 8, classes: int = 3) -> list[Section]:
    """A YOLOv3 of stride 16, with dropout, which draws random numbers."""
    layers = [convolution(filters, 3, stride=2)]
    for times in (2, 4):
        layers += [convolution(times * filters, 3, stride=2)]
    layers += [convolution(4 * filters, 3), shortcut(-2), maxpool(2, stride=2), dropout(".1")]
    layers += [
        convolution(8 * filters, 3),
        convolution(3 * (5 + classes), 1, activation="linear", batch_normalize=False),
    ]
    anchors = joined(side for anchor in ANCHORS for side in anchor)
    head = section("yolo", mask="0,1,2", anchors=anchors, classes=classes, num=3, ignore_thresh=".7")
    return [net(size), *layers, head]


def write_cfg(folder: Path, **options: Any) -> Path:
    path = folder / "small.cfg"
    path.write_text(format_cfg(small_sections(**options)))
    return path


def small_settings(folder: Path, **changed: Any) -> Settings:
    """30 updates of a pair of pictures, a checkpoint after every 3, all that is kept between updates in use."""
    values: dict[str, Any] = {
        "cfg": str(write_cfg(folder)),
        "data": str(BCCD),
        "val_split": "test",
        "out": str(folder / "run"),
        "epochs": 20,
        "batch_size": 2,
        "parts": 2,
        "learning_rate": 0.002,
        "schedule": "cosine",
        "ema": 0.9,
        "clip": 10.0,
        "amp": "off",
        "workers": 0,
        "multi_scale": True,
        "checkpoint_every": 3,
        "evaluate_every": 5,
    }
    return Settings(**values | changed)


def arguments(settings: Settings) -> list[str]:
    """The command line of a training."""
    path = Path(settings.cfg).with_suffix(".toml")
    path.write_text(as_toml(settings))
    return ["train", "--config", str(path)]


def start(arguments: list[str], processes: int = 1) -> subprocess.Popen[str]:
    """The command in a process of its own, or in several as torchrun starts them."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "pydet", *arguments]
    threads = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(
        command,
        env=os.environ | threads,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def same_runs(one: Path, other: Path) -> None:
    """Asserts that two trainings are equal in every bit that is kept of them, their speeds aside."""
    for name in ("last.safetensors", "best.safetensors", "losses.csv", "validation.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    first, second = (checkpoint.load(run / "checkpoint.pt") for run in (one, other))
    assert first.update == second.update
    assert first.best == second.best
    for part in ("network", "average", "generators"):
        mine, theirs = getattr(first, part), getattr(second, part)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine), part
    momenta = [[state["momentum_buffer"] for state in kept.optimizer["state"].values()] for kept in (first, second)]
    assert momenta[0]
    assert all(torch.equal(a, b) for a, b in zip(*momenta, strict=True))
