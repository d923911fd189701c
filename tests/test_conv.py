"""Convolutions with weights laid out once beside float64's, and beside the ordinary ones in the same type."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pydet._library import cpu_level
from pydet.models import packed
from pydet.models.packed import PackedWeight
from pydet.ops import conv as ours
from pydet.ops import set_backend
from pydet.reference import conv as reference

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


def case(shape: Shape, size: int, dtype: torch.dtype, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight and bias as numbers of that type, results of the order of one."""
    channels, filters, height, width = shape
    g = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(batch, channels, height, width, generator=g).to(dtype, memory_format=torch.channels_last)
    weight = torch.randn(filters, channels, size, size, generator=g) / (size * size * channels) ** 0.5
    return x, weight.to(dtype), torch.randn(filters, generator=g).to(dtype)


def computed(x: Tensor, weight: Tensor, bias: Tensor | None, slope: float) -> Tensor:
    return ours.conv(x, ours.laid_out(weight), bias, len(weight), weight.shape[2], slope)


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
def test_same_bits_in_any_batch_and_with_any_number_of_threads(size: int, dtype: torch.dtype) -> None:
    """Of weights near and far, whose blocks differ."""
    threads = torch.get_num_threads()
    for shape in ((64, 192, 17, 12), (512, 256, 9, 15)):
        x, weight, bias = case(shape, size, dtype, batch=3)
        together = computed(x, weight, bias, 0.1)
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            try:
                assert torch.equal(computed(x, weight, bias, 0.1), together)
                assert torch.equal(computed(x[1:2], weight, bias, 0.1), together[1:2])
            finally:
                torch.set_num_threads(threads)


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
    "three dimensions": (lambda a: {**a, "x": a["x"][0]}, r"x must be \[B, C, H, W\], C a multiple of 16"),
    "channels": (lambda a: {**a, "x": a["x"][:, :8]}, r"C a multiple of 16, and not empty, got \[2, 8, 5, 6\]"),
    "empty": (lambda a: {**a, "x": a["x"][:0]}, "not empty"),
    "dtype": (lambda a: {**a, "x": a["x"].double()}, "x must be float32 or bfloat16, got Double"),
    "layout": (lambda a: {**a, "x": a["x"].contiguous()}, "x must be channels last and dense"),
    "size": (lambda a: {**a, "size": 5}, "size must be 1 or 3, got 5"),
    "another size": (lambda a: {**a, "size": 1}, r"weight must be Float \[512\], got Float \[8192\]"),
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
    given = {"x": x, "weight": ours.laid_out(weight), "bias": bias, "filters": 32, "size": 3, "slope": 0.1}
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
        (torch.zeros(4, 3), r"C even and not 0, got \[4, 3\]"),
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
        torch.library.opcheck(torch.ops.pydet._conv.default, (x, laid_out, bias, 40, size, 0.1))
    torch.library.opcheck(torch.ops.pydet._conv_weight.default, (weight[:, :, 0, 0],))


class TestInALayer:
    @pytest.fixture(autouse=True)
    def inference(self) -> Iterator[None]:
        with torch.no_grad():
            yield

    @pytest.fixture
    def made(self, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
        """The weights that are laid out by us."""
        weights: list[Tensor] = []
        lay_out = ours.laid_out
        monkeypatch.setattr(ours, "laid_out", lambda weight: weights.append(weight) or lay_out(weight))
        return weights

    @pytest.mark.skipif(not packed.available(), reason="only where layers are packed")
    @pytest.mark.parametrize("activation", packed.SLOPES)
    def test_lays_out_once_for_all_sizes(self, activation: str, made: list[Tensor]) -> None:
        conv, weight = torch.nn.Conv2d(32, 24, 3, padding=1), PackedWeight()
        exact = copy.deepcopy(conv).double()
        for size in ((8, 8), (5, 7), (8, 8)):
            x = torch.randn(2, 32, *size).contiguous(memory_format=torch.channels_last)
            found = weight.convolve(conv, activation, x)
            assert found is not None
            expected = exact(x.double())
            expected = torch.where(expected < 0, expected * packed.SLOPES[activation], expected)
            torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
        assert len(made) == 1
        conv.weight.mul_(2)
        conv.bias.mul_(2)
        torch.testing.assert_close(weight.convolve(conv, activation, x), 2 * found)
        assert len(made) == 2

    @pytest.mark.skipif(not packed.available(), reason="only where layers are packed")
    @pytest.mark.parametrize(
        "options",
        [
            {"stride": 2},
            {"padding": 0},
            {"dilation": 2, "padding": 2},
            {"groups": 2},
            {"kernel_size": 1},
            {"padding": 2},
        ],
        ids=str,
    )
    def test_leaves_other_convolutions_to_others(self, options: dict[str, int], made: list[Tensor]) -> None:
        conv = torch.nn.Conv2d(32, 32, **{"kernel_size": 3, "padding": 1, **options})
        x = torch.randn(1, 32, 8, 8).contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(PackedWeight().convolve(conv, "linear", x), conv(x), rtol=1e-4, atol=1e-5)
        assert not made

    def test_leaves_what_it_does_not_take(self) -> None:
        x = torch.randn(1, 32, 8, 8).contiguous(memory_format=torch.channels_last)
        for size in SIZES:
            assert ours.serves(x, size) == (size == 3 or cpu_level() == "avx512")
            assert not ours.serves(x.contiguous(), size)
            assert not ours.serves(x.double(), size)
            assert not ours.serves(x[:, :24], size)
        line = x[:, :, :1].contiguous(memory_format=torch.channels_last)
        assert ours.serves(line, 1) == ours.serves(x, 1)
        assert not ours.serves(line, 3)  # three quarters of each tile would be nothing

    @pytest.mark.skipif(not packed.available(), reason="only where layers are packed")
    def test_others_layouts_are_told_apart(self) -> None:
        """A backend that is switched between two calls, and back."""
        conv, linear = torch.nn.Conv2d(32, 24, 3, padding=1), torch.nn.Linear(64, 24)
        weights = PackedWeight(), PackedWeight()
        x = torch.randn(2, 32, 6, 6).contiguous(memory_format=torch.channels_last)
        for backend in ("auto", "reference", "auto", "reference"):
            with set_backend(backend):
                found = (
                    weights[0].convolve(conv, "linear", x),
                    weights[1].connect(linear, "linear", x[:, :, :2, 0].flatten(1)),
                )
            torch.testing.assert_close(found[0], conv(x), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found[1], linear(x[:, :, :2, 0].flatten(1)), rtol=1e-4, atol=1e-5)

    @pytest.mark.skipif(not packed.available(), reason="only where layers are packed")
    def test_a_weight_with_fewer_filters(self) -> None:
        conv = torch.nn.Conv2d(32, 24, 3, padding=1)
        conv.weight, conv.bias = torch.nn.Parameter(conv.weight[:10]), torch.nn.Parameter(conv.bias[:10])
        x = torch.randn(2, 32, 6, 6).contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(PackedWeight().convolve(conv, "linear", x), conv(x), rtol=1e-4, atol=1e-5)

    @pytest.mark.skipif(not packed.available(), reason="only where layers are packed")
    def test_leaves_transforms_and_gradients_to_torch(self) -> None:
        layer = packed.PackedConv2d(torch.nn.Conv2d(32, 24, 3, padding=1), relu=True).requires_grad_(False)
        x = torch.randn(3, 1, 32, 6, 6)
        expected = torch.stack([layer(one) for one in x])
        torch.testing.assert_close(torch.vmap(layer)(x), expected, rtol=1e-4, atol=1e-5)
        layer.bias.requires_grad_()
        with torch.enable_grad():
            (grad,) = torch.autograd.grad(layer(x[0]).sum(), layer.bias)
        assert torch.equal(grad, (layer(x[0]) > 0).sum(dim=(0, 2, 3)).float())

    @pytest.mark.skipif(torch.bfloat16 not in DTYPES, reason="no kernel for bfloat16")
    def test_leaves_bfloat16_to_amx(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x = torch.randn(1, 32, 8, 8).contiguous(memory_format=torch.channels_last)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
        ours._is_faster.cache_clear()
        try:
            assert not ours.serves(x.bfloat16(), 3)
            assert ours.serves(x, 3)
        finally:
            monkeypatch.undo()
            ours._is_faster.cache_clear()
