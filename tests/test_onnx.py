"""Detectors as ONNX files: onnxruntime finds in pictures what the network finds in them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from test_ssd_retinanet import NAMES, small_retinanet
from torch import Tensor

import pydet
from pydet import models, ops
from pydet.cli import main
from pydet.image import read_image
from pydet.models import SSD, Darknet, DetectionModel, RetinaNet
from pydet.models.darknet.sections import convolution, dropout, local, net
from pydet.models.darknet.tree import TreeWalk
from pydet.models.yolov1 import grid
from pydet.models.yolov2 import head
from pydet.onnx import export_onnx, fit
from pydet.onnx.operators import multiclass_nms
from pydet.onnx.tree import Walk
from pydet.wordtree import WordTree

DOG = Path(__file__).parent.parent / "pydet" / "assets" / "dog.jpg"
TREE = WordTree.parse("animal -1\nthing -1\ncat 0\ndog 0\nbird 0\nPersian 2\nSiamese 2\ntabby 6\n")


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def batches() -> list[Tensor]:
    """uint8 [B, 3, height, width]: wide, two of them, and tall."""
    dog = read_image(DOG)[:, ::2, ::2]
    return [dog[None], torch.stack([dog, dog.flip(2)]), dog[None, :, :, :200]]


def assert_same_as(network: DetectionModel, path: Path, *thresholds: float) -> None:
    """Of every picture the same boxes, scores and labels in the same order."""
    onnx.checker.check_model(path, full_check=True)
    run = session(path).run
    for batch in batches():
        found = run(None, {"images": (batch.float() / 255).numpy()})
        with torch.inference_mode():
            expected = network(list(batch), score_threshold=thresholds[0], iou_threshold=thresholds[1])
        assert [len(boxes) for boxes in found[0]] == [found[1].shape[1]] * len(batch)
        for result, boxes, scores, labels, count in zip(expected, *found, strict=True):
            assert count == len(result["boxes"]) > 0
            np.testing.assert_allclose(scores[:count], result["scores"], rtol=0, atol=1e-4)
            np.testing.assert_array_equal(labels[:count], result["labels"])
            np.testing.assert_allclose(boxes[:count], result["boxes"], rtol=1e-4, atol=5e-2)
            assert not boxes[count:].any()
            assert not scores[count:].any()


def spread(network: Darknet) -> Darknet:
    """Numbers at random such that the objects of a picture have scores of their own"""
    g = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            fan_in = parameter[0].numel() if parameter.dim() != 3 else parameter.shape[2]
            parameter.data.normal_(0, (2 / fan_in) ** 0.5, generator=g)
        elif name.endswith("bias"):
            parameter.data.normal_(0, 0.1, generator=g)
    return network


def yolov1() -> Darknet:
    return Darknet([net((64, 64)), convolution(8, 3, 8), local(4, 3), dropout(".5"), *grid(20, 2, side=4)])


def yolov2(tree: WordTree | None = None) -> Darknet:
    sections = [net((64, 96)), convolution(8, 3, 4), convolution(8, 3, 8), *head(8, ((1, 1), (2, 1)), 1, ".2")]
    if tree is not None:
        sections[-1].options["tree"] = "its own"
    return Darknet(sections, tree=tree)


def retinanet() -> RetinaNet:
    network = small_retinanet()
    for subnet in (network.head.classification_head.cls_logits, network.head.regression_head.bbox_reg):
        subnet.weight /= 40  # without normalisation in the subnets most scores would be 1
    return network


def ssd() -> SSD:
    network = SSD(NAMES)
    for scores in network.head.classification_head.module_list:
        scores.weight.data /= 30  # most scores would be 1, and their order that of rounding
    return network


NETWORKS: dict[str, tuple[Any, tuple[float, float]]] = {
    "yolov1": (lambda: spread(yolov1()), (0.1, 0.4)),
    "yolov2": (lambda: spread(yolov2()), (0.1, 0.45)),
    "yolo9000": (lambda: spread(yolov2(TREE)), (0.3, 0.45)),
    "ssd300": (ssd, (0.35, 0.45)),
    "retinanet": (retinanet, (0.05, 0.5)),
    "retinanet-v2": (lambda: small_retinanet(2), (0.05, 0.5)),
}
SLOW = ("retinanet-v2", "yolov2")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in NETWORKS]
)
def test_same_detections(name: str, tmp_path: Path) -> None:
    make, thresholds = NETWORKS[name]
    torch.manual_seed(0)
    network = make().eval().requires_grad_(False).fuse()
    export_onnx(network, tmp_path / "a.onnx", *thresholds)
    assert_same_as(network, tmp_path / "a.onnx", *thresholds)


def test_the_official_yolov3_tiny_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tiny.onnx"
    assert main(["export", str(path), "--threshold", "0.1"]) == 0
    assert capsys.readouterr().out == f"{path}: {path.stat().st_size:,} bytes\n"
    network = models.load("yolov3-tiny")
    assert_same_as(network, path, 0.1, 0.45)
    model = onnx.load(path)
    assert {entry.domain for entry in model.opset_import} == {""}
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["names"]) == models.coco_names()
    shapes = {value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
              for value in (*model.graph.input, *model.graph.output)}  # fmt: skip
    batch = shapes["count"][0]
    assert shapes == {
        "images": [batch, 3, "height", "width"],
        "boxes": [batch, 300, 4],
        "scores": [batch, 300],
        "labels": [batch, 300],
        "count": [batch],
    }
    # What a machine without pydet does: the picture of the readme, its names from the file.
    run = session(path).run
    pixels = read_image(DOG)[None].numpy().astype(np.float32) / 255
    boxes, scores, labels, count = run(None, {"images": pixels})
    names = [json.loads(metadata["names"])[label] for label in labels[0, : count[0]]]
    detections = pydet.load("yolov3-tiny").detect(DOG, threshold=0.1)
    assert names == detections.names
    np.testing.assert_allclose(boxes[0, : count[0]].clip(0, [768, 576, 768, 576]), detections.boxes, atol=1e-2)
    np.testing.assert_allclose(scores[0, : count[0]], detections.scores, atol=1e-5)


SIZES = [(1, 1), (7, 500), (500, 7), (64, 96), (63, 97), (128, 192), (31, 50), (481, 640)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", [yolov1, yolov2, lambda: SSD(NAMES)])
def test_pictures_of_every_size_are_fitted_as_the_network_does(make: Any, size: tuple[int, int]) -> None:
    network = make().eval()
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    expected, placement = network.preprocess(list(images))
    if isinstance(network, Darknet):
        fitted = fit.letterboxed(images, network.image_size, network.stretches)
        assert torch.equal(fitted.x, expected)
    else:
        fitted = fit.normalized_square(images, network.size, (0.48235, 0.45882, 0.40784), (1 / 255,) * 3)
        torch.testing.assert_close(fitted.x, expected, rtol=0, atol=0.05)  # of -123..131
    torch.testing.assert_close(fitted.offset.expand(2, 2), placement.offset, rtol=0, atol=0)
    torch.testing.assert_close(fitted.scale.expand(2, 2), placement.scale.float())
    assert fitted.size.expand(2, 2).tolist() == placement.size.tolist()


@pytest.mark.parametrize("size", SIZES)
def test_pictures_of_every_size_are_fitted_as_retinanet_does(size: tuple[int, int]) -> None:
    from pydet.onnx import short_side

    network = small_retinanet()
    g = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 6, 8, generator=g)
    image = torch.nn.functional.interpolate(coarse, size, mode="bilinear")
    expected, placement = network.preprocess([image[0]])
    model = short_side.model(network.shortest, network.longest).SerializeToString()
    x, offset, scale, taken = session(model).run(None, {"images": image.numpy()})  # type: ignore[arg-type]
    assert x.shape == expected.shape
    np.testing.assert_allclose(x, expected, rtol=0, atol=5e-4)
    assert not offset.any()
    np.testing.assert_allclose(scale, placement.scale[0], rtol=1e-6)
    assert taken.tolist() == placement.size[0].tolist()


@pytest.mark.parametrize("rule", ["darknet", "absolute", "a map of classes"])
@pytest.mark.parametrize("tree", [TREE, WordTree.read("9k.tree")], ids=["small", "9k"])
def test_the_walk_down_a_tree_without_our_operators(tree: WordTree, rule: str) -> None:
    g = torch.Generator().manual_seed(0)
    objectness = torch.rand(1, 20, generator=g)
    logits = 4 * torch.randn(1, 20, len(tree), generator=g)
    options: dict[str, Any] = {"threshold": 0.2}
    options |= {"nodes": [len(tree) - 1, 0, 3]} if rule.startswith("a map") else {"rule": rule}
    ours, expected = (walk(**options).scores(objectness, logits, tree) for walk in (Walk, TreeWalk))
    assert (expected > 0).any(dim=2).all()
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("own_boxes", [False, True], ids=["shared boxes", "a box for each class"])
def test_ties_keep_their_order(own_boxes: bool, tmp_path: Path) -> None:
    """Scores of a few values, many boxes equal: the order is by score, then by row, then by class."""
    g = torch.Generator().manual_seed(0)
    corner = torch.randint(0, 6, (2, 40, *[3] * own_boxes, 2), generator=g).float()
    boxes = torch.cat([corner, corner + torch.randint(1, 4, corner.shape, generator=g)], dim=-1)
    scores = torch.randint(0, 5, (2, 40, 3), generator=g) / 4

    class Post(torch.nn.Module):
        def forward(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, ...]:
            return ops.multiclass_nms(boxes, scores, 0.25, 0.3, 30)

    from pydet.onnx.operators import DECOMPOSITIONS, TRANSLATIONS

    program = torch.export.export(Post(), (boxes, scores), strict=False).run_decompositions(DECOMPOSITIONS)
    names = ["boxes", "scores"]
    file = torch.onnx.export(
        program, input_names=names, custom_translation_table=TRANSLATIONS, dynamo=True, verbose=False
    )
    file.save(tmp_path / "a.onnx")
    found = session(tmp_path / "a.onnx").run(None, {"boxes": boxes.numpy(), "scores": scores.numpy()})
    expected = ops.multiclass_nms(boxes, scores, 0.25, 0.3, 30)
    assert expected[4].min() > 10
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_no_detector_asks_for_is_refused() -> None:
    boxes, scores = torch.zeros(1, 2, 4), torch.zeros(1, 2, 3)
    for options in ({"pre_nms_top_k": 5}, {"class_agnostic": True}, {"multi_label": False}):
        with pytest.raises(NotImplementedError, match=r"multiclass_nms: .* has no translation to ONNX"):
            multiclass_nms(boxes, scores, 0.1, 0.5, 10, **options)


def test_mistakes(tmp_path: Path) -> None:
    network = yolov2()
    with pytest.raises(RuntimeError, match=r"must be in evaluation mode; call \.eval\(\) first"):
        export_onnx(network, tmp_path / "a.onnx")
    with pytest.raises(ValueError, match=r"must be float32 on the CPU, got torch\.float16 on cpu"):
        export_onnx(network.eval().half(), tmp_path / "a.onnx")
    detector = pydet.load("yolov3-tiny")
    with pytest.raises(ValueError, match=r"threshold must be in 0\.\.1, got 25"):
        detector.export_onnx(tmp_path / "a.onnx", threshold=25)
    assert not list(tmp_path.iterdir())


def test_without_the_packages(tmp_path: Path) -> None:
    lines = [
        "import sys; sys.modules['onnx'] = None",
        "from pydet.cli import main",
        "sys.exit(main(['export', 'a.onnx']))",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("pydet: export_onnx: import of onnx halted")
    assert done.stderr.endswith("pip install 'pydet[onnx]'\n")
    assert not list(tmp_path.iterdir())
