"""From what the data gives to what a network is trained with: augmentation, sizes, batches in parts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pydet.data import Batch, Dataset, augmentation_of
from pydet.data.augment import Augmentation, Flip, MultiScale, Sample, Size, chance
from pydet.data.augment_darknet import ColourJitter, DarknetCrop, DarknetPlace
from pydet.letterbox import letterbox, placement, stretch
from pydet.losses import Targets
from pydet.models import Darknet, DetectionModel, RetinaNet
from pydet.training.settings import Settings, SettingsError

STRIDE = 32  # all sizes are multiples of it
_SAME_COLOURS = ColourJitter(0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Fit:
    """No chance at all: the picture as detection sees it."""

    stretched: bool

    def __call__(self, sample: Sample, size: Size, random: np.random.Generator) -> Sample:
        image = (stretch if self.stretched else letterbox)(sample.image, size)
        where = placement([sample.size], size, self.stretched)
        boxes = where.to_batch(sample.boxes, torch.zeros(len(sample.boxes), dtype=torch.int64))
        return Sample(image, boxes, sample.labels)


@dataclass(frozen=True)
class UpsideDown:
    """Another augmentation, and half of the time top and bottom are exchanged after it."""

    first: Augmentation | None

    def __call__(self, sample: Sample, size: Size, random: np.random.Generator) -> Sample:
        if self.first is not None:
            sample = self.first(sample, size, random)
        if not chance(random, 0.5):
            return sample
        x1, y1, x2, y2 = sample.boxes.unbind(1)
        height = sample.size[0]
        return dataclasses.replace(
            sample, image=sample.image.flip(1), boxes=torch.stack([x1, height - y2, x2, height - y1], dim=1)
        )


def augmentation(settings: Settings, network: DetectionModel) -> Augmentation | None:
    """What happens to a picture before the network sees it."""
    chosen = _augmentation(settings, network)
    return UpsideDown(chosen) if settings.vertical_flip else chosen


def _augmentation(settings: Settings, network: DetectionModel) -> Augmentation | None:
    kind = settings.augmentation
    if kind == "paper":
        return _of_cfg(network) if settings.cfg and isinstance(network, Darknet) else augmentation_of(settings.model)
    if not isinstance(network, Darknet):
        if kind == "mild":
            raise SettingsError(f"train: augmentation mild is for YOLO; {settings.model} has paper, flip and none")
        return Flip() if kind == "flip" else None
    if kind == "none":
        return Fit(network.stretches)
    if network.stretches:
        return DarknetCrop(0.0, _SAME_COLOURS) if kind == "flip" else DarknetCrop(0.1, ColourJitter(0.0, 1.3, 1.3))
    if kind == "flip":
        return DarknetPlace(0.0, (1.0, 1.0), _SAME_COLOURS)
    return DarknetPlace(0.04, (0.8, 1.25), ColourJitter(0.0, 1.3, 1.3))


def _of_cfg(network: Darknet) -> Augmentation:
    """What a cfg of one's own says, done as by the detector's release; what it leaves out is as in Darknet."""
    net, head = network.sections[0], network.heads[-1].section  # Darknet looks at the last layer
    jitter, hue = head.number("jitter", 0.2), net.number("hue", 0)
    saturation, exposure = net.number("saturation", 1), net.number("exposure", 1)
    for section, key, value, fine in (
        (head, "jitter", jitter, 0 <= jitter < 1),
        (net, "hue", hue, 0 <= hue <= 1),
        (net, "saturation", saturation, 0 < saturation < 1000),
        (net, "exposure", exposure, 0 < exposure < 1000),
    ):
        if not fine:
            raise section.error(f"{key}={value:g} cannot be used in training")
    colours = ColourJitter(hue, saturation, exposure)
    return DarknetPlace(jitter, (0.25, 2.0), colours) if head.name == "yolo" else DarknetCrop(jitter, colours)


def input_size(settings: Settings, network_size: Size, resizable: bool, sizes: Tensor) -> Size:
    """(height, width) of the network's input.

    Args:
        settings: of the training.
        network_size: what the detector was published with.
        resizable: whether the network takes other sizes.
        sizes: [N, 2] height, width of the pictures.
    """
    longest = settings.size or max(network_size)
    if not resizable:
        if settings.size not in (0, *network_size):
            side = " or ".join(map(str, sorted(set(network_size))))
            raise SettingsError(f"train: {settings.model} works at {side} pixels only, got size {settings.size}")
        return network_size
    if longest % STRIDE and (settings.size or settings.multi_scale or not settings.square):
        raise SettingsError(f"train: size must be a multiple of {STRIDE}, got {longest}")
    if settings.square:
        return (longest, longest) if settings.size else network_size
    # As wide as it takes for most of the pictures: what is beside them costs time and shows nothing.
    aspect = float((sizes[:, 0] / sizes[:, 1]).median())
    height, width = (longest * aspect, longest) if aspect < 1 else (longest, longest / aspect)
    return math.ceil(height / STRIDE - 1e-6) * STRIDE, math.ceil(width / STRIDE - 1e-6) * STRIDE


def changing_size(settings: Settings, size: Size, updates: int) -> Size | MultiScale:
    """The sizes of the batches: one, or YOLOv2's 320 ... 608 for a network of 416 pixels."""
    if not settings.multi_scale:
        return size
    cells = max(size) / STRIDE
    sides = range(math.ceil(cells * 10 / 13), math.floor(cells * 19 / 13) + 1)
    return MultiScale(tuple(STRIDE * side for side in sides), settle=min(200, updates // 10))


def parts(batch: Batch, count: int) -> Iterator[Batch]:
    """A batch in as many parts, or one a picture where there are fewer."""
    each = math.ceil(len(batch.images) / count)
    boxes, labels, counts, image_labels = batch.targets
    ends = [0, *counts.cumsum(0).tolist()]
    for start in range(0, len(batch.images), each):
        end = min(start + each, len(batch.images))
        objects = slice(ends[start], ends[end])
        labelled = None if image_labels is None else image_labels[start:end]
        targets = Targets(boxes[objects], labels[objects], counts[start:end], labelled)
        yield Batch(batch.images[start:end], targets, batch.indices[start:end])


def network_batch(
    network: DetectionModel, batch: Batch, device: torch.device, least: Size = (0, 0)
) -> tuple[Tensor, Targets]:
    """[B, 3, height, width] as the network's `preprocess` makes it, and the objects in its pixels; `least` is
    RetinaNet's."""
    targets = batch.targets
    if isinstance(network, Darknet):  # the augmentation has made it; and what size it has changes
        return network.batch_of(batch.images), targets.to(device)
    if isinstance(network, RetinaNet):
        x, where = network.preprocess(batch.images, least)
    else:
        x, where = network.preprocess(batch.images)
    boxes = where.to_batch(targets.boxes, torch.repeat_interleave(targets.counts))
    return x, targets._replace(boxes=boxes).to(device)


def fingerprint(dataset: Dataset) -> str:
    """Tells whether a data set is the same: its pictures' names, its objects and classes. Where it lies may change."""
    import hashlib

    digest = hashlib.sha256()
    names = "\0".join(path.replace("\\", "/").rpartition("/")[2] for path in dataset.paths)
    digest.update("\0\0".join([names, "\0".join(dataset.class_names)]).encode(errors="surrogateescape"))
    for tensor in (dataset.sizes, dataset.counts, dataset.boxes, dataset.labels, dataset.image_labels):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
