"""YOLOv3-tiny at 416 on the CPU, picture tensor to boxes, beside cv2.dnn and the real Darknet with the same weights."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import darknet_process
import numpy as np
import pytest
import torch
from peers import peer

from pydet import models
from pydet.image import read_image
from pydet.letterbox import letterbox
from pydet.models.darknet import format_cfg

SIDE = 416


@pytest.fixture(scope="module")
def darknet_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The embedded network as Darknet's own two files."""
    folder = tmp_path_factory.mktemp("darknet")
    network = models.load("yolov3-tiny", fuse=False)
    cfg, weights = folder / "yolov3-tiny.cfg", folder / "yolov3-tiny.weights"
    cfg.write_text(format_cfg(network.sections))
    models.save_weights(network, weights)
    return cfg, weights


def opencv(cv2: Any, cfg: Path, weights: Path, picture: np.ndarray) -> Callable[[], Any]:
    network = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    outputs = network.getUnconnectedOutLayersNames()

    def detect() -> np.ndarray:
        network.setInput(picture)
        rows = np.concatenate(network.forward(outputs))  # centre x, y, width, height, objectness, class scores
        labels = rows[:, 5:].argmax(1)
        scores = rows[np.arange(len(rows)), labels + 5]
        rows, labels, scores = rows[scores > 0.25], labels[scores > 0.25], scores[scores > 0.25]
        corner = np.concatenate([rows[:, :2] - rows[:, 2:4] / 2, rows[:, 2:4]], axis=1) * SIDE
        keep = cv2.dnn.NMSBoxesBatched(corner.tolist(), scores.tolist(), labels.tolist(), 0.25, 0.45)
        return labels[keep]

    return detect


@pytest.mark.long
def test_yolov3_tiny(race: Callable[..., Any], darknet_files: tuple[Path, Path]) -> None:
    picture = letterbox(read_image(Path(models.ASSETS) / "dog.jpg"), (SIDE, SIDE))
    network = models.load("yolov3-tiny")
    contenders: dict[str, Callable[[], Any]] = {
        "pydet": lambda: network([picture], score_threshold=0.25, iou_threshold=0.45)[0]["labels"]
    }
    cv2 = peer("cv2")
    if cv2 is not None and hasattr(cv2.dnn, "readNetFromDarknet"):
        cv2.setNumThreads(torch.get_num_threads())
        contenders["cv2.dnn"] = opencv(cv2, *darknet_files, picture[None].numpy())
    also = {}
    if darknet_process.LIBRARY.exists():
        command = [sys.executable, darknet_process.__file__, *map(str, darknet_files), str(SIDE)]
        result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        also["Darknet"] = float(result.stdout.split()[-1])
    with torch.inference_mode():
        race(contenders, equal=lambda a, b: sorted(a) == sorted(b), budget=4.0, also=also)
