"""Convolutions for evaluation on the CPU, with weights laid out once; no operator for users, whose is torch's.

Those of 3 x 3 are computed with fewer multiplications: Winograd's minimal filtering (Lavin and Gray 2015, "Fast
Algorithms for Convolutional Neural Networks", section 4.1). 2 x 2 pixels of the result take 16 for each channel and
filter instead of 36. In float32 that is also the more exact way, since fewer products are summed; in bfloat16 tiles and
weights are rounded once more after their transforms. A result that would be infinite may be NaN.

Pictures, whose few channels fill no vector, are taken by rows of a filter, whose pixels lie side by side. Max pooling
behind a convolution is done before its result is written.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pydet._library import cpu_level
from pydet.ops._backend import has_internal
from pydet.ops._fakes import register_fake

VECTOR = 16
PICTURE_CHANNELS = 4
MAX_PICTURE_SIZE = 15


class Geometry(NamedTuple):
    """Of a convolution without dilation or groups: its filters are size x size."""

    size: int
    stride: int
    padding: int

    def sides(self, x: Tensor) -> tuple[int, int]:
        """Height and width of the result."""
        height, width = ((n + 2 * self.padding - self.size) // self.stride + 1 for n in x.shape[2:])
        return height, width


KEEP_SIZE = (Geometry(1, 1, 0), Geometry(3, 1, 1))


def serves(x: Tensor, geometry: Geometry, pools: bool = False) -> bool:
    """Whether `conv` takes x [B, C, H, W] here, and is faster than what torch has."""
    return (
        x.dtype in (torch.float32, torch.bfloat16)
        and _takes(x, geometry, pools)
        and x.is_contiguous(memory_format=torch.channels_last)
        and has_internal("_conv", x.device)
        and _is_faster(geometry.size, x.dtype == torch.bfloat16)
    )


def _takes(x: Tensor, geometry: Geometry, pools: bool) -> bool:
    size, stride, padding = geometry
    if geometry in KEEP_SIZE and x.shape[1] % VECTOR == 0:
        return not pools if size == 1 else min(x.shape[2:]) > 1  # else three quarters of each tile would be nothing
    fits = max(padding + 1, stride) <= size <= MAX_PICTURE_SIZE and min(geometry.sides(x)) > 0
    # As measured: oneDNN's are as fast where they are small and not pooled.
    return x.shape[1] <= PICTURE_CHANNELS and fits and (pools or (size > 3 and cpu_level() == "avx512"))


@cache
def _is_faster(size: int, bfloat16: bool) -> bool:
    # As measured: without AVX-512 oneDNN's convolutions of 1 x 1 are as fast, with AMX all of its in bfloat16 faster.
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    if (bfloat16 and amx()) or (size == 1 and cpu_level() != "avx512"):
        return False
    return bool(torch.ops.pydet._conv_serves(bfloat16))


def conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, filters: int, geometry: Geometry, slope: float, pools: bool = False
) -> Tensor:
    """Convolution, what multiplies it where it is below 0, and max pooling.

    Args:
        x: [B, C, H, W], channels last; see `serves`.
        weight: What `laid_out` made of [filters, C, size, size].
        bias: [filters] or None.
        slope: 1 for none, 0 for a ReLU.
        pools: Whether only the largest of 2 x 2 pixels is kept, in the last row and column of those that there are;
            not where filters are 1 x 1.

    Returns:
        [B, filters, height, width], channels last, of `geometry.sides`; if it pools, half of them, rounded up.
    """
    return torch.ops.pydet._conv(x, weight, bias, filters, *geometry, slope, pools)


def laid_out(weight: Tensor) -> Tensor:
    """Weight [filters, C, k, k] or [filters, C] as `conv` reads it.

    That of 3 x 3 becomes G w G^T, but that of a picture [filters, k * (k * C)], in bfloat16 with k * C made even.
    """
    weight = weight.detach()
    if weight.shape[1] <= PICTURE_CHANNELS:
        lines = weight.permute(0, 2, 3, 1).flatten(2) if weight.dim() == 4 else weight[:, None]
        odd = lines.shape[2] % 2 if weight.dtype == torch.bfloat16 else 0
        weight = F.pad(lines, (0, odd)).flatten(1)
    return torch.ops.pydet._conv_weight(weight)


@register_fake("pydet::_conv")
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    filters: int,
    size: int,
    stride: int,
    padding: int,
    slope: float,
    pools: bool,
) -> Tensor:
    height, width = Geometry(size, stride, padding).sides(x)
    if pools:
        height, width = (height + 1) // 2, (width + 1) // 2
    shape = (x.shape[0], filters, height, width)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


@register_fake("pydet::_conv_weight")
def _(weight: Tensor) -> Tensor:
    filters, channels = weight.shape[:2]
    places = 16 if weight.dim() == 4 and weight.shape[2] == 3 else 1
    padded = (filters + VECTOR - 1) // VECTOR * VECTOR
    return weight.new_empty(places * channels * padded)
