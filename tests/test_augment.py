"""Augmentation: boxes go where the pixels go, whatever is drawn; nothing but the seed decides what is drawn."""

from __future__ import annotations

import colorsys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pydet.data.augment import Augmentation, Flip, MultiScale, Sample, cut_to_picture, flipped, generator, with_colours
from pydet.data.augment_darknet import ColourJitter, DarknetCrop, DarknetPlace
from pydet.data.augment_ssd import Photometric, SsdAugmentation, SsdDrawn, with_photometric
from pydet.data.presets import augmentation_of
from pydet.models.registry import MODELS
from pydet.ops import box_iou

STILL = ColourJitter(0, 1, 1)
GEOMETRY: list[Augmentation] = [
    DarknetPlace(colours=STILL),
    DarknetPlace(zoom=(0.5, 2), colours=STILL),
    DarknetCrop(colours=STILL),
    SsdAugmentation(brightness=0, contrast=(1, 1), saturation=(1, 1), hue=0, zoom_out=2),
    Flip(),
]
ALL: list[Augmentation] = [DarknetPlace(), DarknetCrop(), SsdAugmentation(), Flip()]


@st.composite
def rectangles(draw: st.DrawFn) -> tuple[tuple[int, int], list[int]]:
    """(height, width) of a picture, and a box xyxy in whole pixels on it, each of its sides at least 20.

    It keeps away from the edge, whose pixels YOLO's crop repeats beyond it.
    """
    height, width = draw(st.integers(40, 100)), draw(st.integers(40, 100))
    x1, y1 = draw(st.integers(1, width - 21)), draw(st.integers(1, height - 21))
    return (height, width), [x1, y1, draw(st.integers(x1 + 20, width - 1)), draw(st.integers(y1 + 20, height - 1))]


def drawn_on(size: tuple[int, int], box: list[int]) -> Sample:
    """A blue picture with a red rectangle where the box is."""
    image = torch.zeros(3, *size, dtype=torch.uint8)
    image[2] = 255
    x1, y1, x2, y2 = box
    image[:, y1:y2, x1:x2] = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]
    return Sample(image, torch.tensor([box], dtype=torch.float32), torch.tensor([4]))


def seen(image: torch.Tensor) -> torch.Tensor | None:
    """The box of what is red, to half a pixel: where red is more than half of what it was."""
    pixels = image.float() / (255 if image.dtype == torch.uint8 else 1)
    red = (pixels[0] > 0.5) & (pixels[2] < 0.5) & (pixels[1] < 0.25)
    if not red.any():
        return None
    rows, columns = red.any(1).nonzero(), red.any(0).nonzero()
    return torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=torch.float32)


@pytest.mark.parametrize("augmentation", GEOMETRY, ids=lambda a: type(a).__name__)
@given(rectangle=rectangles(), seed=st.integers(0, 2**32), size=st.tuples(st.integers(64, 160), st.integers(64, 160)))
def test_boxes_follow_the_pixels(
    augmentation: Augmentation, rectangle: tuple[tuple[int, int], list[int]], seed: int, size: tuple[int, int]
) -> None:
    sample = drawn_on(*rectangle)
    result = augmentation(sample, size, generator(0, seed))
    if not isinstance(augmentation, Flip):
        assert result.size == size
        assert result.image.dtype == torch.float32
    found = seen(result.image)
    if len(result.boxes):
        assert result.labels.tolist() == [4]
        box = result.boxes[0]
        # What is a pixel before may be a few after it; a pixel of Darknet's placing is not that of its boxes
        enlarged = max(new / old for new, old in zip(result.size, sample.size, strict=True)) * 2
        if min(box[2:] - box[:2]) > 4:
            assert found is not None
            assert (found - box).abs().max() <= 2 + enlarged
    elif found is not None and not isinstance(augmentation, SsdAugmentation):
        sides = (found[2:] - found[:2]) / torch.tensor([size[1], size[0]])
        assert sides.min() < 0.05  # only slivers are dropped


@pytest.mark.parametrize("augmentation", ALL, ids=lambda a: type(a).__name__)
@given(seed=st.integers(0, 2**32), rectangle=rectangles())
def test_results_are_pictures_with_boxes_inside(
    augmentation: Augmentation, seed: int, rectangle: tuple[tuple[int, int], list[int]]
) -> None:
    sample = drawn_on(*rectangle)
    before = sample.image.clone(), sample.boxes.clone()
    result = augmentation(sample, (96, 64), generator(0, seed))
    height, width = result.size
    assert torch.equal(sample.image, before[0])  # left as it was
    assert torch.equal(sample.boxes, before[1])
    assert 0 <= result.image.min() <= result.image.max() <= (255 if result.image.dtype == torch.uint8 else 1)
    assert (result.boxes >= 0).all()
    assert (result.boxes <= torch.tensor([width, height, width, height])).all()
    assert (result.boxes[:, 2:] > result.boxes[:, :2]).all()
    again = augmentation(sample, (96, 64), generator(0, seed))
    assert torch.equal(result.image, again.image)
    assert torch.equal(result.boxes, again.boxes)


@pytest.mark.parametrize("augmentation", ALL, ids=lambda a: type(a).__name__)
def test_pictures_without_objects(augmentation: Augmentation) -> None:
    empty = Sample(torch.full((3, 50, 70), 9, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    for seed in range(20):
        result = augmentation(empty, (64, 96), generator(0, seed))
        assert result.boxes.shape == (0, 4)
        assert result.labels.shape == (0,)


def test_every_drawing_differs() -> None:
    sample = drawn_on((80, 100), [20, 20, 60, 60])
    for augmentation in (DarknetPlace(), DarknetCrop(), SsdAugmentation()):
        drawings = {repr(augmentation(sample, (64, 64), generator(0, seed)).boxes) for seed in range(30)}
        assert len(drawings) > 15
    assert {Flip().draw(generator(0, seed)) for seed in range(30)} == {True, False}


@given(rectangle=rectangles())
def test_two_flips_change_nothing(rectangle: tuple[tuple[int, int], list[int]]) -> None:
    sample = drawn_on(*rectangle)
    once = flipped(sample)
    assert torch.equal(seen(once.image), once.boxes[0])  # type: ignore[arg-type]
    assert torch.equal(flipped(once).boxes, sample.boxes)
    assert torch.equal(flipped(once).image, sample.image)


@given(
    colour=st.tuples(*[st.floats(0, 1, width=32)] * 3),
    hue=st.floats(-0.5, 0.5, width=32),
    saturation=st.floats(0, 1, width=32),
    value=st.floats(0, 1, width=32),
)
def test_colours_are_those_of_colorsys(colour: tuple[float, ...], hue: float, saturation: float, value: float) -> None:
    h, s, v = colorsys.rgb_to_hsv(*colour)
    expected = colorsys.hsv_to_rgb((h + hue) % 1, s * saturation, v * value)
    image = torch.tensor(colour, dtype=torch.float32)[:, None, None]
    # A colour that is nearly grey has hardly any hue: only what it makes of the picture counts
    assert with_colours(image, hue, saturation, value).flatten().tolist() == pytest.approx(expected, abs=1e-4)


def test_photometric_order() -> None:
    """Contrast before saturation or after it: the clipping between them makes the difference."""
    image = torch.tensor([0.8, 0.4, 0.2])[:, None, None]
    colours = Photometric(contrast=1.5, saturation=0.5)
    # 1.2 -> 1, .6, .3; the spread halved: 1, .8, .65. Last: .8, .6, .5, then times 1.5: 1.2 -> 1, .9, .75
    assert with_photometric(image, colours).flatten().tolist() == pytest.approx([1, 0.8, 0.65])
    last = with_photometric(image, replace(colours, contrast_last=True))
    assert last.flatten().tolist() == pytest.approx([1, 0.9, 0.75])
    darker = with_photometric(image, Photometric(brightness=-0.3))
    assert darker.flatten().tolist() == pytest.approx([0.5, 0.1, 0])


def test_a_sliver_is_no_object() -> None:
    image = torch.zeros(3, 100, 200)
    boxes = torch.tensor([[-10.0, 10, 0.5, 50], [-10, 10, 3, 50], [300, 10, 400, 50], [10, 90, 30, 120]])
    result = cut_to_picture(Sample(image, boxes, torch.arange(4)), smallest=0.005)
    assert result.labels.tolist() == [1, 3]
    assert result.boxes.tolist() == [[0, 10, 3, 50], [10, 90, 30, 100]]


def test_darknets_sizes() -> None:
    """Where the picture goes on the input: aspect changed by up to jitter, then as large as fits, then zoomed."""
    fits = [DarknetPlace(jitter=0, colours=STILL).draw((80, 100), (64, 64), generator(0, seed)) for seed in range(200)]
    assert {(place.width, round(place.height, 9), place.left) for place in fits} == {(64, 51.2, 0)}
    assert 0 <= min(place.top for place in fits) < 1 < 11 < max(place.top for place in fits) <= 12.8
    jittered = [DarknetPlace(jitter=0.3).draw((80, 100), (64, 64), generator(0, seed)) for seed in range(1000)]
    aspects = [place.width / place.height for place in jittered]
    assert 1.25 * 0.7 / 1.3 <= min(aspects) < 0.72 < 2.15 < max(aspects) <= 1.25 * 1.3 / 0.7
    assert all(max(place.width, place.height) == 64 for place in jittered)
    zoomed = [DarknetPlace(zoom=(0.25, 2)).draw((80, 100), (64, 64), generator(0, seed)) for seed in range(1000)]
    assert 16 <= min(max(p.width, p.height) for p in zoomed) < 18
    assert 126 < max(max(p.width, p.height) for p in zoomed) <= 128
    assert all(64 - p.width <= p.left <= 0 for p in zoomed if p.width > 64)  # it covers the whole width


def test_darknets_factors() -> None:
    """rand_scale: between 1 and the setting, or the inverse; .75 means as much as 4 / 3."""
    for setting in (1.5, 0.75):
        drawn = [ColourJitter(0.1, setting, setting).draw(generator(0, seed)) for seed in range(500)]
        most = max(setting, 1 / setting)
        factors = [colours.saturation for colours in drawn]
        assert 1 / most <= min(factors) < 1 / most + 0.01
        assert most - 0.01 < max(factors) <= most
        assert 0.4 < sum(factor < 1 for factor in factors) / len(factors) < 0.6
        assert -0.1 <= min(c.hue for c in drawn) < -0.09 < 0.09 < max(c.hue for c in drawn) <= 0.1


def test_crops_of_ssd() -> None:
    """Each crop is the whole canvas, or has the centre of an object; every wanted overlap is met by some."""
    boxes = torch.tensor([[10.0, 10, 50, 60], [20, 10, 180, 190]])
    augmentation = SsdAugmentation()
    best = []
    for seed in range(400):
        drawn = augmentation.draw((200, 200), boxes, generator(0, seed))
        height, width = drawn.canvas
        x1, y1, x2, y2 = drawn.crop
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        if drawn.crop == (0, 0, width, height):
            continue
        shifted = boxes + torch.tensor([drawn.left, drawn.top] * 2)
        centres = (shifted[:, :2] + shifted[:, 2:]) / 2
        assert ((centres >= torch.tensor([x1, y1])) & (centres < torch.tensor([x2, y2]))).all(1).any()
        assert 0.3 * width - 1 <= (x2 - x1) * (2**0.5)  # scale .3 at aspect .5
        best.append(float(box_iou(torch.tensor([drawn.crop], dtype=torch.float32), shifted).max()))
    counts, _ = np.histogram(best, [0, 0.1, 0.3, 0.5, 0.7, 0.9, 1])
    assert (counts[:-1] > 5).all()


def test_crops_of_ssd_keep_what_has_its_centre_inside() -> None:
    sample = drawn_on((100, 100), [10, 10, 30, 30])
    more = replace(sample, boxes=torch.tensor([[10.0, 10, 30, 30], [30, 30, 70, 70]]), labels=torch.tensor([4, 5]))
    drawn = SsdAugmentation().draw((100, 100), more.boxes, generator(0, 0))
    drawn = replace(drawn, colours=Photometric(), canvas=(100, 100), left=0, top=0, crop=(15, 15, 45, 45), flip=False)
    result = SsdAugmentation().apply(more, drawn, (60, 60))
    assert result.labels.tolist() == [4]
    assert result.boxes.tolist() == [[0, 0, 30, 30]]


def test_ssd_leaves_no_box_without_width() -> None:
    """Beside the left edge float32 has room for a box that it has no room for beside the right one."""
    sample = Sample(torch.zeros(3, 40, 40, dtype=torch.uint8), torch.tensor([[0, 0, 1e-6, 40.0]]), torch.tensor([0]))
    for flip, count in ((False, 1), (True, 0)):
        drawn = SsdDrawn(Photometric(), (40, 40), 0, 0, (0, 0, 40, 40), flip)
        assert len(SsdAugmentation().apply(sample, drawn, (300, 300)).boxes) == count


@pytest.mark.parametrize("seed", [0, 1])
def test_multi_scale(seed: int) -> None:
    sizes = [MultiScale().size(update, 3000, seed) for update in range(3000)]
    assert all(height == width for height, width in sizes)
    assert {height for height, _ in sizes} == {320, 352, 384, 416, 448, 480, 512, 544, 576, 608}
    for block in range(0, 3000, 10):
        assert len(set(sizes[block : block + 10])) == 1  # every ten batches
    assert set(sizes[-190:]) == {(608, 608)}
    assert len(set(sizes[:-200:10])) == 10
    assert sizes != [MultiScale().size(update, 3000, seed + 1) for update in range(3000)]


@pytest.mark.parametrize("hue", [0, 0.05])
def test_grey_stays_grey(hue: float) -> None:
    image = torch.linspace(0, 1, 12).expand(3, 2, 12)
    torch.testing.assert_close(with_colours(image, hue, 1.7), image)


@pytest.mark.parametrize("size", [(1, 1), (30, 97), (80, 100), (200, 130)])
def test_resize_of_ssd_is_torchs(size: tuple[int, int]) -> None:
    image = torch.rand(3, 80, 100, generator=torch.Generator().manual_seed(0))
    drawn = SsdDrawn(Photometric(), (80, 100), 0, 0, (0, 0, 100, 80), flip=False)
    sample = Sample(image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    expected = torch.nn.functional.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(SsdAugmentation().apply(sample, drawn, size).image, expected, atol=1e-5, rtol=0)


def test_every_detector_has_its_augmentation() -> None:
    assert all(augmentation_of(name) is not None for name in MODELS)
    assert augmentation_of("yolov3-tiny") == DarknetPlace(jitter=0.3, zoom=(0.25, 2.0))
    assert augmentation_of("yolov2-voc") == DarknetCrop(jitter=0.3)
    assert augmentation_of("yolov2-tiny-voc") == DarknetCrop(jitter=0.2)
    assert augmentation_of("ssd512") == SsdAugmentation()
    with pytest.raises(ValueError, match="augmentation_of: unknown detector 'mine'; known are yolov1, "):
        augmentation_of("mine")
