"""Weights in half precision whose errors cancel; no operator for users, who load a network with `precision=`."""

from __future__ import annotations

import torch
from torch import Tensor

from pydet.ops._fakes import register_fake


def round_weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A float32 weight [filters, ...] in bfloat16 or float16, rounded by error diffusion.

    What is multiplied by the weights of a filter changes little from pixel to pixel, and most of it has one sign: of
    the errors of its weights their sum counts. So each of them also makes up for what the rounding of those before it
    has added, and the sum of a filter is that of its float32 weights within the error of a single one.
    """
    return torch.ops.pydet._round_weight(weight, dtype == torch.bfloat16)


@register_fake("pydet::_round_weight")
def _(weight: Tensor, bfloat16: bool) -> Tensor:
    dtype = torch.bfloat16 if bfloat16 else torch.float16
    return torch.empty(weight.shape, dtype=dtype, device=weight.device)
