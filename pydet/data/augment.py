"""What all augmentations share: a picture with its boxes, drawing from one seed, flips, changes of colour."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

Size = tuple[int, int]  # height, width


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture and its objects, on their way into a batch.

    Attributes:
        image: [3, height, width] RGB, uint8 as it was read, or float32 in 0..1.
        boxes: float32 [G, 4] xyxy in pixels of the image.
        labels: int64 [G].
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor

    @property
    def size(self) -> Size:
        """(height, width) of the image."""
        return self.image.shape[1], self.image.shape[2]


class Augmentation(Protocol):
    """Changes a sample at random.

    Each is a frozen dataclass of settings with two more methods: `draw` takes all that is random from the generator,
    and `apply`, which is a pure function, does it. So what was drawn can be recorded, and done again.
    """

    def __call__(self, sample: Sample, size: Size, random: np.random.Generator) -> Sample:
        """A changed sample.

        Args:
            sample: As it was read; it is left as it is.
            size: (height, width) that the picture shall have.
            random: The only source of chance.
        """
        ...


@dataclass(frozen=True)
class Flip:
    """RetinaNet's only augmentation: left and right are exchanged half of the time. The picture keeps its size."""

    def __call__(self, sample: Sample, size: Size, random: np.random.Generator) -> Sample:
        return self.apply(sample, self.draw(random))

    def draw(self, random: np.random.Generator) -> bool:
        return chance(random, 0.5)

    def apply(self, sample: Sample, drawn: bool) -> Sample:
        return flipped(sample) if drawn else sample


@dataclass(frozen=True)
class MultiScale:
    """YOLOv2's multi-scale training (section 2): every few batches another size of the network's input.

    Attributes:
        sizes: Sides of squares in pixels, among which one is drawn.
        every: Batches between two drawings.
        settle: Batches at the end with the largest size, as Darknet does.
    """

    sizes: tuple[int, ...] = tuple(range(320, 609, 32))
    every: int = 10
    settle: int = 200

    def size(self, update: int, updates: int, seed: int) -> Size:
        """(height, width) for number `update` of 0..updates - 1: a pure function, so that training can resume."""
        # Darknet draws at every tenth batch only, so the last 200 may begin up to ten batches late
        drawn = update - update % self.every
        if drawn + self.settle > updates:
            return (max(self.sizes),) * 2
        return (int(generator(_SIZES, seed, drawn).choice(self.sizes)),) * 2


# Numbers after one seed must differ by more than a zero at the end: numpy fills up with zeros.
_SIZES, ORDER, SAMPLES = 1, 2, 3


def generator(purpose: int, seed: int, *place: int) -> np.random.Generator:
    """Random numbers for one purpose and place, such as (epoch, index): independent of others, the same anywhere."""
    return np.random.default_rng([purpose, seed, *place])


def chance(random: np.random.Generator, probability: float) -> bool:
    return bool(random.random() < probability)


def flipped(sample: Sample) -> Sample:
    """Left and right exchanged."""
    x1, y1, x2, y2 = sample.boxes.unbind(1)
    width = sample.size[1]
    return replace(sample, image=sample.image.flip(2), boxes=torch.stack([width - x2, y1, width - x1, y2], dim=1))


def cut_to_picture(sample: Sample, smallest: float = 0.0) -> Sample:
    """The boxes cut at the edges of the picture; gone where no more than `smallest` of its width or height is left."""
    height, width = sample.size
    limits = sample.boxes.new_tensor([width, height, width, height])
    boxes = sample.boxes.clamp(min=0).minimum(limits)
    sides = (boxes[:, 2:] - boxes[:, :2]) / limits[:2]
    kept = (sides > 0).all(1) & (sides >= smallest).all(1)
    return replace(sample, boxes=boxes[kept], labels=sample.labels[kept])


def unit(image: Tensor) -> Tensor:
    """Pixels as float32 in 0..1."""
    return image.float().div_(255) if image.dtype == torch.uint8 else image


def with_colours(image: Tensor, hue: float, saturation: float, value: float = 1.0) -> Tensor:
    """A picture [3, H, W] in 0..1 with other colours: turned, and scaled, in HSV. Not cut to 0..1.

    Darknet's, where nothing is turned, makes a pixel magenta now and then: a red whose hue is so little below 0
    that it rounds to a whole turn.

    Args:
        hue: in turns of the colour circle.
        saturation: factor.
        value: factor of the brightness.
    """
    brightest = image.amax(0)
    if hue == 0:  # then a channel moves on the line from the brightest one through itself
        return (image - brightest).mul_(saturation).add_(brightest).mul_(value)
    chroma = brightest - image.amin(0)
    red, green, blue = image.unbind(0)
    is_red, is_green = red == brightest, green == brightest
    sixth = torch.where(is_red, green - blue, torch.where(is_green, blue - red, red - green)).div_(chroma)
    sixth.add_(torch.where(is_red, 0.0, torch.where(is_green, 2.0, 4.0))).nan_to_num_(0)  # grey has no hue: 0 / 0
    sixth.add_(hue * 6).sub_((sixth / 6).floor_().mul_(6))  # 0 <= sixth < 6
    # How far each channel is from the brightest one, in parts of the chroma
    far = torch.stack([2 - (sixth - 3).abs_(), (sixth - 2).abs_() - 1, (sixth - 4).abs_() - 1]).clamp_(0, 1)
    return brightest.mul(value).sub(far.mul_(chroma.mul_(saturation * value)))
