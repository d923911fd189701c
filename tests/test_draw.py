"""Boxes are where they belong, and labels can be read."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from pydet.draw import class_colour, draw_boxes, text_colour

GREY = 90


def drawn(
    size: tuple[int, int], boxes: list[list[float]], labels: list[int] | None = None, names: list[str] | None = None
) -> np.ndarray:
    """The pixels [H, W, 3] after drawing on a grey picture (height, width)."""
    count = len(boxes)
    image = torch.full((3, *size), GREY, dtype=torch.uint8)
    picture = draw_boxes(
        image,
        torch.tensor(boxes).reshape(-1, 4),
        torch.tensor(labels or [0] * count, dtype=torch.int64),
        torch.linspace(0.9, 0.5, count) if count else torch.zeros(0),
        names or ["dog", "bicycle", "car"],
    )
    return np.asarray(picture)


def touched(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what was drawn."""
    rows, columns = np.nonzero((pixels != GREY).any(axis=2))
    return columns.min(), rows.min(), columns.max(), rows.max()


def test_the_frame_is_the_box() -> None:
    pixels = drawn((400, 600), [[100, 150, 300, 350]])
    colour = np.array(class_colour(0))
    for row, column in ((150, 290), (350, 200), (250, 100), (250, 300)):  # a point of each side
        assert (pixels[row, column] == colour).all()
    assert (pixels[160:340, 110:290] == GREY).all()
    left, top, right, bottom = touched(pixels)
    assert (left, right, bottom) == (100, 300, 350)
    assert 110 < top < 150  # the label stands on the box


@pytest.mark.parametrize("box", [[0, 0, 40, 30], [560, 0, 600, 30], [0, 380, 40, 400], [590, 395, 600, 400]])
def test_labels_stay_in_the_picture(box: list[float]) -> None:
    pixels = drawn((400, 600), [box], names=["a long name"])
    background = (pixels == np.array(class_colour(0))).all(axis=2)
    letters = (pixels == np.array(text_colour(class_colour(0)))).all(axis=2)
    rows, columns = np.nonzero(background | letters)
    middle = drawn((400, 600), [[200, 200, 240, 230]], names=["a long name"])
    expected = (middle == np.array(text_colour(class_colour(0)))).all(axis=2).sum()
    assert abs(int(letters.sum()) - int(expected)) < 0.2 * expected  # no letter is cut off
    assert rows.max() < 400
    assert columns.max() < 600


def test_two_labels_on_one_box_are_both_there() -> None:
    frame = [100.0, 150.0, 300.0, 350.0]
    both = drawn((400, 600), [frame, frame], labels=[1, 2], names=["", "same", "same"])
    above, inside = both[:149], both[160:340, 110:290]
    assert (above == np.array(class_colour(1))).all(axis=2).sum() > 300
    assert (inside == np.array(class_colour(2))).all(axis=2).sum() > 300


def test_line_width_grows_with_the_picture() -> None:
    def width(side: int) -> int:
        pixels = drawn((side, side), [[side * 0.2, side * 0.2, side * 0.8, side * 0.8]])
        return int((pixels[side // 2, : side // 2] != GREY).any(axis=1).sum())

    assert 1 <= width(100) < width(600) < width(3000)


@pytest.mark.parametrize("size", [(1, 1), (3, 5000), (5000, 3)])
def test_extreme_pictures_and_boxes(size: tuple[int, int]) -> None:
    height, width = size
    assert drawn(size, [[0, 0, width, height], [0, 0, 0, 0], [width, height, width, height]]).shape == (*size, 3)


def test_no_boxes_no_change() -> None:
    assert (drawn((50, 60), []) == GREY).all()


def test_the_best_detection_is_on_top() -> None:
    pixels = drawn((400, 600), [[100, 150, 300, 350], [100, 150, 300, 350]], labels=[2, 1])
    assert (pixels[250, 100] == np.array(class_colour(2))).all()


def contrast(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """WCAG 2.1 contrast ratio, 1 to 21."""

    def luminance(colour: tuple[int, ...]) -> float:
        linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_every_label_can_be_read() -> None:
    for label in range(200):
        colour = class_colour(label)
        assert contrast(colour, text_colour(colour)) >= 4.5  # level AA


def test_neighbouring_classes_differ_and_colours_are_stable() -> None:
    colours = [class_colour(label) for label in range(80)]
    assert len(set(colours)) == 80
    for first, second in pairwise(colours):
        assert sum(abs(a - b) for a, b in zip(first, second, strict=True)) > 150
    assert colours == [class_colour(label) for label in range(80)]
