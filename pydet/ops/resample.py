"""Pictures put into a network's input in one pass; no operator for users, who have `pydet.letterbox`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pydet.ops._backend import has_internal
from pydet.ops._fakes import register_fake
from pydet.reference.resample import resample as reference


class Taps(NamedTuple):
    """For each pixel of a line the two pixels of another line that it is mixed of, and how much of each.

    Attributes:
        places: int64 [2, n].
        parts: float32 [2, n].
    """

    places: np.ndarray
    parts: np.ndarray

    def to(self, device: torch.device) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.places).to(device), torch.from_numpy(self.parts).to(device)


def resample(
    image: Tensor,
    rows: Taps,
    columns: Taps,
    out: Tensor | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    fuse: bool = False,
) -> Tensor:
    """A picture looked at where the taps say; see `pydet.reference.resample`.

    Args:
        image: [C, H, W], uint8 in 0..255 or floating point in 0..1.
        rows: What each row of the result is mixed of.
        columns: The same of its columns.
        out: Where the result is written, [C, height, width] of any floating type, such as a part of a batch.
        mean, std: Of each colour, or empty.
        fuse: Whether with fused multiply-adds.

    Returns:
        `out`, or a new tensor, float32 (float64 for float64).
    """
    if image.dtype in (torch.float16, torch.bfloat16):
        image = image.float()
    down, across = rows.to(image.device), columns.to(image.device)
    needs_gradient = image.requires_grad and torch.is_grad_enabled()
    if needs_gradient or torch.compiler.is_compiling() or not has_internal("_resample", image.device):
        result = reference(image, *down, *across, mean=mean, std=std)
        return result if out is None else out.copy_(result)
    if out is None:
        dtype = torch.float64 if image.dtype == torch.float64 else torch.float32
        out = image.new_empty((image.shape[0], down[0].shape[1], across[0].shape[1]), dtype=dtype)
    torch.ops.pydet._resample(image, *down, *across, list(mean), list(std), fuse, out)
    return out


@register_fake("pydet::_resample")
def _(
    image: Tensor,
    rows: Tensor,
    row_parts: Tensor,
    columns: Tensor,
    column_parts: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    fuse: bool,
    out: Tensor,
) -> None:
    return None
