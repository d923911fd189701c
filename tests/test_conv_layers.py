"""Layers whose convolutions are computed by our kernels, and those that are left to others."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from pydet._library import cpu_level
from pydet.models import Darknet, packed
from pydet.models.darknet.cfg import parse_cfg
from pydet.models.darknet.convolutional import Convolutional
from pydet.models.darknet.layers import MaxPool
from pydet.models.max_pool import MaxPool2x2
from pydet.models.packed import PackedWeight, pack
from pydet.ops import conv as ours
from pydet.ops import set_backend
from pydet.ops.conv import KEEP_SIZE, Geometry

DTYPES = [dtype for dtype in (torch.float32, torch.bfloat16) if torch.ops.pydet._conv_serves(dtype.itemsize == 2)]
pytestmark = pytest.mark.skipif(not DTYPES, reason="no kernel for this processor")


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The weights that are laid out by us."""
    weights: list[Tensor] = []
    lay_out = ours.laid_out
    monkeypatch.setattr(ours, "laid_out", lambda weight: weights.append(weight) or lay_out(weight))
    return weights


@pytest.mark.skipif(not packed.available(), reason="only where layers are packed")
@pytest.mark.parametrize("activation", packed.SLOPES)
def test_lays_out_once_for_all_sizes(activation: str, made: list[Tensor]) -> None:
    conv, weight = torch.nn.Conv2d(32, 24, 3, padding=1).requires_grad_(False), PackedWeight()
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
def test_leaves_other_convolutions_to_others(options: dict[str, int], made: list[Tensor]) -> None:
    conv = torch.nn.Conv2d(32, 32, **{"kernel_size": 3, "padding": 1, **options}).requires_grad_(False)
    x = torch.randn(1, 32, 8, 8).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(PackedWeight().convolve(conv, "linear", x), conv(x), rtol=1e-4, atol=1e-5)
    assert not made


def test_leaves_what_it_does_not_take() -> None:
    x = torch.randn(1, 32, 8, 8).contiguous(memory_format=torch.channels_last)
    for geometry in KEEP_SIZE:
        assert ours.serves(x, geometry) == (geometry.size == 3 or cpu_level() == "avx512")
        assert not ours.serves(x.contiguous(), geometry)
        assert not ours.serves(x.double(), geometry)
        assert not ours.serves(x[:, :24], geometry)
    pixel, window = KEEP_SIZE
    assert not ours.serves(x, pixel, pools=True)
    assert ours.serves(x, window, pools=True)
    line = x[:, :, :1].contiguous(memory_format=torch.channels_last)
    assert ours.serves(line, pixel) == ours.serves(x, pixel)
    assert not ours.serves(line, window)  # three quarters of each tile would be nothing
    picture = x[:, :3].contiguous(memory_format=torch.channels_last)
    for geometry in (Geometry(3, 1, 1), Geometry(7, 2, 3), Geometry(15, 4, 14)):
        assert ours.serves(picture, geometry, pools=True)
        assert ours.serves(picture, geometry) == (geometry.size > 3 and cpu_level() == "avx512")
    for geometry in (Geometry(16, 1, 8), Geometry(3, 1, 3), Geometry(9, 1, 0)):
        assert not ours.serves(picture, geometry, pools=True)
    assert not ours.serves(x[:, :5].contiguous(memory_format=torch.channels_last), Geometry(7, 2, 3), pools=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_serves_without_onednn(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose operators have no public names; what ours do not take goes the ordinary way then."""
    monkeypatch.setattr(packed, "available", lambda: False)
    conv, strided, linear = nn.Conv2d(32, 24, 3, padding=1), nn.Conv2d(32, 24, 3, 2, 1), nn.Linear(64, 24)
    x = torch.randn(2, 32, 6, 6).to(dtype, memory_format=torch.channels_last)
    for layer in (conv, strided, linear):
        layer.requires_grad_(False)
    found = PackedWeight().convolve(conv.to(dtype), "linear", x)
    assert found is not None
    torch.testing.assert_close(found, conv(x), rtol=1e-2 if dtype.itemsize == 2 else 1e-4, atol=2e-2)
    assert PackedWeight().convolve(strided.to(dtype), "linear", x) is None
    assert PackedWeight().convolve(conv, "linear", x, onto=found) is None
    connected = PackedWeight().connect(linear.to(dtype), "linear", x[:, :, :2, 0].flatten(1))
    assert (connected is not None) == (cpu_level() == "avx512")


@pytest.mark.skipif(not packed.available(), reason="only where layers are packed")
def test_others_layouts_are_told_apart() -> None:
    """A backend that is switched between two calls, and back."""
    conv, linear = (m.requires_grad_(False) for m in (nn.Conv2d(32, 24, 3, padding=1), nn.Linear(64, 24)))
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
def test_a_weight_with_fewer_filters() -> None:
    conv = torch.nn.Conv2d(32, 24, 3, padding=1)
    conv.weight, conv.bias = (nn.Parameter(tensor[:10], requires_grad=False) for tensor in (conv.weight, conv.bias))
    x = torch.randn(2, 32, 6, 6).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(PackedWeight().convolve(conv, "linear", x), conv(x), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not packed.available(), reason="only where layers are packed")
def test_leaves_transforms_and_gradients_to_torch() -> None:
    layer = packed.PackedConv2d(torch.nn.Conv2d(32, 24, 3, padding=1), relu=True).requires_grad_(False)
    x = torch.randn(3, 1, 32, 6, 6)
    expected = torch.stack([layer(one) for one in x])
    torch.testing.assert_close(torch.vmap(layer)(x), expected, rtol=1e-4, atol=1e-5)
    layer.bias.requires_grad_()
    with torch.enable_grad():
        (grad,) = torch.autograd.grad(layer(x[0]).sum(), layer.bias)
    assert torch.equal(grad, (layer(x[0]) > 0).sum(dim=(0, 2, 3)).float())


@pytest.mark.skipif(torch.bfloat16 not in DTYPES, reason="no kernel for bfloat16")
def test_leaves_bfloat16_to_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1, 32, 8, 8).contiguous(memory_format=torch.channels_last)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    ours._is_faster.cache_clear()
    try:
        assert not ours.serves(x.bfloat16(), Geometry(3, 1, 1))
        assert ours.serves(x, Geometry(3, 1, 1))
    finally:
        monkeypatch.undo()
        ours._is_faster.cache_clear()


@pytest.mark.skipif(not packed.available(), reason="only where layers are packed")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [3, 32])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_pools_along_with_the_convolution(
    ceil_mode: bool, channels: int, dtype: torch.dtype, made: list[Tensor]
) -> None:
    """Where it rounds up, or there is nothing to round."""
    network = nn.Sequential(nn.Conv2d(channels, 24, 3, padding=1), nn.ReLU(), MaxPool2x2(ceil_mode))
    plain = copy.deepcopy(network.requires_grad_(False)).to(dtype)
    pack(network.to(dtype))
    assert [type(layer) for layer in network] == [packed.PackedConv2d, nn.Identity, nn.Identity]
    for size in ((8, 6), (7, 6), (8, 5)):
        x = torch.randn(2, channels, *size).to(dtype, memory_format=torch.channels_last)
        torch.testing.assert_close(network(x), plain(x), rtol=1e-2 if dtype.itemsize == 2 else 1e-5, atol=2e-2)
        taken = ceil_mode or size == (8, 6)
        assert network[0].packed.convolve_and_pool(network[0], "relu", x, network[0].pool) is not None or not taken
    assert made


def test_packs_what_follows_in_a_sequential_only() -> None:
    def conv() -> nn.Conv2d:
        return nn.Conv2d(4, 4, 3, padding=1)

    alone = nn.Sequential(conv(), MaxPool2x2(), conv(), nn.ReLU(), nn.ReLU(), MaxPool2x2(), conv())
    pack(alone)
    kinds = [type(layer).__name__ for layer in alone]
    assert kinds == [*("PackedConv2d", "Identity") * 2, "ReLU", "MaxPool2x2", "PackedConv2d"]
    assert [(layer.activation, layer.pool is None) for layer in alone if isinstance(layer, packed.PackedConv2d)] == [
        ("linear", False),
        ("relu", True),
        ("linear", True),
    ]
    rare = nn.Sequential(nn.Conv2d(4, 4, 3, padding="same"), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"))
    pack(rare)
    assert [type(layer) for layer in rare] == [nn.Conv2d, nn.Conv2d]
    others = nn.ModuleList([conv(), nn.ReLU(), MaxPool2x2()])
    pack(others)
    assert [type(layer) for layer in others] == [packed.PackedConv2d, nn.ReLU, MaxPool2x2]
    assert others[0].activation == "linear"
    assert others[0].pool is None


CFG = """
[net]
width=24
height=24
channels=3
[convolutional]
filters=16
size=3
pad=1
activation=leaky
[maxpool]
size=2
stride=2
[convolutional]
filters=32
size=3
pad=1
activation=relu
[maxpool]
size=2
stride=2
padding={padding}
[convolutional]
filters=16
size=3
pad=1
activation=linear
[maxpool]
size=2
stride=1
[route]
layers={route}
"""


@pytest.mark.parametrize(
    ("padding", "route", "pooled"),
    [
        (1, "-1,-2", [True, True, False]),  # windows that overlap are left to others
        (0, "-1,-2", [True, False, False]),  # and those that leave an odd last row out
        (1, "2", [True, False, False]),  # a route wants the map as it is
        (1, "3", [True, True, False]),
    ],
)
def test_a_network_pools_what_nothing_else_reads(padding: int, route: str, pooled: list[bool]) -> None:
    network = Darknet(parse_cfg(CFG.format(padding=padding, route=route))).eval()
    fused = copy.deepcopy(network).fuse().fuse()
    assert [layer.pool is not None for layer in fused.layers if isinstance(layer, Convolutional)] == pooled
    assert [layer.is_done for layer in fused.layers if isinstance(layer, MaxPool)] == pooled
    x = torch.rand(2, 3, 24, 24)
    torch.testing.assert_close(fused.forward_features(x), network.forward_features(x), rtol=1e-5, atol=1e-5)
    assert fused.state_dict().keys() == network.state_dict().keys()
