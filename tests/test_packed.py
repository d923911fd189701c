"""Weights that are laid out once: what changes them unseen, and what else may be done with a convolution."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

from pydet.models import SSD
from pydet.models.darknet.cfg import parse_cfg
from pydet.models.darknet.network import Darknet
from pydet.models.max_pool import MaxPool2x2
from pydet.models.packed import PackedConv2d, pack

CFG = """[net]
height=32
width=32
channels=3
[convolutional]
size=3
pad=1
filters=16
activation=leaky
[convolutional]
size={size}
stride={stride}
pad=1
filters=16
activation=linear
"""


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def packed(channels: int = 32, filters: int = 32, size: int = 3, relu: bool = False) -> PackedConv2d:
    conv = nn.Conv2d(channels, filters, size, padding=size // 2)
    return PackedConv2d(conv.requires_grad_(False), relu).eval()


def picture(channels: int = 32, side: int = 12) -> Tensor:
    return torch.randn(1, channels, side, side).to(memory_format=torch.channels_last)


def check(conv: PackedConv2d, x: Tensor) -> None:
    with torch.no_grad():
        expected = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=conv.padding)
        torch.testing.assert_close(conv(x), expected.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [1, 3])
def test_fused_optimizers_count_no_versions(size: int) -> None:
    conv, x = packed(size=size).requires_grad_(True), picture()
    optimizer = torch.optim.AdamW(conv.parameters(), lr=0.1, fused=True)
    for _ in range(3):
        check(conv, x)
        conv(x).sum().backward()
        optimizer.step()
        with torch.no_grad():
            conv.weight.data.mul_(2)  # which nothing counts, either


@pytest.mark.parametrize("size", [1, 3])
def test_weights_that_are_parts_of_one_tensor(size: int) -> None:
    conv, x = packed(size=size), picture()
    check(conv, x)
    weights = torch.randn(3, 32, 32, size, size)
    for weight in (*weights, weights[0].transpose(0, 1), weights[1].flip(0)):
        conv.weight = nn.Parameter(weight, requires_grad=False)
        check(conv, x)
    conv.weight, conv.bias = nn.Parameter(weights[0, :16], False), nn.Parameter(torch.zeros(16), False)
    check(conv, x)


def test_weights_of_inference_mode() -> None:
    with torch.inference_mode():
        conv, other, x = packed(), packed(), picture()
        check(conv, x)
        conv.load_state_dict(other.state_dict())
        check(conv, x)


@pytest.mark.parametrize("stride", [8, 1000, 10**17])
def test_strides_beyond_the_filter(stride: int) -> None:
    network = Darknet(parse_cfg(CFG.format(size=7, stride=stride).replace("filters=16", "filters=3", 1)))
    network.eval().requires_grad_(False)
    x = torch.rand(1, 3, 32, 32)
    for conv in (network.layers[0].conv, network.layers[1].conv):
        conv.to(memory_format=torch.channels_last)
    first, second = (layer.conv for layer in network.layers)
    expected = F.conv2d(
        F.leaky_relu(F.conv2d(x, first.weight, first.bias, padding=1), 0.1), second.weight, second.bias, stride, 3
    )
    with torch.no_grad():
        torch.testing.assert_close(network.forward_features(x)[0], expected, rtol=1e-4, atol=1e-5)


def weight_norm(conv: nn.Conv2d) -> nn.Module:
    nn.utils.weight_norm(conv)
    return conv


def pruned(conv: nn.Conv2d) -> nn.Module:
    return prune.l1_unstructured(conv, "weight", amount=0.5)


class Twice(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def subclass(conv: nn.Conv2d) -> nn.Module:
    other = Twice(conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.padding)
    other.load_state_dict(conv.state_dict())
    return other


class Wrapped(nn.Module):
    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + 1


@pytest.mark.parametrize("change", [weight_norm, pruned, subclass, Wrapped])
def test_a_layer_that_is_more_than_a_convolution(change: Callable[[nn.Conv2d], nn.Module]) -> None:
    network = Darknet(parse_cfg(CFG.format(size=1, stride=1))).eval()
    layer = network.layers[1]
    layer.conv = change(layer.conv)
    network.requires_grad_(False)
    x = torch.rand(1, 3, 32, 32).to(memory_format=torch.channels_last)
    with torch.no_grad():
        network.forward_features(x)
        for parameter in network.parameters():
            parameter.mul_(1.5)
    expected = network.forward_features(x.clone().requires_grad_(True))[0]
    with torch.no_grad():
        torch.testing.assert_close(network.forward_features(x)[0], expected.detach(), rtol=1e-4, atol=1e-5)


def test_hooks_are_called() -> None:
    network = Darknet(parse_cfg(CFG.format(size=1, stride=1))).eval().requires_grad_(False)
    called = []
    network.layers[1].conv.register_forward_hook(lambda *args: called.append(args[2].shape))
    with torch.no_grad():
        network.forward_features(torch.rand(1, 3, 32, 32))
    assert called == [(1, 16, 32, 32)]


def test_a_pruned_network_can_be_fused() -> None:
    network = SSD(["background", "cell"]).eval().requires_grad_(False)
    prune.l1_unstructured(network.backbone.features[0], "weight", amount=0.5)
    x = torch.rand(1, 3, 300, 300)
    with torch.no_grad():
        expected = network.forward_heads(x)
        for ours, theirs in zip(network.fuse().forward_heads(x), expected, strict=True):
            if isinstance(theirs, Tensor):
                torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_a_convolution_that_stands_twice() -> None:
    conv = nn.Conv2d(32, 32, 3, padding=1)
    network = nn.Sequential(conv, nn.ReLU(), conv, MaxPool2x2()).eval().requires_grad_(False)
    x = picture()
    expected = network(x)
    pack(network)
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-4)


def test_modes_that_watch_operators() -> None:
    conv, x = packed(), picture()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        conv(x)
    assert counter.get_total_flops() == 2 * 32 * 32 * 9 * 12 * 12
    from torch._subclasses.fake_tensor import FakeTensorMode

    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        conv(torch.empty(1, 32, 12, 12))
    check(conv, x)


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_trace(ceil_mode: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), MaxPool2x2(ceil_mode), nn.Conv2d(32, 32, 1))
    network.eval().requires_grad_(False)
    pack(network)
    x, other = picture(3, 13), picture(3, 13)
    traced = torch.jit.trace(network, x)
    torch.testing.assert_close(traced(other), network(other), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_channels_are_refused_by_torch(channels: int, dtype: torch.dtype) -> None:
    for pool in (None, MaxPool2x2(True)):
        conv = PackedConv2d(nn.Conv2d(4, 16, 1).requires_grad_(False), True, pool).to(dtype)
        with pytest.raises(RuntimeError, match="to have 4 channels"):
            conv(picture(channels).to(dtype))
    conv = PackedConv2d(nn.Conv2d(4, 16, 1).requires_grad_(False), relu=False)
    assert conv(torch.rand(4, 5, 6)).shape == (16, 5, 6)  # which torch takes, too


def test_gradient_of_what_is_added_to() -> None:
    conv, x = packed(relu=True), picture()
    onto = picture().requires_grad_(True)
    result = conv.add_to(onto * 1, x)
    result.sum().backward()
    assert torch.equal(onto.grad != 0, result > 0)
