"""YOLOv3 (Redmon & Farhadi 2018), YOLOv3-tiny and YOLOv3-SPP as the author published them.

A definition gives the sections of a Darknet cfg, so that what is written here, what a `.cfg` file says and what a
checkpoint carries is the same thing; `Darknet(yolov3())` makes it a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from pydet.models.darknet.cfg import Section
from pydet.models.darknet.sections import convolution, joined, maxpool, net, route, section, shortcut, upsample

Anchors: TypeAlias = Sequence[tuple[float, float]]  # width and height in pixels of the network's input
Masks: TypeAlias = Sequence[Sequence[int]]  # for each head, coarse to fine, the indices of its anchors

ANCHORS: Anchors = ((10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326))
MASKS: Masks = ((6, 7, 8), (3, 4, 5), (0, 1, 2))
TINY_ANCHORS: Anchors = ((10, 14), (23, 27), (37, 58), (81, 82), (135, 169), (344, 319))
# The fine head of the published weights was trained with anchors 1, 2, 3, whatever some copies of the cfg say.
TINY_MASKS: Masks = ((3, 4, 5), (1, 2, 3))


def yolov3(
    num_classes: int = 80,
    anchors: Anchors = ANCHORS,
    masks: Masks = MASKS,
    image_size: tuple[int, int] = (608, 608),
    spp: bool = False,
    focal: bool = False,
) -> list[Section]:
    """Darknet-53 and three heads, at strides 32, 16 and 8 (section 2.3).

    Args:
        image_size: (height, width) of the network's input, multiples of 32.
        spp: With spatial pyramid pooling before the first head.
        focal: Trained by focal loss, which did not help the paper (section 4): `focal_loss=1` in the cfg.
    """
    layers, stage_ends = darknet53()
    *_, stage8, stage16, _ = stage_ends
    layers += spp_neck() if spp else neck(512)
    layers += head(1024, num_classes, anchors, masks[0], focal)
    layers += finer(256, stage16) + neck(256) + head(512, num_classes, anchors, masks[1], focal)
    layers += finer(128, stage8) + neck(128) + head(256, num_classes, anchors, masks[2], focal)
    return [net(image_size), *layers]


def yolov3_spp(
    num_classes: int = 80,
    anchors: Anchors = ANCHORS,
    masks: Masks = MASKS,
    image_size: tuple[int, int] = (608, 608),
    focal: bool = False,
) -> list[Section]:
    """`yolov3` with spatial pyramid pooling."""
    return yolov3(num_classes, anchors, masks, image_size, spp=True, focal=focal)


def yolov3_tiny(
    num_classes: int = 80,
    anchors: Anchors = TINY_ANCHORS,
    masks: Masks = TINY_MASKS,
    image_size: tuple[int, int] = (416, 416),
    focal: bool = False,
) -> list[Section]:
    """Seven convolutions and max pools, and two heads, at strides 32 and 16."""
    layers: list[Section] = []
    for filters in (16, 32, 64, 128):
        layers += [convolution(filters, 3), maxpool(2, stride=2)]
    layers += [convolution(256, 3)]
    stage16 = len(layers) - 1
    layers += [maxpool(2, stride=2), convolution(512, 3), maxpool(2, stride=1), convolution(1024, 3)]
    layers += [convolution(256, 1), *head(512, num_classes, anchors, masks[0], focal)]
    layers += finer(128, stage16) + head(256, num_classes, anchors, masks[1], focal)
    return [net(image_size), *layers]


def darknet53() -> tuple[list[Section], list[int]]:
    """The backbone (table 1), and the index of the last layer of its stages, strides 2, 4, 8, 16, 32."""
    layers = [convolution(32, 3)]
    stage_ends = []
    for filters, blocks in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        layers += [convolution(filters, 3, stride=2)]
        for _ in range(blocks):
            layers += [convolution(filters // 2, 1), convolution(filters, 3), shortcut(-3)]
        stage_ends.append(len(layers) - 1)
    return layers, stage_ends


def neck(filters: int) -> list[Section]:
    """Five convolutions, 1x1 and 3x3 in turn."""
    narrow, wide = convolution(filters, 1), convolution(2 * filters, 3)
    return [narrow, wide, narrow, wide, narrow]


def spp_neck() -> list[Section]:
    """`neck(512)` with the maxima over 5x5, 9x9 and 13x13 pixels beside its third convolution."""
    convolutions = neck(512)
    pyramid = [maxpool(5), route(-2), maxpool(9), route(-4), maxpool(13), route(-1, -3, -5, -6)]
    return [*convolutions[:3], *pyramid, convolution(512, 1), *convolutions[3:]]


def finer(filters: int, stage: int) -> list[Section]:
    """From the neck of the head before: twice the size, joined with the backbone's stage of that size."""
    return [route(-4), convolution(filters, 1), upsample(2), route(-1, stage)]


def head(filters: int, num_classes: int, anchors: Anchors, mask: Sequence[int], focal: bool) -> list[Section]:
    """3x3 convolution, the 1x1 convolution that predicts, and the layer that makes boxes of it."""
    prediction = convolution(len(mask) * (5 + num_classes), 1, activation="linear", batch_normalize=False)
    return [convolution(filters, 3), prediction, yolo(num_classes, anchors, mask, focal)]


def yolo(num_classes: int, anchors: Anchors, mask: Sequence[int], focal: bool) -> Section:
    """The detection layer, with the training settings of the published networks."""
    sizes = joined(number for anchor in anchors for number in anchor)
    training = {"jitter": ".3", "ignore_thresh": ".7", "truth_thresh": 1, "random": 1}
    training |= {"focal_loss": 1} if focal else {}
    return section("yolo", mask=joined(mask), anchors=sizes, classes=num_classes, num=len(anchors), **training)
