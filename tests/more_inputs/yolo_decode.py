"""n cells of one row, n classes, channels last, crops and transposed maps; every kind of classes, odd logits too."""

from __future__ import annotations

import math
from typing import Any

import torch


def inputs(n: int, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(n)
    anchors = torch.rand(3, 2, generator=generator) * 50 + 5
    cells = torch.randn(1, 2 * 7, 1, n, generator=generator).to(dtype)
    some = max(n, 1) if n < 130 else 1 + n % 7
    wide = torch.randn(2, 3 * (5 + some), 3, 7, generator=generator).to(dtype)
    crop = wide[:, :, :2]
    odd = wide.clone()
    for place, value in enumerate((math.nan, math.inf, -math.inf)):
        odd[0, -1, place, 3] = value
    odd[1, -some:, 1, 1] = -math.inf
    # so many classes and so few cells that several blocks share the classes of a tile, in one round and in two
    deep = [torch.randn(batch, 2 * 80, 2, 3, generator=generator).to(dtype) for batch in (1, 3)]
    channels_last = crop.contiguous(memory_format=torch.channels_last)
    return [
        (cells, anchors[:2], (32, 32 * n + 1)),
        (crop, anchors, (100, 100)),
        (channels_last, anchors.double(), (64, 96)),
        (wide.transpose(2, 3), anchors.half(), (64, 96)),
        (cells, anchors[:2] / 32, (32, 32 * n + 1), "softmax", True),
        (crop, anchors, (100, 100), "softmax"),
        (channels_last, anchors, (64, 96), "softmax"),
        (odd, anchors, (64, 96), "softmax"),
        *((maps, anchors[:2], (64, 96), classes) for maps in deep for classes in ("sigmoid", "softmax")),
        (channels_last, anchors / 16, (64, 96), "logits", True),
        (wide.transpose(2, 3), anchors, (64, 96), "logits"),
    ]
