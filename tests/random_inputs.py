"""Strategies of hypothesis: boxes, scores and layouts of tensors, ordinary ones and odd ones.

What is drawn is a seed, sizes and a few odd numbers, so that an example that fails shrinks to few and simple rows.
"""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st
from op_cases import clustered_boxes, random_boxes
from torch import Tensor

SEEDS = st.integers(0, 2**31 - 1)
ODD_NUMBERS = [0.0, -0.0, 1.0, -1.0, 7.25, 640.0, -3e4, 1e-30, 3e18, math.inf, -math.inf, math.nan]
ODD_BOXES = [
    (5, 5, 5, 5),
    (0, 0, 0, 0),
    (10, 0, 0, 10),
    (10, 10, 0, 0),
    (math.nan, 0, 10, 10),
    (0, 0, math.inf, 10),
    (-math.inf, -math.inf, math.inf, math.inf),
    (0, 0, 3e18, 3e18),
    (-0.0, -0.0, 0.0, 0.0),
    (0, 0, 10, 10),
]
LAYOUTS = st.sampled_from(["contiguous", "every second", "turned", "odd offset"])


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """The same values behind other strides, or at an address that no vector is aligned to."""
    if layout == "every second":
        wide = tensor.new_full([2 * n for n in tensor.shape], 7)
        return wide[tuple(slice(None, None, 2) for _ in tensor.shape)].copy_(tensor)
    if layout == "turned":
        axes = list(reversed(range(tensor.dim())))
        return tensor.permute(axes).contiguous().permute(axes)
    if layout == "odd offset":
        return tensor.new_empty(tensor.numel() + 1)[1:].view(tensor.shape).copy_(tensor)
    return tensor


@st.composite
def boxes(draw: st.DrawFn, least: int = 0, most: int = 60, odd: bool = False) -> Tensor:
    """[N, 4] xyxy: clustered, scattered or on a grid with many ties; odd: some are degenerate, infinite or NaN."""
    n, g = draw(st.integers(least, most)), generator(draw(SEEDS))
    kind = draw(st.sampled_from(["clustered", "scattered", "on a grid"]))
    found = clustered_boxes(n, g) if kind == "clustered" else random_boxes(n, g, size=150.0 if n > 20 else 60.0)
    if kind == "on a grid":
        found = grid(n, g)
    if odd and n:
        for box in draw(st.lists(st.sampled_from(ODD_BOXES), max_size=6)):
            found[draw(st.integers(0, n - 1))] = torch.tensor(box)
    return found


def grid(n: int, g: torch.Generator) -> Tensor:
    """[n, 4] with corners in quarters of a pixel, sides of 1 to 32: sums and areas are exact in float32."""
    corner = torch.randint(-400, 400, (n, 2), generator=g) / 4
    return torch.cat([corner, corner + torch.randint(4, 128, (n, 2), generator=g) / 4], dim=1)


def distinct_scores(n: int, g: torch.Generator) -> Tensor:
    """[n] in (0, 1), no two of them equal."""
    return (torch.randperm(n, generator=g) + 1) / (n + 1)


def near(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance, equal_nan=True)


def same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
