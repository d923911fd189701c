"""n cells of one row, n classes, channels last, crops and transposed maps."""

from __future__ import annotations

from typing import Any

import torch


def inputs(n: int, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(n)
    anchors = torch.rand(3, 2, generator=generator) * 50 + 5
    cells = torch.randn(1, 2 * 7, 1, n, generator=generator).to(dtype)
    some = max(n, 1) if n < 130 else 1 + n % 7
    wide = torch.randn(2, 3 * (5 + some), 3, 7, generator=generator).to(dtype)
    crop = wide[:, :, :2]
    return [
        (cells, anchors[:2], (32, 32 * n + 1)),
        (crop, anchors, (100, 100)),
        (crop.contiguous(memory_format=torch.channels_last), anchors.double(), (64, 96)),
        (wide.transpose(2, 3), anchors.half(), (64, 96)),
    ]
