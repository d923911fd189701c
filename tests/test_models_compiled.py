"""Network and post-processing as one graph: compiled without a break, and exported; the same detections."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pydet import models
from pydet.models import SSD, CfgError, DetectionModel, RetinaNet
from pydet.models.darknet.cfg import parse_cfg
from pydet.models.darknet.sections import convolution, net
from pydet.models.yolov2 import head
from pydet.wordtree import WordTree

NAMES = ["__background__", "a", "b"]


def yolo(name: str) -> DetectionModel:
    return models.MODELS[name].build(NAMES, (64, 96))


def retinanet() -> RetinaNet:
    network = RetinaNet(NAMES, width=8, shortest=64, longest=128)
    for conv in network.head.modules():
        if isinstance(conv, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(conv.weight)
    # Else boxes lie 15 times the size of their anchors beside them, in the median: its last digits are .01 pixels.
    network.head.get_parameter("regression_head.bbox_reg.weight").data.mul_(0.1)
    return network


def ssd() -> SSD:
    network = SSD(NAMES)
    for conv in network.head.classification_head.module_list:
        torch.nn.init.normal_(conv.weight, std=1e-3)  # else all scores are 0 or 1, and which of them come first is open
    return network


def yolo9000() -> DetectionModel:
    """Three nodes: two roots, one of them with a child."""
    sections = [net((64, 96)), convolution(8, 3, 32), *head(3, ((1, 1), (2, 1)), 1, ".2")]
    sections[-1].options["tree"] = "its own"
    return models.Darknet(sections, class_names=NAMES, tree=WordTree(("a", "b", "c"), (-1, -1, 0)))


NETWORKS = {
    "yolov1-tiny": lambda: models.MODELS["yolov1-tiny"].build(NAMES),
    "yolov2-tiny": lambda: yolo("yolov2-tiny"),
    "yolo9000": yolo9000,
    "yolov3-tiny": lambda: yolo("yolov3-tiny"),
    "ssd300": ssd,
    "retinanet": retinanet,
}


class Batch(torch.nn.Module):
    """From a batch of pictures to detections of fixed shapes."""

    def __init__(self, network: DetectionModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        return self.network.detect_batch(x, sizes, 1e-6, 0.45)


@pytest.fixture(params=NETWORKS)
def batch(request: pytest.FixtureRequest) -> tuple[Batch, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    network = NETWORKS[request.param]().eval().requires_grad_(False).fuse()
    g = torch.Generator().manual_seed(0)
    x, placement = network.preprocess([torch.rand(3, 60, 90, generator=g) for _ in range(2)])
    return Batch(network), (x, placement.size)


def batch_of(size: tuple[int, int], pictures: int = 2) -> tuple[Tensor, Tensor]:
    x = torch.rand(pictures, 3, *size, generator=torch.Generator().manual_seed(pictures))
    return x, torch.tensor([size] * pictures)


def assert_same(ours: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    assert expected[3].min() > 0
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_compiles_without_a_break(batch: Any) -> None:
    module, args = batch
    with torch.no_grad():
        expected = module(*args)
        torch._dynamo.reset()
        assert_same(torch.compile(module, fullgraph=True, backend="aot_eager")(*args), expected)


def test_exports(batch: Any) -> None:
    module, args = batch
    with torch.no_grad():
        expected = module(*args)
        assert_same(torch.export.export(module, args).module()(*args), expected)


LOAD = """
import sys, torch, pydet.ops
program = torch.export.load(sys.argv[1]).module()
args, expected = torch.load(sys.argv[2])
with torch.no_grad():
    for ours, theirs in zip(program(*args), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)
"""


def test_an_exported_program_is_loaded_by_another_process(tmp_path: Path) -> None:
    module, args = Batch(yolo9000().eval()), batch_of((64, 96))
    with torch.no_grad():
        torch.export.save(torch.export.export(module, args), tmp_path / "a.pt2")
        torch.save((args, module(*args)), tmp_path / "a.pt")
    command = [sys.executable, "-c", LOAD, str(tmp_path / "a.pt2"), str(tmp_path / "a.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Every layer whose shape depends on the input's, and heads of two strides.
SMALL = """[net]
height=64
width=96
[convolutional]
filters=8
size=3
stride=8
pad=1
[maxpool]
size=2
stride=1
[shortcut]
from=-2
[maxpool]
size=3
stride=2
[reorg]
stride=2
[convolutional]
filters=14
size=1
activation=linear
[yolo]
classes=2
num=2
anchors=10,14,23,27
[route]
layers=-3
[upsample]
stride=2
[route]
layers=-1,3
[convolutional]
filters=14
size=1
activation=linear
[yolo]
classes=2
num=2
anchors=5,7,9,8
"""


def small() -> Batch:
    """Not yet run at any size."""
    torch.manual_seed(0)
    return Batch(models.Darknet(parse_cfg(SMALL)).eval().requires_grad_(False))


@pytest.mark.parametrize("make", [small, lambda: Batch(yolo9000().eval())], ids=["small", "yolo9000"])
def test_compiles_at_sizes_that_it_has_not_seen(make: Callable[[], Batch]) -> None:
    """The second size makes the compiler take height and width for symbols."""
    torch._dynamo.reset()
    module, reference = make(), make()
    reference.load_state_dict(module.state_dict())
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    with torch.no_grad():
        for args in (batch_of((96, 160)), batch_of((128, 64), 3)):
            assert_same(compiled(*args), reference(*args))
        with pytest.raises(
            (CfgError, torch._dynamo.exc.Unsupported), match=r"must be multiples of 32, .*, got 100x160"
        ):
            compiled(*batch_of((100, 160)))


@pytest.mark.parametrize("strict", [False, True])
def test_exports_with_any_batch_and_size(strict: bool) -> None:
    batch, rows, columns = (torch.export.Dim(word) for word in ("batch", "rows", "columns"))
    shapes = ({0: batch, 2: 32 * rows, 3: 32 * columns}, {0: batch})
    with torch.no_grad():
        program = torch.export.export(small(), batch_of((96, 160)), dynamic_shapes=shapes, strict=strict).module()
        for args in (batch_of((96, 160)), batch_of((128, 64), 3), batch_of((64, 96), 1)):
            assert_same(program(*args), small()(*args))
