"""What all detectors have in common: pictures with a gradient, what is no picture, networks that cannot be trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pydet.models import SSD, Darknet, DetectionModel, RetinaNet
from pydet.models.darknet.sections import connected, convolution, net
from pydet.models.yolov1 import grid
from pydet.models.yolov2 import head

NAMES = ["background", "a", "b"]
TARGETS = [{"boxes": torch.tensor([[2.0, 3, 20, 25]]), "labels": torch.tensor([1])}] * 2


def yolov1() -> DetectionModel:
    return Darknet([net((64, 64)), convolution(8, 3, 8), connected(8, "leaky"), *grid(3, 2, side=4)])


def yolov2() -> DetectionModel:
    return Darknet([net((64, 96)), convolution(8, 3, 8), convolution(8, 3, 4), *head(3, ((1, 1), (2, 1)), 1, ".2")])


def retinanet() -> DetectionModel:
    return RetinaNet(NAMES, width=4, shortest=64, longest=96)


NETWORKS = {
    "letterbox": yolov2,
    "Darknet's stretch": yolov1,
    "stretch": lambda: SSD(NAMES, width=2),
    "short": retinanet,
}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_pictures_have_a_gradient(make: Any) -> None:
    """It is the slope of what is done to them, which is linear, and reaches them through the whole network."""
    network = make().requires_grad_(False)
    g = torch.Generator().manual_seed(0)
    image, other = torch.rand(3, 30, 40, generator=g), torch.rand(3, 50, 20, generator=g)
    image.requires_grad_()
    batch, _ = network.preprocess([image, other])
    direction = torch.randn(batch.shape, generator=g)
    (slope,) = torch.autograd.grad((batch * direction).sum(), image)
    step = torch.randn(image.shape, generator=g)
    moved, _ = network.preprocess([(image + step).detach(), other])
    torch.testing.assert_close((slope * step).sum(), ((moved - batch) * direction).sum(), rtol=1e-3, atol=1e-2)
    sum(network.train()([image, other], TARGETS).values()).backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_what_is_no_picture(make: Any) -> None:
    network = make().eval()
    with pytest.raises(TypeError, match="images must be tensors, got ndarray"):
        network([torch.zeros(3, 8, 8), np.zeros((3, 8, 8))])
    with pytest.raises(TypeError, match="images must be tensors, got str"):
        network(["dog.jpg"])


def test_a_network_of_one_channel_sees_colours_as_grey() -> None:
    """As Pillow makes them grey, less its rounding to whole levels; in training too, and for a batch of both kinds."""
    torch.manual_seed(0)
    sections = yolov2().sections
    sections[0].options["channels"] = "1"
    network = Darknet(sections).eval()
    colours = torch.randint(0, 256, (3, 50, 60), dtype=torch.uint8)
    grey = torch.from_numpy(np.array(Image.fromarray(colours.permute(1, 2, 0).numpy()).convert("L")))[None]
    with torch.no_grad():
        ours, expected, both = (
            network.forward_heads(network.preprocess(images)[0])[0] for images in ([colours], [grey], [colours, grey])
        )
        torch.testing.assert_close(ours, expected, rtol=0, atol=2e-3)
        torch.testing.assert_close(both, torch.cat([ours, expected]), rtol=0, atol=1e-5)
        red = network.forward_heads(network.preprocess([colours[:1]])[0])[0]
    assert (red - expected).abs().max() > 0.02
    first, second = network([colours, grey], score_threshold=0.0)
    assert len(first["boxes"]) == len(second["boxes"]) > 0
    assert sum(network.train()([colours] * 2, TARGETS).values()).isfinite()
    with pytest.raises(ValueError, match=r"images must be \[1, height, width\], got \[2, 8, 8\]"):
        network.eval()([torch.zeros(2, 8, 8)])
    with pytest.raises(ValueError, match=r"images must be \[3, height, width\], got \[1, 8, 8\]"):
        yolov2().eval()([torch.zeros(1, 8, 8)])


@pytest.mark.parametrize("make", [yolov2, retinanet])
def test_a_fused_network_is_not_trained(make: Any) -> None:
    network = make().eval().fuse().train()
    with pytest.raises(ValueError, match="a fused network cannot be trained, its batch normalisation has been folded"):
        network([torch.rand(3, 30, 40)] * 2, TARGETS)


def test_boxes_of_a_batch_of_another_size_are_in_its_pixels() -> None:
    torch.manual_seed(0)
    network = yolov2().eval().requires_grad_(False)
    assert isinstance(network, Darknet)
    smaller = Darknet(network.sections, (32, 64)).eval().requires_grad_(False)
    smaller.load_state_dict(network.state_dict())
    x, sizes = torch.rand(2, 3, 32, 64), torch.tensor([[32, 64]] * 2)
    for ours, expected in zip(network.predict(x, sizes), smaller.predict(x, sizes), strict=True):
        torch.testing.assert_close(ours, expected)
