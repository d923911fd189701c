"""Convolutions of 3 x 3 with fewer multiplications, beside oneDNN's with its weights laid out once too, and torch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pydet
from pydet.models import packed
from pydet.ops import conv_3x3
from pydet.reference import conv_3x3 as reference

# Channels, filters and side of layers of YOLOv3-tiny and YOLOv3: few channels, many pixels, many channels.
LAYERS = [
    (128, 256, 52),
    pytest.param(32, 64, 208, marks=pytest.mark.long),
    pytest.param(512, 1024, 13, marks=pytest.mark.long),
]


def close(theirs: Tensor, ours: Tensor) -> bool:
    return bool((theirs - ours).float().norm() < 4 * torch.finfo(ours.dtype).eps * ours.float().norm())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize(("channels", "filters", "side"), LAYERS)
def test_conv_3x3(race: Callable[..., Any], channels: int, filters: int, side: int, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(channels, filters, 3, padding=1).to(dtype).requires_grad_(False)
    conv.weight.copy_(torch.randn(conv.weight.shape, generator=g) / (9 * channels) ** 0.5)
    x = torch.randn(1, channels, side, side, generator=g).to(dtype, memory_format=torch.channels_last)
    if not conv_3x3.serves(x):
        pytest.skip("this processor has no kernel for it, or a better one")
    weight = conv_3x3.transformed(conv.weight)
    onednn, geometry = torch.ops.mkldnn, packed.KEEPS_SIZE
    laid_out = onednn._reorder_convolution_weight(conv.weight, *geometry, list(x.shape))
    with torch.inference_mode(), pydet.keep_freed_memory():
        contenders = {
            "pydet": lambda: conv_3x3.conv_3x3(x, weight, conv.bias, filters, 0.1),
            "oneDNN": lambda: onednn._convolution_pointwise(x, laid_out, conv.bias, *geometry, "leaky_relu", [0.1], ""),
            "reference": lambda: reference(x, conv.weight, conv.bias, 0.1),
        }
        race(contenders, close)
