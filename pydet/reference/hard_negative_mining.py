from __future__ import annotations

import torch
from torch import Tensor


def hard_negative_mining(loss: Tensor, positive: Tensor, ratio: float = 3.0) -> Tensor:
    """The negatives of highest loss, at most `ratio` for each positive (SSD, section 2.2), image by image."""
    shape = loss.shape[:-1].numel(), loss.shape[-1]
    selected = torch.zeros(shape, dtype=torch.bool, device=loss.device)
    for losses, positives, chosen in zip(loss.reshape(shape), positive.reshape(shape), selected, strict=True):
        negatives = (~positives).nonzero()[:, 0]
        hardest = losses[negatives].sort(descending=True, stable=True).indices  # NaN first, equal ones by index
        chosen[negatives[hardest[: int(ratio * int(positives.sum()))]]] = True
    return selected.reshape(loss.shape)
