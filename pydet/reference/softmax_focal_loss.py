from __future__ import annotations

import torch
from torch import Tensor

from pydet.reference.sigmoid_focal_loss import finite, modulation


def softmax_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    gamma: float = 2.0,
    alpha: float = 0.25,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Focal loss (Lin et al. 2017), equation 4 times alpha, of a softmax over [N, C]; negative classes are ignored."""
    x = finite(inputs)
    counted = targets >= 0
    classes = targets.long().clamp(min=0)
    log_p = x.log_softmax(1).gather(1, classes[:, None])[:, 0]
    loss = -(alpha if alpha >= 0 else 1.0) * modulation(-torch.expm1(log_p), gamma) * log_p
    if weight is not None:
        loss = loss * weight.to(x.dtype)[classes]
    loss = torch.where(counted, loss, 0.0)
    if reduction == "none":
        return loss
    return loss.sum() / max(targets.shape[0], 1) if reduction == "mean" else loss.sum()
