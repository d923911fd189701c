"""Classes, few and many, ignored rows; reductions; every power; labels of other types; logits that begin anywhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def inputs(n: int, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """n rows of classes, and 7 n labels."""
    found: list[tuple[Any, ...]] = []
    options = ((0.25, 2.0, "mean"), (-1.0, 0.0, "sum"), (0.9, 0.5, "none"), (0.25, 2.0, "sum"))
    for classes, option in zip((1, 3, 91, 19), options, strict=True):
        logits, targets = of_classes(n, classes)
        found.append((logits.to(dtype), targets, *option))
    logits, targets = of_classes(n, 7)
    labels = torch.nn.functional.one_hot(targets.clamp(min=0).long(), 8)[:, :7].float()
    found.append((unaligned(logits).to(dtype), labels.to(dtype), 0.25, 2.0, "sum"))
    soft = labels * 0.9 + 0.05
    found.append((logits.bfloat16(), soft, 0.25, 1.5, "mean"))
    found += [(logits.to(dtype), soft.to(other), 0.25, 2.0, "sum") for other in (torch.float16, torch.float64)]
    found.append((logits.to(dtype), targets.clamp(min=0).to(torch.uint8), 0.25, 2.0, "sum"))
    return found


def of_classes(n: int, classes: int) -> tuple[Tensor, Tensor]:
    """Of every third row the class is `classes`, the background; some are ignored, some logits saturated."""
    generator = torch.Generator().manual_seed(n + classes)
    targets = torch.randint(-1, classes, (n,), generator=generator)
    targets[::3] = classes
    logits = torch.randn(n, classes, generator=generator) * 3
    logits[::17] *= 40
    return logits, targets.int()


def unaligned(tensor: Tensor) -> Tensor:
    """The same, contiguous, from an address that is no multiple of 16."""
    return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].reshape(tensor.shape)
