"""Convolutions for evaluation on the CPU, with weights laid out once; no operator for users, whose is torch's.

Those of 3 x 3 are computed with fewer multiplications: Winograd's minimal filtering (Lavin and Gray 2015, "Fast
Algorithms for Convolutional Neural Networks", section 4.1). 2 x 2 pixels of the result take 16 for each channel and
filter instead of 36. In float32 that is also the more exact way, since fewer products are summed; in bfloat16 tiles and
weights are rounded once more after their transforms.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from pydet._library import cpu_level
from pydet.ops._backend import has_internal
from pydet.ops._fakes import register_fake

VECTOR = 16


def serves(x: Tensor, size: int) -> bool:
    """Whether `conv` takes x [B, C, H, W] here, for a weight of size x size, and is faster than what torch has."""
    return (
        x.dtype in (torch.float32, torch.bfloat16)
        and x.shape[1] % VECTOR == 0
        and (size == 1 or min(x.shape[2:]) > 1)
        and x.is_contiguous(memory_format=torch.channels_last)
        and has_internal("_conv", x.device)
        and _is_faster(size, x.dtype == torch.bfloat16)
    )


@cache
def _is_faster(size: int, bfloat16: bool) -> bool:
    # As measured: without AVX-512 oneDNN's convolutions of 1 x 1 are as fast, with AMX all of its in bfloat16 faster.
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    if (bfloat16 and amx()) or (size == 1 and cpu_level() != "avx512"):
        return False
    return bool(torch.ops.pydet._conv_serves(bfloat16))


def conv(x: Tensor, weight: Tensor, bias: Tensor | None, filters: int, size: int, slope: float) -> Tensor:
    """Convolution of stride 1 whose result has the size of x, and what multiplies it where it is below 0.

    Args:
        x: [B, C, H, W], channels last; see `serves`.
        weight: What `laid_out` made of [filters, C, size, size].
        bias: [filters] or None.
        slope: 1 for none, 0 for a ReLU.

    Returns:
        [B, filters, H, W], channels last.
    """
    return torch.ops.pydet._conv(x, weight, bias, filters, size, slope)


def laid_out(weight: Tensor) -> Tensor:
    """Weight [filters, C, 1, 1], [filters, C] or [filters, C, 3, 3], of which it takes G w G^T, as `conv` reads it."""
    return torch.ops.pydet._conv_weight(weight.detach())


@register_fake("pydet::_conv")
def _(x: Tensor, weight: Tensor, bias: Tensor | None, filters: int, size: int, slope: float) -> Tensor:
    shape = (x.shape[0], filters, x.shape[2], x.shape[3])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


@register_fake("pydet::_conv_weight")
def _(weight: Tensor) -> Tensor:
    filters, channels = weight.shape[:2]
    places = 16 if weight.dim() == 4 and weight.shape[2] == 3 else 1
    padded = (filters + VECTOR - 1) // VECTOR * VECTOR
    return weight.new_empty(places * channels * padded)
