"""Every way to choose, boxes of all kinds, several blocks and tiles, cells that many ground truths want."""

from __future__ import annotations

from typing import Any

import torch
from more_inputs.match_anchors import on_a_grid


def inputs(n: int, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(n)
    counts = torch.tensor([0, n, 3 * n, 0, 1])
    found: list[tuple[Any, ...]] = []
    for odd in (0, 4):
        truths = on_a_grid(4 * n + 1, generator, odd).to(dtype)
        predictions = torch.stack([on_a_grid(2 * (n + 1) * 7, generator, odd) for _ in counts])
        predictions[:, ::5] = truths[torch.randint(len(truths), (1,), generator=generator)].float()
        priors = (torch.rand(9, 2, generator=generator) * 40 + 1).round()
        shared = (predictions.to(dtype), truths, counts.int(), (7, n + 1), (200, 300))
        found += [
            (*shared, "shape", priors.to(dtype), [8, 0], 0.5),
            (*shared, "shape", priors[:2].to(dtype), None, 0.0),
            (*shared, "shape", priors[:2].to(dtype), [1, 1], 0.3),  # a prior twice: the first has it
            (*shared, "shape", None, None, None),
            (*shared, "overlap", None, None, 0.7),
        ]
    if n == 7:  # ground truths about a tile
        truths, counts = on_a_grid(513, generator, 4).to(dtype), torch.tensor([255, 0, 257, 1])
        predictions = torch.stack([on_a_grid(2 * 8 * 7, generator, 4) for _ in counts]).to(dtype)
        found.append((predictions, truths, counts, (7, 8), (200, 300), "shape", priors[:2].to(dtype), None, 0.3))
        # Centres on the edges of eleven columns as float32 has them, which in float64 some are not quite.
        share = (torch.arange(1, 11) / 11).double()
        edges = torch.stack([share * 352 - 5, share * 0 + 1, share * 352 + 5, share * 0 + 9], dim=1).to(dtype)
        cells = torch.zeros(1, 11, 4, dtype=dtype)
        found.append((cells, edges, torch.tensor([10]), (1, 11), (10, 352), "shape", priors[:1].to(dtype), None, None))
    return found
