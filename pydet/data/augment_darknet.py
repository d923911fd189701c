"""Darknet's augmentation: the picture is placed on, or cropped to, the input; its colours change; it is flipped."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from pydet.data.augment import Sample, Size, chance, cut_to_picture, flipped, with_colours
from pydet.letterbox import bilinear, resize_taps, taps_at
from pydet.ops.resample import Taps


@dataclass(frozen=True)
class Colours:
    """How colours change: hue in turns, saturation and exposure as factors, all in HSV."""

    hue: float
    saturation: float
    exposure: float


@dataclass(frozen=True)
class Place:
    """What `DarknetPlace` draws: where the picture goes on the input, in pixels of it, and the rest."""

    left: float
    top: float
    width: float
    height: float
    colours: Colours
    flip: bool


@dataclass(frozen=True)
class Crop:
    """What `DarknetCrop` draws: how much is cut off on each side, in pixels of the picture, and the rest."""

    left: int
    top: int
    right: int
    bottom: int
    colours: Colours
    flip: bool


@dataclass(frozen=True)
class ColourJitter:
    """The colour settings of a cfg: the largest turn of the hue, and of the factors of saturation and exposure."""

    hue: float = 0.1
    saturation: float = 1.5
    exposure: float = 1.5

    def draw(self, random: np.random.Generator) -> Colours:
        hue = random.uniform(-self.hue, self.hue)
        return Colours(hue, _factor(random, self.saturation), _factor(random, self.exposure))


@dataclass(frozen=True)
class DarknetPlace:
    """YOLOv3's augmentation, YOLOv2's since 2017: the whole picture somewhere on a grey input (load_data_detection).

    Attributes:
        jitter: By which part the width and the height change, before the picture is scaled to fill the input.
        zoom: Smallest and largest factor of a further scaling. Darknet had (0.25, 2) when YOLOv3 was released, and none
            later.
        colours: See `ColourJitter`.
    """

    jitter: float = 0.3
    zoom: tuple[float, float] = (1.0, 1.0)
    colours: ColourJitter = ColourJitter()

    def __call__(self, sample: Sample, size: Size, random: np.random.Generator) -> Sample:
        return self.apply(sample, self.draw(sample.size, size, random), size)

    def draw(self, picture: Size, size: Size, random: np.random.Generator) -> Place:
        """Draws for a picture of one (height, width) and an input of another."""
        height, width = (side * (1 + random.uniform(-self.jitter, self.jitter)) for side in picture)
        aspect, zoom = width / height, random.uniform(*self.zoom)
        if aspect < 1:
            height, width = zoom * size[0], zoom * size[0] * aspect
        else:
            height, width = zoom * size[1] / aspect, zoom * size[1]
        left, top = _between(random, 0, size[1] - width), _between(random, 0, size[0] - height)
        return Place(left, top, width, height, self.colours.draw(random), chance(random, 0.5))

    def apply(self, sample: Sample, drawn: Place, size: Size) -> Sample:
        """The sample on an input of (height, width) `size`, float32 in 0..1."""
        rows, top = _placed(sample.size[0], int(drawn.top), max(int(drawn.height), 1), size[0])
        columns, left = _placed(sample.size[1], int(drawn.left), max(int(drawn.width), 1), size[1])
        # Darknet changes the colours of the whole input; all that happens to the grey is that it gets darker or lighter
        image = torch.full((3, *size), min(0.5 * drawn.colours.exposure, 1.0))
        part = _recoloured(bilinear(sample.image, rows, columns), drawn.colours)
        image[:, top : top + part.shape[1], left : left + part.shape[2]] = part
        # As in Darknet, pixels are placed by whole ones, boxes are not
        scale = sample.boxes.new_tensor([drawn.width / sample.size[1], drawn.height / sample.size[0]]).repeat(2)
        boxes = sample.boxes * scale + sample.boxes.new_tensor([drawn.left, drawn.top]).repeat(2)
        placed = cut_to_picture(replace(sample, image=image, boxes=boxes), smallest=0.001)
        return flipped(placed) if drawn.flip else placed


@dataclass(frozen=True)
class DarknetCrop:
    """YOLO's augmentation, YOLOv2's of 2016: a crop that may reach beyond the picture, stretched (load_data_region).

    Attributes:
        jitter: Up to which part of the picture is cut off, or added, on each side.
        colours: See `ColourJitter`.
    """

    jitter: float = 0.2
    colours: ColourJitter = ColourJitter()

    def __call__(self, sample: Sample, size: Size, random: np.random.Generator) -> Sample:
        return self.apply(sample, self.draw(sample.size, random), size)

    def draw(self, picture: Size, random: np.random.Generator) -> Crop:
        """Draws for a picture of (height, width)."""
        most = [int(picture[1] * self.jitter), int(picture[0] * self.jitter)] * 2
        left, top, right, bottom = (int(random.uniform(-side, side)) for side in most)
        return Crop(left, top, right, bottom, self.colours.draw(random), chance(random, 0.5))

    def apply(self, sample: Sample, drawn: Crop, size: Size) -> Sample:
        """The sample on an input of (height, width) `size`, float32 in 0..1."""
        height, width = sample.size
        cropped = (max(height - drawn.top - drawn.bottom, 1), max(width - drawn.left - drawn.right, 1))
        rows, columns = resize_taps(cropped, size)
        image = bilinear(sample.image, _shifted(rows, drawn.top, height), _shifted(columns, drawn.left, width))
        scale = sample.boxes.new_tensor([size[1] / cropped[1], size[0] / cropped[0]]).repeat(2)
        boxes = (sample.boxes - sample.boxes.new_tensor([drawn.left, drawn.top]).repeat(2)) * scale
        image = _recoloured(image, drawn.colours)
        stretched = cut_to_picture(replace(sample, image=image, boxes=boxes), smallest=0.005)
        return flipped(stretched) if drawn.flip else stretched


def _placed(picture: int, start: int, length: int, size: int) -> tuple[Taps, int]:
    """How a side of `picture` pixels becomes one of `length` that begins at `start` of `size`.

    Returns:
        What is looked at for each pixel of it that can be seen, and where the first of these is.
    """
    begin, end = max(start, 0), min(start + length, size)
    # Rounded as Darknet's binaries do, which are built with -Ofast: in a wide picture the place is otherwise another
    scale = np.float32(picture) * (np.float32(1) / np.float32(length))
    taps = taps_at(np.arange(begin - start, max(end, begin) - start, dtype=np.float32) * scale, picture)
    taps.parts[1, taps.places[0] + 1 >= picture] = 0  # beyond the last pixel is black, to Darknet
    return taps, begin


def _shifted(taps: Taps, by: int, size: int) -> Taps:
    """Beyond the edge of the picture its last pixel goes on."""
    return taps._replace(places=(taps.places + by).clip(0, size - 1))


def _recoloured(image: torch.Tensor, colours: Colours) -> torch.Tensor:
    return with_colours(image, colours.hue, colours.saturation, colours.exposure).clamp_(0, 1)


def _factor(random: np.random.Generator, most: float) -> float:
    """Between 1 and `most`, or the inverse of such (Darknet's rand_scale)."""
    factor = _between(random, 1, most)
    return factor if chance(random, 0.5) else 1 / factor


def _between(random: np.random.Generator, a: float, b: float) -> float:
    return random.uniform(min(a, b), max(a, b))
