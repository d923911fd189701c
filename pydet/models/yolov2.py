"""YOLOv2 and YOLO9000 (Redmon and Farhadi 2017): Darknet-19, five anchors or three, one head."""

from __future__ import annotations

from collections.abc import Sequence

from pydet.models.darknet.cfg import Section
from pydet.models.darknet.sections import convolution, joined, maxpool, net, reorg, route, section

Anchors = Sequence[tuple[float, float]]  # width and height in cells of 32 pixels: section 2, dimension clusters

COCO_ANCHORS: Anchors = (
    (0.57273, 0.677385),
    (1.87446, 2.06253),
    (3.33843, 5.47434),
    (7.88282, 3.52778),
    (9.77052, 9.16828),
)
VOC_ANCHORS: Anchors = (
    (1.3221, 1.73145),
    (3.19275, 4.00944),
    (5.05587, 8.09892),
    (9.47112, 4.84053),
    (11.2364, 10.0071),
)
TINY_VOC_ANCHORS: Anchors = ((1.08, 1.19), (3.42, 4.41), (6.63, 11.38), (9.42, 5.11), (16.62, 10.52))
YOLO9000_ANCHORS: Anchors = ((0.77871, 1.14074), (3.00525, 4.31277), (9.22725, 9.61974))


def yolov2(
    num_classes: int = 80,
    anchors: Anchors = COCO_ANCHORS,
    image_size: tuple[int, int] = (608, 608),
) -> list[Section]:
    """Darknet-19 with the passthrough of the finer map, stride 32."""
    layers, stage16 = darknet19()
    layers += [convolution(1024, 3), convolution(1024, 3)]
    # Fine-grained features: the 26 x 26 map, four pixels of which become channels of one.
    layers += [route(stage16 - len(layers)), convolution(64, 1), reorg(2), route(-1, -4)]
    layers += [convolution(1024, 3), *head(num_classes, anchors, rescore=1, jitter=".3")]
    return [net(image_size), *layers]


def yolov2_voc(
    num_classes: int = 20, anchors: Anchors = VOC_ANCHORS, image_size: tuple[int, int] = (416, 416)
) -> list[Section]:
    """`yolov2` for Pascal VOC."""
    return yolov2(num_classes, anchors, image_size)


def yolov2_tiny(
    num_classes: int = 80,
    anchors: Anchors = COCO_ANCHORS,
    image_size: tuple[int, int] = (416, 416),
    last: int = 512,
    rescore: int = 0,
) -> list[Section]:
    """Eight convolutions and max pools.

    Args:
        last: filters of the last 3x3 convolution.
    """
    layers: list[Section] = []
    for filters in (16, 32, 64, 128, 256):
        layers += [convolution(filters, 3), maxpool(2, stride=2)]
    layers += [convolution(512, 3), maxpool(2, stride=1), convolution(1024, 3), convolution(last, 3)]
    return [net(image_size), *layers, *head(num_classes, anchors, rescore, jitter=".2")]


def yolov2_tiny_voc(
    num_classes: int = 20, anchors: Anchors = TINY_VOC_ANCHORS, image_size: tuple[int, int] = (416, 416)
) -> list[Section]:
    """`yolov2_tiny` for Pascal VOC."""
    return yolov2_tiny(num_classes, anchors, image_size, last=1024, rescore=1)


NODES_OF_9K = 9418


def yolo9000(
    num_classes: int = NODES_OF_9K,
    anchors: Anchors = YOLO9000_ANCHORS,
    image_size: tuple[int, int] = (544, 544),
    tree: str = "9k.tree",
) -> list[Section]:
    """Section 4: Darknet-19 with three anchors, whose classes are the nodes of a WordTree."""
    layers, _ = darknet19()
    region = head(num_classes, anchors, rescore=1, jitter=".2")
    region[-1].options["tree"] = tree
    if num_classes == NODES_OF_9K:  # the map says which node each of COCO's classes is
        region[-1].options["map"] = "coco9k.map"
    return [net(image_size), *layers, *region]


def darknet19() -> tuple[list[Section], int]:
    """The backbone (table 6) without its classifier, and the index of its last layer of stride 16."""
    layers = [convolution(32, 3), maxpool(2, stride=2), convolution(64, 3), maxpool(2, stride=2)]
    stage16 = 0
    for filters, times in ((128, 1), (256, 1), (512, 2), (1024, 2)):
        wide, narrow = convolution(filters, 3), convolution(filters // 2, 1)
        layers += [wide, *times * [narrow, wide]]
        if filters < 1024:
            stage16 = len(layers) - 1
            layers += [maxpool(2, stride=2)]
    return layers, stage16


def head(num_classes: int, anchors: Anchors, rescore: int, jitter: str) -> list[Section]:
    """The 1x1 convolution that predicts, and the layer that makes boxes of it, with its training settings."""
    filters = len(anchors) * (5 + num_classes)
    shape = {"classes": num_classes, "coords": 4, "num": len(anchors), "softmax": 1}
    training = {"bias_match": 1, "jitter": jitter, "rescore": rescore, "object_scale": 5, "noobject_scale": 1}
    training |= {"class_scale": 1, "coord_scale": 1, "absolute": 1, "thresh": ".6", "random": 1}
    return [
        convolution(filters, 1, activation="linear", batch_normalize=False),
        section("region", anchors=joined(number for anchor in anchors for number in anchor), **shape, **training),
    ]
