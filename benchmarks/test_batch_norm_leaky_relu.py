"""Batch normalisation and the leaky ReLU behind it in training, forward and backward, beside torch's two operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import pydet
from pydet.ops.batch_norm_leaky_relu import batch_norm_leaky_relu

# The maps behind the first, a middle and the last convolution of YOLOv3-tiny, of 8 pictures of 416 x 416.
MAPS = [(16, 416), pytest.param(64, 104, marks=pytest.mark.long), pytest.param(1024, 13, marks=pytest.mark.long)]
EPS, MOMENTUM, SLOPE = 1e-5, 0.03, 0.1


def close(theirs: tuple[Tensor, ...], ours: tuple[Tensor, ...]) -> bool:
    """torch sums millions of float32, and rounds its bfloat16 once more: on which side of 0 a number is can differ."""
    off = [((a - b).float().abs().mean() / b.float().abs().mean()).item() for a, b in zip(theirs, ours, strict=True)]
    return max(off) < 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize(("channels", "side"), MAPS)
def test_batch_norm_leaky_relu(race: Callable[..., Any], channels: int, side: int, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    shape = 8, channels, side, side
    x, upstream = (torch.randn(shape, generator=g).to(dtype, memory_format=torch.channels_last) for _ in range(2))
    leaves = [x.requires_grad_(), torch.rand(channels, generator=g).requires_grad_(), torch.zeros(channels)]
    leaves[2].requires_grad_()
    running = torch.zeros(channels), torch.ones(channels)

    def run(function: Callable[..., Tensor]) -> Callable[[], tuple[Tensor, ...]]:
        def forward_and_backward() -> tuple[Tensor, ...]:
            out = function(*leaves)
            return out.detach(), *torch.autograd.grad(out, leaves, upstream)

        return forward_and_backward

    def torchs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.leaky_relu_(F.batch_norm(x, *running, weight, bias, True, MOMENTUM, EPS), SLOPE)

    contenders = {
        "pydet": run(lambda *args: batch_norm_leaky_relu(args[0], running, *args[1:], MOMENTUM, EPS, SLOPE)),
        "reference": run(torchs),
    }
    with pydet.keep_freed_memory():  # as training does
        race(contenders, close, moved=x.nbytes * 6)  # x twice, the result; x, the gradient, and its result
