"""Every detector on the CPU: picture to boxes, and the network alone beside other libraries with the same numbers.

"pydet" is a picture (a tensor) to boxes in its pixels; where torchvision has the detector, it does the same. All others
stand in the race as yardsticks: "network" and "post-processing" are its parts, "bf16 ..." the same in bfloat16, and
onnxruntime, OpenVINO and cv2.dnn are their networks alone, whose outputs are compared before any time is taken.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import darknet_process
import network_peers
import numpy as np
import pytest
import torch
from networks import after_network, detector, raw_outputs, thresholds
from peers import peer
from race import THREADS_ARE_ASLEEP, Contenders
from torch import Tensor

import pydet
from pydet import models
from pydet.image import read_image
from pydet.models import Darknet, DetectionModel
from pydet.models.packed import computes_in

DOG = Path(models.ASSETS) / "dog.jpg"
TORCHVISION = {
    "ssd300": "ssd300_vgg16",
    "retinanet-resnet50": "retinanet_resnet50_fpn",
    "retinanet-resnet50-v2": "retinanet_resnet50_fpn_v2",
}
NOT_IN_OPENCV = ("yolov1", "yolo9000")  # it has no [local] and no [detection], and another softmax for trees


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode(), pydet.keep_freed_memory():  # onnxruntime and OpenVINO keep theirs
        yield


@pytest.mark.long
@pytest.mark.parametrize("name", models.MODELS)
def test_detector(name: str, race: Callable[..., Any], tmp_path: Path) -> None:
    picture = read_image(DOG)
    with torch.inference_mode(False), torch.no_grad():
        plain = detector(name, picture)
        network = copy.deepcopy(plain).fuse()
        x, placement = network.preprocess([picture])
        others = network_peers.network_peers(network, x, tmp_path)
    ours = raw_outputs(network, x)
    for peer_name, run in others.items():
        # Random weights, many deep: the rounding of bfloat16 grows to a fifth. Other numbers would differ by 1.4.
        assert_near(run(), ours, 0.5 if peer_name.endswith("bf16") else 1e-3, peer_name)
    also = {}
    if isinstance(plain, Darknet) and not name.startswith(NOT_IN_OPENCV):
        files = network_peers.darknet_files(plain, tmp_path)
        if opencv := network_peers.opencv(*files, x):
            assert_same_rows(opencv(), network, ours)
            others["cv2.dnn"] = opencv
        if name == "yolov3-tiny" and darknet_process.LIBRARY.exists():
            also["Darknet"] = seconds_of_darknet(files, x.shape[-1])
    contenders: Contenders = {"pydet": lambda: network([picture], **thresholds(network))}
    if name in TORCHVISION and (torchvision := peer("torchvision")):
        contenders["torchvision"] = their_detector(torchvision, name, plain, picture)
        assert len(contenders["pydet"]()[0]["scores"]), "nothing is found, and nothing could be compared"
    yardsticks = {
        "network": lambda: raw_outputs(network, x),
        "post-processing": after_network(network, x, placement.size),
        **in_bfloat16(network, picture),
        **others,
    }
    race(contenders, equal=same_detections, budget=10.0, also=also, yardsticks=yardsticks, rest=THREADS_ARE_ASLEEP)


def in_bfloat16(network: DetectionModel, picture: Tensor) -> Contenders:
    if not computes_in(torch.bfloat16):
        return {}
    half = copy.deepcopy(network).to(torch.bfloat16)
    x, _ = half.preprocess([picture])
    return {
        "bf16": lambda: half([picture], **thresholds(half)),
        "bf16 network": lambda: raw_outputs(half, x),
    }


def their_detector(torchvision: Any, name: str, plain: DetectionModel, picture: Tensor) -> Callable[[], Any]:
    theirs = getattr(torchvision.models.detection, TORCHVISION[name])(weights=None, weights_backbone=None).eval()
    theirs.load_state_dict(plain.state_dict(), strict=False)  # it counts batches; a constant normalisation does not
    return lambda: theirs([picture / 255])


def seconds_of_darknet(files: tuple[Path, Path], side: int) -> float:
    command = [sys.executable, darknet_process.__file__, *map(str, files), str(side)]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    return float(result.stdout.split()[-1])


def assert_near(theirs: list[np.ndarray], ours: list[Tensor], tolerance: float, name: str) -> None:
    """Every output: the root mean square of the differences, in parts of that of the numbers."""
    assert len(theirs) == len(ours)
    for a, b in zip(theirs, ours, strict=True):
        assert a.shape == b.shape, name
        found = (torch.from_numpy(a) - b).square().mean().sqrt() / b.square().mean().sqrt()
        assert found <= tolerance, f"{name} differs from pydet by {found:.2g} of the outputs"


def assert_same_rows(theirs: list[np.ndarray], network: Darknet, ours: list[Tensor]) -> None:
    """Boxes, objectness and class scores of cv2.dnn, whose convolutions round more, and which drops low scores."""
    boxes, objectness, scores = (part[0] for part in network.decode(ours))
    rows = torch.from_numpy(np.concatenate([part.reshape(-1, part.shape[-1]) for part in theirs]))
    height, width = network.image_size
    centre, size = rows[:, :2], rows[:, 2:4]
    corners = torch.cat([centre - size / 2, centre + size / 2], dim=1) * torch.tensor([width, height, width, height])
    off = (corners - boxes).abs().amax(1) / (boxes[:, 2:] - boxes[:, :2]).amax(1)
    assert off.max() <= 0.1, f"a box of cv2.dnn is off by {off.max():.2g} of its size"
    torch.testing.assert_close(rows[:, 4], objectness, rtol=0, atol=2e-2)
    said = rows[:, 5:] > 0
    torch.testing.assert_close(rows[:, 5:][said], scores[said], rtol=0, atol=2e-2)


def same_detections(theirs: list[dict[str, Tensor]], ours: list[dict[str, Tensor]]) -> bool:
    """As many; equal scores, of which rounding swaps a few; 95 of 100 boxes with their labels."""
    (a,), (b,) = theirs, ours
    assert len(a["scores"]) == len(b["scores"])
    torch.testing.assert_close(a["scores"], b["scores"], rtol=0, atol=1e-3)
    pairs = (a["boxes"][:, None] - b["boxes"][None]).abs().amax(-1) < 0.5
    alike = (pairs & (a["labels"][:, None] == b["labels"][None])).any(1)
    return not len(alike) or alike.float().mean().item() >= 0.95
