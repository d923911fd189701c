"""Max pooling of training, forward and backward, beside torch's, which writes down where each maximum is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import pydet
from pydet.ops.max_pool_2x2 import max_pool_2x2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=lambda dtype: str(dtype)[6:])
def test_max_pool_2x2(race: Callable[..., Any], dtype: torch.dtype) -> None:
    """The first map of YOLOv3-tiny, of 8 pictures."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(8, 16, 416, 416, generator=g).to(dtype, memory_format=torch.channels_last).requires_grad_()
    upstream = torch.randn(8, 16, 208, 208, generator=g).to(dtype, memory_format=torch.channels_last)

    def run(function: Callable[[Tensor], Tensor]) -> Callable[[], tuple[Tensor, Tensor]]:
        def forward_and_backward() -> tuple[Tensor, Tensor]:
            out = function(x)
            return out.detach(), torch.autograd.grad(out, x, upstream)[0]

        return forward_and_backward

    def same(theirs: tuple[Tensor, Tensor], ours: tuple[Tensor, Tensor]) -> bool:
        return all(torch.equal(a, b) for a, b in zip(theirs, ours, strict=True))

    contenders = {
        "pydet": run(lambda x: max_pool_2x2(x, 2, (208, 208))),
        "reference": run(lambda x: F.max_pool2d(x, 2)),
    }
    with pydet.keep_freed_memory():  # as training does
        race(contenders, same, moved=x.nbytes * 7 // 2)  # x, a quarter of it; x, a quarter, and its gradient
