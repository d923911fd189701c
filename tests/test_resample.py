"""Pictures in a network's input in one pass, beside the plain tensor code and torch's interpolation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import pydet
from pydet import reference
from pydet._library import cpu_level
from pydet.letterbox import bilinear, letterbox, resize_taps, stretch
from pydet.preprocess import short_side
from pydet.preprocess import stretch as normalized_square

CPU = torch.device("cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = [(48, 64), (37, 53), (5, 300), (300, 5), (1, 1), (90, 100), (2, 7)]
LAYOUTS = {
    "planes": lambda x: x,
    "pixels": lambda x: x.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    "turned": lambda x: x.flip(1, 2).transpose(1, 2).contiguous().transpose(1, 2).flip(1, 2),
    "part": lambda x: F.pad(x, (3, 2, 1, 4))[:, 1:-4, 3:-2],
}


def picture(size: tuple[int, int], dtype: torch.dtype = torch.uint8) -> Tensor:
    g = torch.Generator().manual_seed(size[0] + 1000 * size[1])
    pixels = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=g)
    return pixels if dtype == torch.uint8 else (pixels / 255).to(dtype)


def stacked(size: tuple[int, int], new_size: tuple[int, int]) -> list[Tensor]:
    return [tensor for axis in resize_taps(size, new_size) for tensor in axis.to(CPU)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_darknets_resize_is_the_reference_to_the_last_bit(
    size: tuple[int, int], dtype: torch.dtype, layout: str
) -> None:
    image = LAYOUTS[layout](picture(size, dtype))
    for new_size in ((40, 50), (96, 31), size):
        expected = reference.resample(image, *stacked(size, new_size))
        ours = stretch(image, new_size)
        assert ours.dtype == expected.dtype
        assert torch.equal(ours, expected)
        normal = reference.resample(image, *stacked(size, new_size), MEAN, STD)
        out = torch.full_like(normal, torch.nan)
        wide = image.float() if image.element_size() == 2 else image
        torch.ops.pydet._resample(wide, *stacked(size, new_size), MEAN, STD, False, out)
        assert torch.equal(out, normal)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_writes_its_place_in_a_batch_and_nothing_else(layout: torch.memory_format, dtype: torch.dtype) -> None:
    for image in (picture((30, 41)), picture((30, 41), torch.float64)):
        batch = torch.full((2, 3, 20, 25), -7.0, dtype=dtype).contiguous(memory_format=layout)
        place = batch[1, :, 3:15, 4:20]
        bilinear(image, *resize_taps((30, 41), (12, 16)), place)
        assert torch.equal(place, reference.resample(image, *stacked((30, 41), (12, 16))).to(dtype))
        place.fill_(-7)
        assert torch.equal(batch, torch.full_like(batch, -7))
        whole = letterbox(image, (20, 25))
        assert torch.equal(letterbox(image, (20, 25), batch[0]), whole.to(dtype))
        assert (whole[:, :1] == 0.5).all()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_is_torchs_interpolation_of_normalised_pictures(size: tuple[int, int]) -> None:
    """To the last bit where torch and we have fused multiply-adds, as SSD's and RetinaNet's boxes have to be."""
    fused = cpu_level() != "baseline" and torch.backends.cpu.get_cpu_capability() != "DEFAULT"
    tolerance = 0.0 if fused and torch.get_num_threads() > 1 else 1e-5
    for dtype in (torch.uint8, torch.float32):
        image = picture(size, dtype)
        pixels = image.float() / 255 if dtype == torch.uint8 else image
        normal = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        batch, _ = normalized_square([image], 100, MEAN, STD)
        expected = F.interpolate(normal[None], (100, 100), mode="bilinear", align_corners=False)
        torch.testing.assert_close(batch, expected, rtol=0, atol=tolerance)
        batch, placement = short_side([image, image[:, :1]], 150, 300, MEAN, STD)
        height, width = placement.size[0].tolist()
        expected = F.interpolate(normal[None], (height, width), mode="bilinear", align_corners=False)
        torch.testing.assert_close(batch[:1, :, :height, :width], expected, rtol=0, atol=tolerance)
        assert not batch[0, :, height:].any()
        assert not batch[0, :, :, width:].any()


def test_fused_is_the_reference_but_for_rounding() -> None:
    size, new_size = (37, 53), (40, 90)
    out = torch.empty(3, *new_size)
    torch.ops.pydet._resample(picture(size), *stacked(size, new_size), MEAN, STD, True, out)
    expected = reference.resample(picture(size), *stacked(size, new_size), MEAN, STD)
    torch.testing.assert_close(out, expected, rtol=0, atol=2e-6)


def test_any_number_of_colours_and_of_threads() -> None:
    image = torch.rand(5, 300, 400)
    expected = reference.resample(image, *stacked((300, 400), (211, 399)))
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert torch.equal(stretch(image, (211, 399)), expected)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(stretch(image[:1], (211, 399)), expected[:1])


def test_gradients_and_the_reference_backend() -> None:
    image = torch.rand(3, 9, 7, requires_grad=True)
    result = letterbox(image, (12, 12))
    (grad,) = torch.autograd.grad(result.sum(), image)
    assert grad.count_nonzero() > 9 * 7
    with torch.no_grad():
        assert torch.equal(letterbox(image, (12, 12)), result)
    with pydet.ops.set_backend("reference"):
        assert torch.equal(letterbox(image.detach(), (12, 12)), result)


def test_fake() -> None:
    args = (picture((9, 8)), *stacked((9, 8), (5, 6)), (), (), False, torch.empty(3, 5, 6))
    torch.library.opcheck(torch.ops.pydet._resample.default, args)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(3, 0, 8)}, r"image must be \[C, H, W\] and not empty, got \[3, 0, 8\]"),
        ({0: torch.zeros(3, 9, 8, dtype=torch.int32)}, "image must be uint8, float32 or float64, got Int"),
        ({1: torch.zeros(2, 4, dtype=torch.int64)}, r"rows must be int64 \[2, 5\], got Long \[2, 4\]"),
        ({1: torch.full((2, 5), 9)}, "rows must be in 0..8, got 9"),
        ({3: torch.full((2, 6), -1)}, "columns must be in 0..7, got -1"),
        ({4: torch.zeros(2, 6, dtype=torch.float64)}, r"the parts of columns must be float32 \[2, 6\], got Double"),
        ({5: MEAN[:2], 6: STD[:2]}, "mean and std must be one for each of 3 colours, got 2 and 2"),
        ({5: MEAN}, "mean and std must come together, got 3 and 0"),
        ({8: torch.zeros(1, 5, 6)}, r"out must be \[3, H, W\], got \[1, 5, 6\]"),
        ({8: torch.zeros(3, 5, 6, dtype=torch.uint8)}, "out must be floating point, got Byte"),
    ],
)
def test_messages(change: dict[int, Any], message: str) -> None:
    args: list[Any] = [picture((9, 8)), *stacked((9, 8), (5, 6)), (), (), False, torch.zeros(3, 5, 6)]
    for position, value in change.items():
        args[position] = value
    with pytest.raises(RuntimeError, match="_resample: " + message):
        torch.ops.pydet._resample(*args)
    assert not args[8].any()
