"""Convolutions with weights laid out once, beside oneDNN's with the same, and torch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pydet
from pydet.models.max_pool import MaxPool2x2
from pydet.ops import conv as our_conv
from pydet.ops.conv import Geometry
from pydet.reference import conv as reference

# Size, channels, filters and side of layers of YOLOv3-tiny and YOLOv3: few channels, many pixels, many channels.
LAYERS = [
    (3, 128, 256, 52),
    pytest.param(3, 32, 64, 208, marks=pytest.mark.long),
    pytest.param(3, 512, 1024, 13, marks=pytest.mark.long),
    pytest.param(1, 1024, 256, 13, marks=pytest.mark.long),
]


def close(theirs: Tensor, ours: Tensor) -> bool:
    off = (theirs - ours).float().norm() / ours.float().norm()
    return off.item() < {torch.float32: 2e-6, torch.bfloat16: 1e-2}[ours.dtype]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize(("size", "channels", "filters", "side"), LAYERS)
def test_conv(race: Callable[..., Any], size: int, channels: int, filters: int, side: int, dtype: torch.dtype) -> None:
    run(race, Geometry(size, 1, size // 2), (channels, filters, side), dtype, pools=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize(
    ("size", "stride", "filters", "side", "pools"),
    [
        (3, 1, 16, 416, True),  # YOLOv3-tiny's
        pytest.param(7, 2, 64, 448, True, marks=pytest.mark.long),  # YOLO's
    ],
)
def test_conv_of_a_picture(
    race: Callable[..., Any], size: int, stride: int, filters: int, side: int, pools: bool, dtype: torch.dtype
) -> None:
    run(race, Geometry(size, stride, size // 2), (3, filters, side), dtype, pools)


def run(
    race: Callable[..., Any], geometry: Geometry, shape: tuple[int, int, int], dtype: torch.dtype, pools: bool
) -> None:
    channels, filters, side = shape
    size, stride, padding = geometry
    g = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(channels, filters, *geometry).to(dtype).requires_grad_(False)
    conv.weight.copy_(torch.randn(conv.weight.shape, generator=g) / (size * size * channels) ** 0.5)
    x = torch.randn(1, channels, side, side, generator=g).to(dtype, memory_format=torch.channels_last)
    if not our_conv.serves(x, geometry, pools):
        pytest.skip("this processor has no kernel for it, or a better one")
    weight, pool = our_conv.laid_out(conv.weight), MaxPool2x2(ceil_mode=True)
    onednn, arguments = torch.ops.mkldnn, (conv.padding, conv.stride, conv.dilation, conv.groups)
    laid_out = onednn._reorder_convolution_weight(conv.weight, *arguments, list(x.shape))

    def by_onednn() -> Tensor:
        y = onednn._convolution_pointwise(x, laid_out, conv.bias, *arguments, "leaky_relu", [0.1], "")
        return pool(y) if pools else y

    with torch.inference_mode(), pydet.keep_freed_memory():
        contenders = {
            "pydet": lambda: our_conv.conv(x, weight, conv.bias, filters, geometry, 0.1, pools),
            "oneDNN": by_onednn,
            "reference": lambda: reference(x, conv.weight, conv.bias, 0.1, stride, padding, pools),
        }
        race(contenders, close)
