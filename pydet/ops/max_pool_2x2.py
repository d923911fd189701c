"""Max pooling of maps as they lie in a fused network; no operator for users, whose is `torch.nn.functional`'s."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pydet.ops._backend import has_internal
from pydet.ops._fakes import register_fake
from pydet.reference.max_pool_2x2 import max_pool_2x2 as reference


def max_pool_2x2(x: Tensor, step: int, size: tuple[int, int]) -> Tensor:
    """Maximum over windows of 2 x 2, those of the last row and column perhaps half outside of the map.

    torch's max pooling of channels-last maps also finds where the maximum is, which takes most of its time. Without a
    gradient, and outside of compiled and exported programs, which have their own, ours serves.

    Args:
        x: [B, C, H, W].
        step: From one window to the next, 1 or 2.
        size: (height, width) of the result.

    Returns:
        [B, C, *size].
    """
    served = (
        not torch.compiler.is_compiling()  # which is also true while a program is exported
        and not (x.requires_grad and torch.is_grad_enabled())
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.stride(1) == 1
        and has_internal("_max_pool_2x2", x.device)
    )
    return torch.ops.pydet._max_pool_2x2(x, step, size) if served else reference(x, step, size)


@register_fake("pydet::_max_pool_2x2")
def _(x: Tensor, step: int, size: Sequence[int]) -> Tensor:
    shape = (x.shape[0], x.shape[1], *size)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
