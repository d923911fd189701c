"""Few classes, and more than a thread keeps; reductions; every power; without weights."""

from __future__ import annotations

from typing import Any

import torch


def inputs(n: int, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(n)
    found: list[tuple[Any, ...]] = []
    options = ((2.0, 0.25, "mean"), (0.0, -1.0, "sum"), (0.5, 0.9, "none"), (2.0, 0.25, "sum"))
    options = (*options, *options[:2])  # more than 384 are not staged in shared memory
    for classes, (gamma, alpha, reduction) in zip((1, 128, 129, 300, 384, 385), options, strict=True):
        rows = n if classes < 128 else n % 67
        logits = torch.randn(rows, classes, generator=generator) * 3
        logits[::7] *= 40
        targets = torch.randint(-1, classes, (rows,), generator=generator)
        weight = torch.rand(classes, generator=generator).to(dtype) if classes != 128 else None
        found.append((logits.to(dtype), targets, gamma, alpha, weight, reduction))
    return [*found, (*(t.bfloat16() if i == 0 else t for i, t in enumerate(found[0])),)]
