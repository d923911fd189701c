"""The speed of memory: a copy that moves as many bytes as an operator must read and write, timed in the same race."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable

import torch

COPY, WRITE, NEW = "copying as many bytes", "writing as many bytes", "writing as many new bytes"
"""What the yardsticks of memory are called in a race."""


def copy_of(moved: int) -> Callable[[], torch.Tensor]:
    """A copy that moves `moved` bytes, half of them read and half written, between pages that exist already."""
    source = torch.zeros(max(moved // 8, 1))
    return functools.partial(torch.ones_like(source).copy_, source)


def fill_of(written: int) -> Callable[[], torch.Tensor]:
    """Writes that many bytes, to pages that exist already: what an operator with a large result is measured by."""
    return functools.partial(torch.ones(max(written // 4, 1)).fill_, 0.0)


def new_fill_of(written: int) -> Callable[[], torch.Tensor]:
    """The same to memory that is allocated for it, whose pages come from the system while they are written."""
    return lambda: torch.empty(max(written // 4, 1)).fill_(0.0)


def copy_bandwidth(moved: int = 1 << 28) -> float:
    """Bytes a second that a copy of this size moves, read and written: the median of a few."""
    copy, seconds = copy_of(moved), []
    for _ in range(9):
        start = time.perf_counter()
        copy()
        seconds.append(time.perf_counter() - start)
    return moved / statistics.median(seconds)
