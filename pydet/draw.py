"""Boxes and labels on a picture, with Pillow alone."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Colour = tuple[int, int, int]

_GOLDEN_RATIO = 0.618033988749895  # steps of this round the colour circle never come close to an earlier colour


class _Place(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: _Place) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


def class_colour(label: int) -> Colour:
    """The colour of a class, the same in every picture: bright, and far from those of its neighbours."""
    hue = (0.33 + label * _GOLDEN_RATIO) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def text_colour(background: Colour) -> Colour:
    """Black or white, whichever reads better on the background (relative luminance of ITU-R BT.709)."""
    red, green, blue = ((channel / 255) ** 2.2 for channel in background)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    # WCAG contrast: (L + .05) / .05 against black equals 1.05 / (L + .05) against white at L = .179
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def draw_boxes(image: Tensor, boxes: Tensor, labels: Tensor, scores: Tensor, class_names: Sequence[str]) -> Image.Image:
    """Draws detections on a picture; line width and letters grow with it.

    Args:
        image: uint8 ``[3, H, W]`` RGB.
        boxes: ``[K, 4]`` xyxy in pixels of the picture.
        labels: ``[K]`` index into class_names.
        scores: ``[K]`` in 0..1.
        class_names: Name of each class.

    Returns:
        A new RGB picture of the same size. The better a detection, the later, so the more visible, it is drawn.
    """
    canvas = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    pen = ImageDraw.Draw(canvas)
    length = (canvas.width * canvas.height) ** 0.5
    line = max(1, round(length / 250))
    font = ImageFont.load_default(size=max(10, round(length / 42)))
    worst_first = scores.argsort().tolist()
    frames = [_Place(*box) for box in boxes.tolist()]
    for index in worst_first:
        _draw_frame(pen, frames[index], class_colour(int(labels[index])), line, canvas.size)
    taken: list[_Place] = []
    for index in reversed(worst_first):  # the best may choose the place of its label first
        label = int(labels[index])
        text = f"{class_names[label]} {float(scores[index]):.0%}"
        place = _label_place(pen, text, font, frames[index], taken, canvas.size)
        taken.append(place)
        pen.rectangle(place, fill=class_colour(label))
        centre = ((place.left + place.right) / 2, (place.top + place.bottom) / 2)
        pen.text(centre, text, fill=text_colour(class_colour(label)), font=font, anchor="mm")
    return canvas


def _draw_frame(pen: ImageDraw.ImageDraw, box: _Place, colour: Colour, line: int, size: tuple[int, int]) -> None:
    """The outline, kept inside the picture and in the order that Pillow demands, however thin the box is."""
    left, right = max(0, round(box.left)), min(size[0] - 1, round(box.right))
    top, bottom = max(0, round(box.top)), min(size[1] - 1, round(box.bottom))
    pen.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=line)


def _label_place(
    pen: ImageDraw.ImageDraw,
    text: str,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    box: _Place,
    taken: list[_Place],
    size: tuple[int, int],
) -> _Place:
    """Where the label goes: above the box, else inside it, below it, or under another label; never off the picture."""
    letters = pen.textbbox((0, 0), text, font=font, anchor="mm")
    height = 1.5 * (pen.textbbox((0, 0), "Ag", font=font)[3] - pen.textbbox((0, 0), "Ag", font=font)[1])
    width = letters[2] - letters[0] + 0.6 * height
    left = max(0.0, min(box.left, size[0] - 1 - width))
    tops = [box.top - height, box.top, box.bottom, box.bottom - height, box.top + height, box.top + 2 * height]
    places = [_Place(left, top, left + width, top + height) for top in tops if 0 <= top <= size[1] - 1 - height]
    for place in places:
        if not any(place.overlaps(other) for other in taken):
            return place
    return places[0] if places else _Place(left, 0, left + width, height)
