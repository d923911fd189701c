"""SSD and RetinaNet beside torchvision's, with the same numbers at random, on real pictures. Needs torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import shared_path
from PIL import Image
from torch import Tensor, nn

from pydet import models
from pydet.models import DetectionModel

torchvision = pytest.importorskip("torchvision")
PICTURES = (Path(__file__).parent.parent / "pydet" / "assets" / "dog.jpg",)
# What torchvision calls ours.
THEIRS = {
    "ssd300": "ssd300_vgg16",
    "retinanet-resnet50": "retinanet_resnet50_fpn",
    "retinanet-resnet50-v2": "retinanet_resnet50_fpn_v2",
}
PARAMETERS = {"ssd300": 35_641_826, "retinanet-resnet50": 34_068_119, "retinanet-resnet50-v2": 38_198_935}


def pictures(count: int) -> list[Tensor]:
    folder = shared_path("data") / "coco160"
    paths = [*PICTURES, *sorted(folder.rglob("*.jpg"))[: count - 1]]
    return [torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1) for path in paths]


@torch.no_grad()
def their_network(name: str) -> nn.Module:
    """With numbers that make scores differ: as they are initialised, all scores are nearly equal."""
    torch.manual_seed(0)
    network = getattr(torchvision.models.detection, THEIRS[name])(weights=None, weights_backbone=None).eval()
    g = torch.Generator().manual_seed(1)
    for key, tensor in network.state_dict().items():
        if key.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=g) * 0.5 + 0.75)
        elif key.endswith("running_mean"):
            tensor.copy_(torch.randn(tensor.shape, generator=g) * 0.1)
    head = network.head.classification_head
    if name == "ssd300":
        for conv in head.module_list:
            conv.weight.mul_(0.2)
    else:
        head.cls_logits.weight.mul_(2.5 if name == "retinanet-resnet50" else 1.5)
        head.cls_logits.bias.fill_(-3.5)
        network.transform.min_size, network.transform.max_size = (320,), 500
    return network


def our_network(name: str, theirs: nn.Module) -> DetectionModel:
    network = models.MODELS[name].build()
    if name == "retinanet-resnet50":  # without pretrained weights torchvision does not freeze it
        network = models.RetinaNet(network.class_names, frozen=False)
    network.load_state_dict(theirs.state_dict())
    if name != "ssd300":
        network.shortest, network.longest = 320, 500
    return network.eval().requires_grad_(False)


def same_detections(ours: list[dict[str, Tensor]], theirs: list[dict[str, Tensor]]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert len(a["boxes"]) == len(b["boxes"]) >= 100
        assert torch.equal(a["labels"], b["labels"])
        torch.testing.assert_close(a["scores"], b["scores"], rtol=0, atol=1e-6)
        torch.testing.assert_close(a["boxes"], b["boxes"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", THEIRS)
@torch.inference_mode()
def test_same_detections(name: str) -> None:
    theirs = their_network(name)
    ours = our_network(name, theirs)
    assert sum(p.numel() for p in ours.parameters()) == PARAMETERS[name]
    images = pictures(3)
    score, iou = (0.01, 0.45) if name == "ssd300" else (0.05, 0.5)
    thresholds = {"score_threshold": score, "iou_threshold": iou}
    expected = theirs([image / 255 for image in images])
    same_detections(ours(images, **thresholds), expected)
    # Folded and channels last, scores differ by rounding, and with them the order of what is nearly equal.
    for a, b in zip(ours.fuse()(images, **thresholds), expected, strict=True):
        torch.testing.assert_close(a["scores"], b["scores"], rtol=0, atol=2e-2)


@pytest.mark.parametrize("name", THEIRS)
def test_same_anchors(name: str) -> None:
    """To the last bit, on a picture that is padded."""
    with torch.inference_mode():
        theirs = their_network(name)
        x = theirs.transform([torch.rand(3, 427, 640)])[0]
        expected = theirs.anchor_generator(x, list(theirs.backbone(x.tensors).values()))[0]
        network: Any = our_network(name, theirs)
        ours = network.boxes if name == "ssd300" else torch.cat(network.forward_heads(x.tensors)[2])
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("name", THEIRS)
def test_checkpoints_load_by_name(name: str, tmp_path: Path) -> None:
    theirs = their_network(name)
    torch.save(theirs.state_dict(), tmp_path / "model.pth")
    ours = models.load(name, weights=tmp_path / "model.pth", fuse=False)
    for key, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[key]), key
    models.save_checkpoint(ours, tmp_path / "model.safetensors")
    again = models.load(weights=tmp_path / "model.safetensors", fuse=False)
    assert again.name == name
    for key, tensor in ours.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key
