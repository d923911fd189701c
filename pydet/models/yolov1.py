"""YOLO (Redmon et al. 2016): the network of the paper, and the two whose weights the author published."""

from __future__ import annotations

from pydet.models.darknet.cfg import Section
from pydet.models.darknet.sections import connected, convolution, dropout, local, maxpool, net, section


def yolov1(num_classes: int = 20, image_size: tuple[int, int] = (448, 448)) -> list[Section]:
    """24 convolutions (figure 3), then a locally connected layer and 7 x 7 cells with three boxes each."""
    return [
        net(image_size),
        *convolutions(batch_normalize=True),
        local(256, 3),
        dropout(".5"),
        *grid(num_classes, boxes=3),
    ]


def yolov1_paper(num_classes: int = 20, image_size: tuple[int, int] = (448, 448)) -> list[Section]:
    """As section 2.1 and figure 3 have it: no batch normalisation, 4,096 hidden units, two boxes in a cell."""
    layers = [*convolutions(batch_normalize=False), connected(4096, "leaky"), dropout(".5")]
    return [net(image_size), *layers, *grid(num_classes, boxes=2)]


def yolov1_tiny(num_classes: int = 20, image_size: tuple[int, int] = (448, 448)) -> list[Section]:
    """Nine convolutions in the manner of Fast YOLO, two boxes in a cell."""
    layers: list[Section] = []
    for filters in (16, 32, 64, 128, 256, 512):
        layers += [convolution(filters, 3), maxpool(2, stride=2)]
    layers += [convolution(1024, 3), convolution(256, 3)]
    return [net(image_size), *layers, *grid(num_classes, boxes=2)]


def convolutions(batch_normalize: bool) -> list[Section]:
    """Figure 3, from left to right."""

    def conv(filters: int, size: int, stride: int = 1) -> Section:
        return convolution(filters, size, stride, batch_normalize=batch_normalize)

    halve = maxpool(2, stride=2)
    return [
        *[conv(64, 7, 2), halve],
        *[conv(192, 3), halve],
        *[conv(128, 1), conv(256, 3), conv(256, 1), conv(512, 3), halve],
        *4 * [conv(256, 1), conv(512, 3)],
        *[conv(512, 1), conv(1024, 3), halve],
        *2 * [conv(512, 1), conv(1024, 3)],
        *[conv(1024, 3), conv(1024, 3, 2), conv(1024, 3), conv(1024, 3)],
    ]


def grid(num_classes: int, boxes: int, side: int = 7) -> list[Section]:
    """Section 2: S x S cells, B boxes of x, y, sqrt(w), sqrt(h) and a confidence in each, and C class probabilities."""
    training = {"jitter": ".2", "object_scale": 1, "noobject_scale": ".5", "class_scale": 1, "coord_scale": 5}
    detection = {"classes": num_classes, "coords": 4, "rescore": 1, "side": side, "num": boxes, "softmax": 0, "sqrt": 1}
    return [
        connected(side * side * (num_classes + 5 * boxes), "linear"),
        section("detection", **detection, **training),
    ]
