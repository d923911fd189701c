"""Formats, batches, degenerate boxes; integers too; rows of the result that begin where 16 bytes do; aligned boxes."""

from __future__ import annotations

from typing import Any

import torch
from op_cases import random_boxes
from torch import Tensor


def inputs(n: int, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    a, b = boxes(n, dtype)
    batch = torch.stack([a[:33], a[:33].flip(0)]), torch.stack([b, b.flip(0)])
    formats = [(b, a, "xywh"), (*batch, "cxcywh"), (unaligned(a), a.flip(0), "cxcywh", True)]
    bad = degenerate(a)
    return [*formats, (bad, bad[:40]), *((*pair, "xyxy", aligned) for *pair, aligned in usual_and_forward(n, dtype))]


def boxes(n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    a, b = (random_boxes(k, generator, size=60, largest=60).to(dtype) for k in (n, 37))
    return a, b


def usual_and_forward(n: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor, bool]]:
    """Pairs of sets and whether they are aligned. Degenerate boxes, whose gradient is no number in particular, in those
    types only whose gradient is not compared.
    """
    a, b = boxes(n, dtype)
    integers = [(a.long(), b.long(), False), (a.to(torch.int16), b.to(torch.uint8), False), (a, b.int(), False)]
    found = [(unaligned(a), b[:36], False), *integers, (a.int(), a.flip(0).double(), True)]
    if dtype in (torch.float32, torch.float64):
        return found
    bad = degenerate(a)
    return [*found, (bad, bad[:40], False), (a, bad.flip(0), True), (bad, a.flip(0), True)]


def degenerate(boxes: Tensor) -> Tensor:
    bad = boxes.clone()
    bad[::3, 2] = torch.inf
    bad[1::5] = 0
    bad[2::7, 1] = torch.nan
    for first, top in ((3, 0.0), (4, 1.0)):  # together of a height of -0 and a union of -1
        bad[first::11] = torch.tensor([0.0, top, 1.0, -0.0], dtype=bad.dtype)
    return bad


def unaligned(boxes: Tensor) -> Tensor:
    """The same, contiguous, from an address that is no multiple of 16."""
    return torch.cat([boxes.new_zeros(1), boxes.flatten()])[1:].reshape(boxes.shape)
