"""Convolutions of 3 x 3 on the CPU with fewer multiplications; no operator for users, whose is torch's.

Winograd's minimal filtering (Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural Networks", section 4.1): 4
pixels of the result, which lie in a square, take 16 multiplications for each channel and filter instead of 36. In
float32 it is also the more exact way, since fewer products are summed; in bfloat16 tiles and weights are rounded once
more after their transforms.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from pydet.ops._backend import has_internal
from pydet.ops._fakes import register_fake

FILTERS_OF_PANEL = 64
VECTOR = 16
# G of F(2 x 2, 3 x 3): a filter's three rows, or columns, become four.
TRANSFORM = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))


def serves(x: Tensor) -> bool:
    """Whether `conv_3x3` takes x [B, C, H, W] here, and is faster than what torch has."""
    return (
        x.dtype in (torch.float32, torch.bfloat16)
        and x.shape[1] % VECTOR == 0
        and min(x.shape[2:]) > 1
        and x.is_contiguous(memory_format=torch.channels_last)
        and has_internal("_conv_3x3", x.device)
        and _has_kernel(x.dtype == torch.bfloat16)
    )


@cache
def _has_kernel(bfloat16: bool) -> bool:
    # AMX multiplies matrices of bfloat16 eight times as fast as the instructions that are used here.
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return bool(torch.ops.pydet._conv_3x3_serves(bfloat16)) and not (bfloat16 and amx())


def conv_3x3(x: Tensor, weight: Tensor, bias: Tensor | None, filters: int, slope: float) -> Tensor:
    """Convolution of stride 1 whose result has the size of x, and what multiplies it where it is below 0.

    Args:
        x: [B, C, H, W], channels last; see `serves`.
        weight: What `transformed` gives.
        bias: [filters] or None.
        filters: How many there are.
        slope: 1 for none, 0 for a ReLU.

    Returns:
        [B, filters, H, W], channels last.
    """
    return torch.ops.pydet._conv_3x3(x, weight, bias, filters, slope)


def transformed(weight: Tensor) -> Tensor:
    """G w G^T of weight [filters, C, 3, 3], as `conv_3x3` reads it.

    Filters are cut into panels of 64, the last one filled up to a multiple of 16. Of each panel: [16, C, filters], in
    bfloat16 [16, C / 2, filters, 2], since two channels are multiplied at once.
    """
    g = torch.tensor(TRANSFORM, dtype=torch.float64)
    places = torch.einsum("ia,jb->ijab", g, g).reshape(16, 9)
    panels = []
    for filters in weight.detach().split(FILTERS_OF_PANEL):
        count, channels = filters.shape[:2]
        panel = (places @ filters.permute(2, 3, 1, 0).reshape(9, -1).double()).to(weight.dtype)
        panel = F.pad(panel.view(16, channels, count), (0, -count % VECTOR))
        if weight.dtype == torch.bfloat16:
            panel = panel.unflatten(1, (channels // 2, 2)).transpose(2, 3)
        panels.append(panel.flatten())
    return torch.cat(panels)


@register_fake("pydet::_conv_3x3")
def _(x: Tensor, weight: Tensor, bias: Tensor | None, filters: int, slope: float) -> Tensor:
    shape = (x.shape[0], filters, x.shape[2], x.shape[3])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
