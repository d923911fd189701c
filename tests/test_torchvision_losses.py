"""Losses and gradients of SSD and RetinaNet beside torchvision's: same numbers, pictures, targets. Needs it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from test_torchvision_models import THEIRS, our_network, pictures, their_network
from torch import Tensor

from pydet.losses import Targets, retinanet_loss, ssd_loss

torchvision = pytest.importorskip("torchvision")


def objects(images: list[Tensor]) -> list[dict[str, Tensor]]:
    """Several of any size in each picture, two of them nearly the same, and none in the last one."""
    g = torch.Generator().manual_seed(3)
    targets = []
    for image in images:
        height, width = image.shape[1:]
        count = 0 if image is images[-1] else 9
        size = torch.tensor([width, height]) * (0.03 + 0.6 * torch.rand(count, 2, generator=g) ** 2)
        corner = (torch.tensor([width, height]) - size) * torch.rand(count, 2, generator=g)
        boxes = torch.cat([corner, corner + size], dim=1)
        boxes[1:2] = boxes[:1] + 0.5
        targets.append({"boxes": boxes, "labels": torch.randint(1, 91, (count,), generator=g)})
    return targets


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor], rtol: float = 1e-6) -> None:
    assert ours.keys() == theirs.keys()
    for name, term in ours.items():
        assert term > 0
        torch.testing.assert_close(term, theirs[name], rtol=rtol, atol=0, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("name", THEIRS)
def test_same_losses_of_pictures(name: str) -> None:
    """From pictures of different sizes to the gradients of all weights."""
    theirs = their_network(name)
    ours: Any = our_network(name, theirs).train().requires_grad_(True)
    images = [image[:, ::2, ::2] / 255 for image in pictures(2)]  # a training step takes its time
    if name != "ssd300":
        theirs.transform.min_size, theirs.transform.max_size = (160,), 250
        ours.shortest, ours.longest = 160, 250
    targets = objects(images)
    expected = theirs.train()(images, [dict(target) for target in targets])
    found = ours(images, targets)
    same(found, expected)
    sum(expected.values()).backward()
    sum(found.values()).backward()
    gradients = dict(theirs.named_parameters())
    for key, parameter in ours.named_parameters():
        wanted = gradients[key].grad
        atol = 2e-5 * float(wanted.abs().max()) + 1e-9
        torch.testing.assert_close(parameter.grad, wanted, rtol=0, atol=atol, msg=lambda m, key=key: f"{key}: {m}")


def random_outputs(anchors: int, classes: int, batch: int, seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, anchors, classes, generator=g) - 2
    return logits.requires_grad_(), (0.5 * torch.randn(batch, anchors, 4, generator=g)).requires_grad_()


def gradients_of(terms: dict[str, Tensor], inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(sum(terms.values()), inputs)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", THEIRS)
def test_same_losses_of_outputs(name: str, seed: int) -> None:
    """Of the heads alone, where the logits are anything: which negatives SSD mines depends on them."""
    theirs = their_network(name)
    images = [torch.zeros(3, 300, 300)] * 3
    targets = objects([*images[:2], torch.zeros(3, 280, 300)])
    kind = "ssd" if name == "ssd300" else "retinanet"
    with torch.no_grad():
        if kind == "ssd":
            maps = [torch.zeros(3, 1, side, side) for side in (38, 19, 10, 5, 3, 1)]
        else:
            maps = [torch.zeros(3, 1, side, side) for side in (38, 19, 10, 5, 3)]
        batch = torchvision.models.detection.image_list.ImageList(torch.stack(images), [(300, 300)] * 3)
        anchors = theirs.anchor_generator(batch, maps)
    logits, codes = random_outputs(len(anchors[0]), 91, 3, seed)
    outputs = OrderedDict(cls_logits=logits, bbox_regression=codes)
    matches = [their_matches(theirs, a, target["boxes"]) for a, target in zip(anchors, targets, strict=True)]
    if kind == "ssd":
        expected = theirs.compute_loss(targets, outputs, anchors, matches)
        found = ssd_loss(logits, codes, anchors[0], Targets.of(targets, 91), [10.0, 10.0, 5.0, 5.0])
    else:
        expected = theirs.head.compute_loss(targets, outputs, anchors, matches)
        box_loss = "giou" if name.endswith("v2") else "l1"
        found = retinanet_loss(logits, codes, anchors[0], Targets.of(targets, 91), [1.0] * 4, box_loss)
    same(found, expected)
    for ours, wanted in zip(gradients_of(found, (logits, codes)), gradients_of(expected, (logits, codes)), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-6 * float(wanted.abs().max()))


def their_matches(network: Any, anchors: Tensor, boxes: Tensor) -> Tensor:
    if not len(boxes):
        return torch.full((len(anchors),), -1)
    return network.proposal_matcher(torchvision.ops.box_iou(boxes, anchors))


def test_smooth_l1_is_theirs() -> None:
    theirs = their_network("retinanet-resnet50")
    theirs.head.regression_head._loss_type = "smooth_l1"
    targets = objects([torch.zeros(3, 300, 300), torch.zeros(3, 300, 300)])
    anchors = torch.rand(500, 2) * 250
    anchors = torch.cat([anchors, anchors + 20 + 100 * torch.rand(500, 2)], dim=1)
    logits, codes = random_outputs(500, 91, 2, 0)
    matches = [their_matches(theirs, anchors, target["boxes"]) for target in targets]
    outputs = OrderedDict(cls_logits=logits, bbox_regression=codes)
    expected = theirs.head.compute_loss(targets, outputs, [anchors] * 2, matches)
    same(retinanet_loss(logits, codes, anchors, Targets.of(targets, 91), [1.0] * 4, "smooth_l1"), expected)
