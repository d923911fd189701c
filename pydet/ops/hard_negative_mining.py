from __future__ import annotations

import torch
from torch import Tensor

from pydet import _library  # noqa: F401  (defines torch.ops.pydet)
from pydet.ops._fakes import register_fake


def hard_negative_mining(loss: Tensor, positive: Tensor, ratio: float = 3.0) -> Tensor:
    """The hardest negatives of each image: those of highest loss, at most `ratio` for each positive (SSD, section 2.2).

    As in torchvision's SSD, but by selection instead of two sorts, and never a positive: where torchvision runs out of
    negatives it counts positives twice. The classification loss of SSD is then

        selected = hard_negative_mining(loss, positive)
        loss[positive | selected].sum() / max(1, positive.sum())

    Args:
        loss: [..., A] floating, the classification loss of each anchor, an image a row.
        positive: bool [..., A], the anchors that are matched.
        ratio: negatives for each positive, finite and not negative; floor(ratio * positives) are taken. An image
            without positives gives none.

    Returns:
        bool [..., A], the negatives taken. Of equal losses those of the lowest index are; NaN is the highest loss, as
        in torch.sort. It has no gradient.

    Raises:
        RuntimeError: a shape, dtype, device or value that is none of the above; the message names it.
    """
    return torch.ops.pydet.hard_negative_mining(loss.detach(), positive, ratio)


@register_fake("pydet::hard_negative_mining")
def _hard_negative_mining_fake(loss: Tensor, positive: Tensor, ratio: float = 3.0) -> Tensor:
    torch._check(
        loss.shape == positive.shape,
        lambda: f"hard_negative_mining: positive must have the shape {list(loss.shape)} of loss",
    )
    return loss.new_empty(loss.shape, dtype=torch.bool)
