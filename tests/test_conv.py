"""Convolutions with weights laid out once beside float64's, and beside the ordinary ones in the same type."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pydet._library import cpu_level
from pydet.ops import conv as ours
from pydet.ops.conv import Geometry
from pydet.reference import conv as reference
from pydet.reference import max_pool_2x2

DTYPES = [dtype for dtype in (torch.float32, torch.bfloat16) if torch.ops.pydet._conv_serves(dtype.itemsize == 2)]
pytestmark = pytest.mark.skipif(not DTYPES, reason="no kernel for this processor")
# Channels, filters, height, width: odd and even, one tile, edges only, filters that fill no vector and several panels,
# more channels than are summed at a time.
Shape = tuple[int, int, int, int]
SHAPES: list[Shape] = [
    (16, 16, 2, 2),
    (16, 1, 1, 1),
    (32, 36, 3, 5),
    (16, 64, 4, 7),
    (48, 65, 13, 13),
    (112, 81, 1, 9),
    (64, 130, 10, 3),
    (256, 255, 6, 6),
    (1040, 50, 5, 4),
]
SIZES = [1, 3]
KEEP_SIZE = {geometry.size: geometry for geometry in ours.KEEP_SIZE}
# Of pictures: channels, filters, height, width and geometry. Odd and even sides, bands and windows that are not full,
# strides that leave rows over, no padding, all of it, one pixel, filters of several panels.
Picture = tuple[int, int, int, int, Geometry]
PICTURES: list[Picture] = [
    (3, 16, 17, 23, Geometry(3, 1, 1)),
    (3, 32, 16, 12, Geometry(3, 1, 1)),
    (1, 48, 9, 40, Geometry(3, 1, 0)),
    (3, 64, 21, 18, Geometry(7, 2, 3)),
    (2, 70, 30, 11, Geometry(5, 3, 4)),
    (4, 130, 3, 3, Geometry(3, 1, 1)),
    (3, 5, 1, 1, Geometry(3, 1, 1)),
    (4, 16, 6, 50, Geometry(1, 1, 0)),
    (3, 20, 15, 15, Geometry(15, 2, 7)),
    (1, 17, 40, 2, Geometry(2, 2, 1)),
]


def case(shape: Shape, size: int, dtype: torch.dtype, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight and bias as numbers of that type, results of the order of one."""
    channels, filters, height, width = shape
    g = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(batch, channels, height, width, generator=g).to(dtype, memory_format=torch.channels_last)
    weight = torch.randn(filters, channels, size, size, generator=g) / (size * size * channels) ** 0.5
    return x, weight.to(dtype), torch.randn(filters, generator=g).to(dtype)


def computed(x: Tensor, weight: Tensor, bias: Tensor | None, slope: float, pools: bool = False) -> Tensor:
    return ours.conv(x, ours.laid_out(weight), bias, len(weight), KEEP_SIZE[weight.shape[2]], slope, pools)


def picture_case(shape: Picture, dtype: torch.dtype, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    channels, filters, height, width, geometry = shape
    return case((channels, filters, height, width), geometry.size, dtype, batch)


def computed_picture(
    shape: Picture, x: Tensor, weight: Tensor, bias: Tensor | None, slope: float, pools: bool
) -> Tensor:
    return ours.conv(x, ours.laid_out(weight), bias, len(weight), shape[-1], slope, pools)


def assert_same_bits(x: Tensor, compute: Callable[[Tensor], Tensor]) -> None:
    """In any batch and with any number of threads."""
    together, threads = compute(x), torch.get_num_threads()
    for count in (1, 2, 3, 5):
        torch.set_num_threads(count)
        try:
            assert torch.equal(compute(x), together)
            assert torch.equal(compute(x[1:2]), together[1:2])
        finally:
            torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_the_convolution(shape: Shape, size: int, dtype: torch.dtype) -> None:
    x, weight, bias = case(shape, size, dtype)
    # Of bfloat16 the result is rounded to 2^-9 of itself; tiles and weights before that, in sums of products.
    tolerance = {torch.float32: 3e-6, torch.bfloat16: 3e-2}[dtype]
    for slope, offset in ((1, bias), (0.1, None), (0, bias)):
        exact = reference(x.double(), weight.double(), None if offset is None else offset.double(), slope)
        found = computed(x, weight, offset, slope)
        assert found.dtype == dtype
        assert found.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(found.double(), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pools", [False, True])
@pytest.mark.parametrize("shape", PICTURES, ids=str)
def test_is_the_convolution_of_a_picture(shape: Picture, pools: bool, dtype: torch.dtype) -> None:
    x, weight, bias = picture_case(shape, dtype)
    _, stride, padding = shape[-1]
    tolerance = {torch.float32: 3e-6, torch.bfloat16: 1e-2}[dtype]
    for slope, offset in ((1, bias), (0.1, None), (0, bias)):
        found = computed_picture(shape, x, weight, offset, slope, pools)
        exact = reference(
            x.double(), weight.double(), None if offset is None else offset.double(), slope, stride, padding, pools
        )
        assert found.dtype == dtype
        assert found.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(found.double(), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pools_what_it_would_give(shape: Shape, dtype: torch.dtype) -> None:
    x, weight, bias = case(shape, 3, dtype)
    x[0, 0, 0, 0] = torch.nan
    x[-1, -1, -1, -1] = -torch.inf
    for slope in (1, 0.1, 0):
        whole = computed(x, weight, bias, slope)
        size = (whole.shape[2] + 1) // 2, (whole.shape[3] + 1) // 2
        expected = max_pool_2x2(whole.double(), 2, size).to(dtype)
        torch.testing.assert_close(computed(x, weight, bias, slope, True), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", PICTURES[:5], ids=str)
def test_pictures_in_any_batch_and_with_any_number_of_threads(shape: Picture, dtype: torch.dtype) -> None:
    x, weight, bias = picture_case(shape, dtype, batch=3)
    assert_same_bits(x, lambda x: computed_picture(shape, x, weight, bias, 0.1, True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_no_number_in_a_picture_stays_near(dtype: torch.dtype) -> None:
    """It reaches what looks at it; in bfloat16 the pixel beside that too, which takes it along for a weight of 0."""
    shape = (3, 20, 12, 12, Geometry(3, 1, 1))
    x, weight, bias = picture_case(shape, dtype, batch=1)
    for value in (torch.nan, torch.inf):
        x[0, 0, 5, 6] = value
        finite = computed_picture(shape, x, weight, bias, 0.1, pools=False)[0].isfinite()
        assert not finite[:, 4:7, 5:8].any()
        finite[:, 4:7, 4:8] = True
        assert finite.all()
    x[0, 0, 5, 6] = torch.nan
    finite = computed_picture(shape, x, weight, bias, 0.1, pools=True)[0].isfinite()
    assert not finite[:, 2:4, 2:4].any()
    finite[:, 2:4, 2:4] = True
    assert finite.all()


@pytest.mark.parametrize("size", SIZES)
def test_float32_is_as_exact_as_the_ordinary_way(size: int) -> None:
    """So that the answers of float32 networks stay what they were."""
    x, weight, bias = case((1024, 128, 13, 13), size, torch.float32)
    exact = reference(x.double(), weight.double(), bias.double(), 0.1)
    errors = [
        (found.double() - exact).square().mean().sqrt()
        for found in (computed(x, weight, bias, 0.1), reference(x, weight, bias, 0.1))
    ]
    assert errors[0] < 1e-6
    assert errors[0] < 2 * errors[1]  # which sums in another order under another torch


@pytest.mark.skipif(torch.bfloat16 not in DTYPES, reason="no kernel for bfloat16")
@pytest.mark.parametrize("size", SIZES)
def test_bfloat16_loses_little_more_than_its_result_does(size: int) -> None:
    x, weight, bias = case((256, 128, 26, 26), size, torch.bfloat16)
    exact = reference(x.double(), weight.double(), bias.double(), 1)
    error = (computed(x, weight, bias, 1).double() - exact).square().mean().sqrt()
    rounded = (exact.to(torch.bfloat16).double() - exact).square().mean().sqrt()
    assert error < (2 if size == 3 else 1.01) * rounded


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(64, 192, 17, 12), (512, 256, 9, 15)], ids=str)
def test_same_bits_in_any_batch_and_with_any_number_of_threads(shape: Shape, size: int, dtype: torch.dtype) -> None:
    """Of weights near and far, whose blocks differ."""
    x, weight, bias = case(shape, size, dtype, batch=3)
    assert_same_bits(x, lambda x: computed(x, weight, bias, 0.1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_no_number_stays_near(dtype: torch.dtype) -> None:
    """A NaN or infinity reaches all that looks at it, and at most the rest of their tiles."""
    x, weight, bias = case((16, 20, 12, 12), 3, dtype, batch=1)
    for value in (torch.nan, torch.inf):
        x[0, 3, 5, 6] = value
        found = computed(x, weight, bias, 0.1)[0]
        assert not found[:, 4:7, 5:8].isfinite().any()
        outside = found.clone()
        outside[:, 4:8, 4:8] = 0
        assert outside.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_relu_of_infinity(size: int, dtype: torch.dtype) -> None:
    x, weight, bias = case((16, 20, 4, 4), size, dtype)
    bias[::2] = -torch.inf
    found = computed(x, weight, bias, 0)
    assert (found[:, ::2] == 0).all()
    assert found.isfinite().all()


def test_avx2_computes_the_same() -> None:
    if cpu_level() != "avx512":
        pytest.skip("this is the only level")
    environment = {**os.environ, "PYDET_CPU_LEVEL": "avx2"}
    here = Path(__file__)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", here.name]
    process = subprocess.run(command, env=environment, cwd=here.parent, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout
    assert "passed" in process.stdout


BAD = {
    "three dimensions": (lambda a: {**a, "x": a["x"][0]}, r"x must be \[B, C, H, W\] and not empty, got \[16, 5, 6\]"),
    "channels": (
        lambda a: {**a, "x": a["x"][:, :8].contiguous(memory_format=torch.channels_last)},
        "C must be a multiple of 16 where size is 1 or 3 and .*, else at most 4, got 8 with size 3, stride 1",
    ),
    "stride": (lambda a: {**a, "stride": 2}, "else at most 4, got 16 with size 3, stride 2"),
    "no stride": (lambda a: {**a, "stride": 0}, "stride 1 to size, .* got 3, 0, 1"),
    "padding": (lambda a: {**a, "padding": 0}, "else at most 4, got 16 with size 3, stride 1, padding 0"),
    "too much padding": (lambda a: {**a, "padding": 3}, r"padding 0 to size - 1, got 3, 1, 3"),
    "negative padding": (lambda a: {**a, "padding": -1}, r"padding 0 to size - 1, got 3, 1, -1"),
    "too large": (
        lambda a: {**a, "size": 7, "padding": 0},
        r"a filter of 7 does not fit into x \[2, 16, 5, 6\] padded by 0",
    ),
    "pools a pixel": (lambda a: {**a, "size": 1, "padding": 0, "pools": True}, "the results of size 1 are not pooled"),
    "empty": (lambda a: {**a, "x": a["x"][:0]}, "not empty"),
    "dtype": (lambda a: {**a, "x": a["x"].double()}, "x must be float32 or bfloat16, got Double"),
    "layout": (lambda a: {**a, "x": a["x"].contiguous()}, "x must be channels last and dense"),
    "size": (lambda a: {**a, "size": 16}, "size must be 1 to 15, .* got 16, 1, 1"),
    "another size": (lambda a: {**a, "size": 1, "padding": 0}, r"weight must be Float \[512\], got Float \[8192\]"),
    "no filters": (lambda a: {**a, "filters": 0}, "filters must be positive, got 0"),
    "too many filters": (lambda a: {**a, "filters": 33}, r"weight must be Float \[12288\], got Float \[8192\]"),
    "weight's dtype": (lambda a: {**a, "weight": a["weight"].bfloat16()}, r"must be Float \[8192\], got BFloat16"),
    "weight's shape": (lambda a: {**a, "weight": a["weight"][None]}, r"got Float \[1, 8192\]"),
    "a part of a weight": (lambda a: {**a, "weight": a["weight"].repeat_interleave(2)[::2]}, "weight must be dense"),
    "bias": (lambda a: {**a, "bias": a["bias"][:-1]}, r"bias must be floating \[32\], got Float \[31\]"),
    "bias's dtype": (lambda a: {**a, "bias": a["bias"].long()}, r"bias must be floating \[32\], got Long"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str) -> None:
    x, weight, bias = case((16, 32, 5, 6), 3, torch.float32)
    change, message = BAD[name]
    geometry = {"size": 3, "stride": 1, "padding": 1}
    given = {
        "x": x,
        "weight": ours.laid_out(weight),
        "bias": bias,
        "filters": 32,
        **geometry,
        "slope": 0.1,
        "pools": False,
    }
    torch.ops.pydet._conv(**given)
    with pytest.raises(RuntimeError, match="_conv: .*" + message):
        torch.ops.pydet._conv(**change(given))


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.zeros(4, 4, 3, 3).double(), "weight must be float32 or bfloat16, got Double"),
        (torch.zeros(4, 4, 5, 5), r"must be \[filters, C, 3, 3\], .*, got \[4, 4, 5, 5\]"),
        (torch.zeros(4, 4, 3, 1), r"got \[4, 4, 3, 1\]"),
        (torch.zeros(4, 4, 3), r"got \[4, 4, 3\]"),
        (torch.zeros(4, 3).bfloat16(), r"C of a bfloat16 weight must be even, got \[4, 3\]"),
        (torch.zeros(0, 4), r"got \[0, 4\]"),
        (torch.zeros(4, 0, 3, 3), r"got \[4, 0, 3, 3\]"),
    ],
)
def test_bad_weights(weight: Tensor, message: str) -> None:
    with pytest.raises(RuntimeError, match="_conv_weight: .*" + message):
        torch.ops.pydet._conv_weight(weight)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weights_however_they_lie(dtype: torch.dtype) -> None:
    """Those of a network are channels last."""
    for size in SIZES:
        _, weight, _ = case((80, 70, 1, 1), size, dtype)
        expected = ours.laid_out(weight)
        assert torch.equal(ours.laid_out(weight.contiguous(memory_format=torch.channels_last)), expected)
        assert torch.equal(ours.laid_out(weight.transpose(2, 3).contiguous().transpose(2, 3)), expected)
    assert torch.equal(ours.laid_out(weight[:, :, 0, 0].t().contiguous().t()), ours.laid_out(weight[:, :, 0, 0]))


def test_shapes_for_compilers() -> None:
    for size in SIZES:
        x, weight, bias = case((16, 40, 5, 6), size, torch.float32)
        laid_out = ours.laid_out(weight)
        torch.library.opcheck(torch.ops.pydet._conv_weight.default, (weight,))
        for pools in (False, size == 3):
            args = (x, laid_out, bias, 40, *KEEP_SIZE[size], 0.1, pools)
            torch.library.opcheck(torch.ops.pydet._conv.default, args)
    torch.library.opcheck(torch.ops.pydet._conv_weight.default, (weight[:, :, 0, 0],))
    for shape in PICTURES[3:5]:
        x, weight, bias = picture_case(shape, torch.float32)
        for pools in (False, True):
            args = (x, ours.laid_out(weight), bias, len(weight), *shape[-1], 0.1, pools)
            torch.library.opcheck(torch.ops.pydet._conv.default, args)
