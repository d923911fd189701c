"""A picture put into a network's input: scaled, normalised and laid out, beside libraries that do it step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peers import peer
from torch import Tensor
from torch.nn import functional as F

from pydet import reference
from pydet.image import read_image
from pydet.letterbox import letterbox, resize_taps
from pydet.models.registry import ASSETS
from pydet.models.retinanet import MEAN, STD
from pydet.preprocess import short_side


def new_batch(count: int, channels: int, size: tuple[int, int]) -> Tensor:
    """As a network on the CPU takes it."""
    return torch.empty((count, channels, *size), memory_format=torch.channels_last)


@pytest.mark.long
def test_resample_short_side(race: Callable[..., Any]) -> None:
    """RetinaNet's input, of a picture of 768 x 576."""
    picture = read_image(ASSETS / "dog.jpg")

    def plain() -> Tensor:
        unit = (picture / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        scaled = F.interpolate(unit[None], (800, 1066), mode="bilinear")
        return F.pad(scaled, (0, 22)).contiguous(memory_format=torch.channels_last)

    contenders = {"pydet": lambda: short_side([picture], 800, 1333, MEAN, STD, new_batch)[0], "reference": plain}
    if torchvision := peer("torchvision"):
        transform = torchvision.models.detection.transform.GeneralizedRCNNTransform(800, 1333, MEAN, STD)
        contenders["torchvision"] = lambda: transform([picture / 255])[0].tensors
    race(contenders, near)


def test_resample_letterbox(race: Callable[..., Any]) -> None:
    """YOLOv3's input, of the same picture."""
    picture, side = read_image(ASSETS / "dog.jpg"), 416
    scaled = (312, 416)

    def plain() -> Tensor:
        taps = [tensor for axis in resize_taps((576, 768), scaled) for tensor in axis.to(picture.device)]
        batch = new_batch(1, 3, (side, side)).fill_(0.5)
        batch[0, :, 52:364] = reference.resample(picture, *taps)
        return batch

    def ours() -> Tensor:
        batch = new_batch(1, 3, (side, side))
        letterbox(picture, (side, side), batch[0])
        return batch

    race({"pydet": ours, "reference": plain}, near)


def near(theirs: Tensor, ours: Tensor) -> bool:
    return torch.allclose(theirs, ours, rtol=0, atol=1e-5)
