from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pydet.letterbox import letterbox, scaled_size, stretch, unletterbox_boxes


@pytest.mark.parametrize(
    ("size", "network", "expected"),
    [
        ((576, 768), (416, 416), (312, 416)),
        ((768, 576), (416, 416), (416, 312)),
        ((427, 640), (416, 416), (277, 416)),  # 277.55: integer division
        ((100, 100), (320, 608), (320, 320)),
        ((416, 416), (416, 416), (416, 416)),
        ((1, 1), (416, 416), (416, 416)),
        ((2, 5000), (416, 416), (1, 416)),  # Darknet: 0 rows
    ],
)
def test_scaled_size(size: tuple[int, int], network: tuple[int, int], expected: tuple[int, int]) -> None:
    assert scaled_size(size, network) == expected


def test_the_corners_of_both_pictures_coincide() -> None:
    """2 -> 5 pixels by hand: steps of a quarter, not of half-pixel centres."""
    image = torch.tensor([[[0.0, 1.0]]])
    assert stretch(image, (1, 5))[0].tolist() == [[0, 0.25, 0.5, 0.75, 1]]


@pytest.mark.parametrize("size", [(576, 768), (33, 17), (300, 301), (1, 40), (40, 1), (1, 1), (700, 20)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_resize_is_align_corners(size: tuple[int, int], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    image = image if dtype == torch.uint8 else image.to(dtype) / 255
    exact = (image.double() / 255 if dtype == torch.uint8 else image.double())[None]
    expected = F.interpolate(exact, (96, 128), mode="bilinear", align_corners=True)[0]
    result = stretch(image, (96, 128))
    assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    # Positions are float32 as in Darknet, so a pixel may be off by 1e-4 of the step to its neighbour.
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=2e-4)


def test_darknets_last_row() -> None:
    """Rounding puts the last of 294 rows of 602 just before the picture's last one; Darknet then forgets half of it."""
    result = stretch(torch.ones(1, 602, 851), (294, 416))
    assert result[0, :-1].min() > 0.999
    assert result[0, -1].max() < 0.01


def test_margins_are_grey_and_rounded_down() -> None:
    result = letterbox(torch.ones(3, 427, 640), (416, 416))
    grey = (result == 0.5).all(dim=2).all(dim=0)
    assert grey.nonzero()[:, 0].tolist() == [*range(69), *range(69 + 277, 416)]
    assert result[:, 69 : 69 + 276].eq(1).all()


def test_mixed_kinds_give_the_same() -> None:
    image = torch.randint(0, 256, (50, 70, 3), dtype=torch.uint8).permute(2, 0, 1)
    expected = letterbox(image.float() / 255, (64, 64))
    assert torch.equal(letterbox(image, (64, 64)), expected)
    assert torch.equal(letterbox(image.contiguous(), (64, 64)), expected)
    same = torch.rand(3, 64, 64)
    assert torch.equal(letterbox(same, (64, 64)), same)


def test_the_way_back_takes_half_pixels() -> None:
    """640 x 427 in 416 x 416: 277 rows between margins of 69 and 70, but the inverse takes 69.5, as Darknet's does."""
    whole = torch.tensor([[0.0, 69.5, 416.0, 346.5]])
    torch.testing.assert_close(
        unletterbox_boxes(whole, (427, 640), (416, 416)), torch.tensor([[0.0, 0.0, 640.0, 427.0]])
    )
    empty = unletterbox_boxes(torch.zeros(0, 4), (427, 640), (416, 416))
    assert empty.shape == (0, 4)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (torch.zeros(4, 4), ValueError, r"letterbox: image must be \[C, height, width\] and not empty, got \[4, 4\]"),
        (torch.zeros(3, 0, 4), ValueError, r"not empty, got \[3, 0, 4\]"),
        (torch.zeros(3, 4, 4, dtype=torch.int32), TypeError, r"uint8 or floating point, got torch\.int32"),
    ],
)
def test_bad_pictures(image: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        letterbox(image, (32, 32))
