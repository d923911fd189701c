"""SSD's augmentation: colours, zoom-out, crops with a wanted overlap, flip (sections 2.2 and 3.6, and its code)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pydet import ops
from pydet.data.augment import Sample, Size, chance, cut_to_picture, flipped, unit, with_colours
from pydet.letterbox import bilinear, taps_at
from pydet.ops.resample import Taps

MEAN = (123 / 255, 117 / 255, 104 / 255)
"""What is around a picture that was zoomed out: the mean colour of ImageNet, RGB."""

TRIALS = 50  # crops that are tried for each wanted overlap


@dataclass(frozen=True)
class Photometric:
    """What becomes of the colours, in this order, or with the contrast last.

    Attributes:
        brightness: Is added, in parts of the full range.
        contrast: Factor.
        saturation: Factor, in HSV.
        hue: Turn, in parts of the colour circle.
        contrast_last: Whether the contrast changes after saturation and hue.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    contrast_last: bool = False


@dataclass(frozen=True)
class SsdDrawn:
    """What `SsdAugmentation` draws.

    Attributes:
        colours: See `Photometric`.
        canvas: (height, width) in pixels of what the picture is put on, at least as large as it.
        left: Where it is put, in pixels.
        top: Where it is put, in pixels.
        crop: Which part of the canvas remains: left, top, right, bottom, in pixels.
        flip: Whether left and right are exchanged.
    """

    colours: Photometric
    canvas: Size
    left: int
    top: int
    crop: tuple[int, int, int, int]
    flip: bool


@dataclass(frozen=True)
class SsdAugmentation:
    """SSD's augmentation, with the numbers of its Caffe code.

    Attributes:
        brightness: Largest change, in parts of the full range.
        contrast: Smallest and largest factor.
        saturation: Smallest and largest factor.
        hue: Largest turn, in parts of the colour circle.
        zoom_out: Largest canvas, in sides of the picture (section 3.6); 1 for none.
        overlaps: The IoUs of which a crop must have at least one with some object; beside these, the whole picture and
            any crop at all.
        crop_scale: Smallest and largest side of a crop, in sides of the canvas.
        crop_aspect: Smallest and largest aspect ratio of a crop, relative to that of the canvas.
    """

    brightness: float = 32 / 255
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 18 / 180
    zoom_out: float = 4.0
    overlaps: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    crop_scale: tuple[float, float] = (0.3, 1.0)
    crop_aspect: tuple[float, float] = (0.5, 2.0)

    def __call__(self, sample: Sample, size: Size, random: np.random.Generator) -> Sample:
        return self.apply(sample, self.draw(sample.size, sample.boxes, random), size)

    def draw(self, picture: Size, boxes: Tensor, random: np.random.Generator) -> SsdDrawn:
        """Draws for a picture of (height, width) with these boxes [G, 4], xyxy in pixels."""
        colours = self._draw_colours(random)
        (height, width), left, top = picture, 0, 0
        if chance(random, 0.5):
            factor = random.uniform(1, self.zoom_out)
            height, width = int(height * factor), int(width * factor)
            left, top = int(random.uniform(0, width - picture[1] + 1)), int(random.uniform(0, height - picture[0] + 1))
        crop = self._draw_crop((height, width), boxes + boxes.new_tensor([left, top, left, top]), random)
        return SsdDrawn(colours, (height, width), left, top, crop, chance(random, 0.5))

    def apply(self, sample: Sample, drawn: SsdDrawn, size: Size) -> Sample:
        """The sample as a picture of (height, width) `size`, float32 in 0..1.

        Objects remain whose centre is in the crop, cut at its edges.
        """
        x1, y1, x2, y2 = drawn.crop
        # The canvas, up to 16 times the picture, is never made: only what the crop shows of it
        image = torch.tensor(MEAN)[:, None, None].expand(3, y2 - y1, x2 - x1).contiguous()
        picture_height, picture_width = sample.size
        left, top = max(drawn.left, x1), max(drawn.top, y1)
        right, bottom = min(drawn.left + picture_width, x2), min(drawn.top + picture_height, y2)
        if left < right and top < bottom:
            seen = sample.image[:, top - drawn.top : bottom - drawn.top, left - drawn.left : right - drawn.left]
            image[:, top - y1 : bottom - y1, left - x1 : right - x1] = with_photometric(unit(seen), drawn.colours)
        shift = sample.boxes.new_tensor([drawn.left - x1, drawn.top - y1]).repeat(2)
        boxes = sample.boxes + shift
        kept = _centre_inside(boxes, sample.boxes.new_tensor([[0, 0, x2 - x1, y2 - y1]]))[0]
        scale = boxes.new_tensor([size[1] / (x2 - x1), size[0] / (y2 - y1)]).repeat(2)
        result = Sample(_resized(image, size), boxes[kept] * scale, sample.labels[kept])
        # Last, since a very thin box that is flipped may be as wide as nothing
        return cut_to_picture(flipped(result) if drawn.flip else result)

    def _draw_colours(self, random: np.random.Generator) -> Photometric:
        def factor(limits: tuple[float, float], otherwise: float) -> float:
            return random.uniform(*limits) if chance(random, 0.5) else otherwise

        return Photometric(
            factor((-self.brightness, self.brightness), 0.0),
            factor(self.contrast, 1.0),
            factor(self.saturation, 1.0),
            factor((-self.hue, self.hue), 0.0),
            chance(random, 0.5),
        )

    def _draw_crop(self, canvas: Size, boxes: Tensor, random: np.random.Generator) -> tuple[int, int, int, int]:
        """One of the crops that fit, each overlap tried so often; the whole canvas always fits.

        Unlike the Caffe code, a crop without the centre of any object does not fit: there is nothing to train on it.
        """
        height, width = canvas
        whole = (0, 0, width, height)
        if not len(boxes):
            return whole
        limits = (*self.overlaps, 0.0)
        crops = self._candidates(canvas, len(limits) * TRIALS, random)
        with_object = _centre_inside(boxes, crops).any(1)
        best = ops.box_iou(crops, boxes.to(crops.dtype)).amax(1)
        fits = (with_object & (best >= crops.new_tensor(limits).repeat_interleave(TRIALS))).reshape(-1, TRIALS)
        found = [whole]
        for first, row in zip(range(0, len(crops), TRIALS), fits, strict=True):
            if row.any():
                x1, y1, x2, y2 = crops[first + int(row.int().argmax())].int().tolist()
                found.append((x1, y1, x2, y2))
        return found[int(random.integers(len(found)))]

    def _candidates(self, canvas: Size, count: int, random: np.random.Generator) -> Tensor:
        """[count, 4] crops, xyxy in whole pixels."""
        height, width = canvas
        scale = random.uniform(*self.crop_scale, count)
        low = np.maximum(self.crop_aspect[0], scale**2)
        high = np.minimum(self.crop_aspect[1], scale**-2)
        root = np.sqrt(random.uniform(low, high))
        widths = np.clip(np.rint(scale * root * width), 1, width)
        heights = np.clip(np.rint(scale / root * height), 1, height)
        left = np.rint(random.uniform(0, 1, count) * (width - widths))
        top = np.rint(random.uniform(0, 1, count) * (height - heights))
        return torch.from_numpy(np.stack([left, top, left + widths, top + heights], axis=1)).float()


def with_photometric(image: Tensor, colours: Photometric) -> Tensor:
    """A picture [3, H, W] in 0..1 with other colours; cut to 0..1 after each step, as 8 bits are in the Caffe code."""
    if colours.brightness:
        image = (image + colours.brightness).clamp_(0, 1)
    if colours.contrast != 1 and not colours.contrast_last:
        image = (image * colours.contrast).clamp_(0, 1)
    if colours.saturation != 1 or colours.hue:
        image = with_colours(image, colours.hue, colours.saturation).clamp_(0, 1)
    if colours.contrast != 1 and colours.contrast_last:
        image = (image * colours.contrast).clamp_(0, 1)
    return image


def _resized(image: Tensor, size: Size) -> Tensor:
    """As torch's bilinear interpolation, whose last bits depend on the number of threads."""
    rows, columns = (_taps(old, new) for old, new in zip(image.shape[1:], size, strict=True))
    return bilinear(image, rows, columns)


def _taps(size: int, new_size: int) -> Taps:
    """For each of `new_size` pixels the two of `size` around its centre."""
    position = (np.arange(new_size, dtype=np.float32) + 0.5) * (size / new_size) - 0.5
    return taps_at(position.clip(0, size - 1), size)


def _centre_inside(boxes: Tensor, crops: Tensor) -> Tensor:
    """bool [N, G]: which of boxes [G, 4] have their centre in which of crops [N, 4]."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centres >= crops[:, None, :2]) & (centres < crops[:, None, 2:])).all(2)
