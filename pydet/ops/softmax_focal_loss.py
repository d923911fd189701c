from __future__ import annotations

import torch
from torch import Tensor

from pydet import _library  # noqa: F401  (defines torch.ops.pydet)
from pydet.ops._fakes import register_fake
from pydet.ops._gradient_in_forward import register


def softmax_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    gamma: float = 2.0,
    alpha: float = 0.25,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Focal loss of a softmax over classes: -alpha (1 - p)^gamma log p of each row's class.

    As `mmcv.ops.softmax_focal_loss`, on the CPU too, except that log p is not cut off at -87, so that a very wrong row
    keeps its gradient. Where a gradient is wanted it is written in the same pass.

    Args:
        inputs: [N, C] logits, floating.
        targets: [N] integers, 0 to C - 1; a negative one makes the row's loss 0 (background is a class here), on a GPU,
            where a check would wait for the device, one beyond C - 1 too.
        gamma: the focusing parameter, not negative; 0 is cross-entropy.
        alpha: factor of every loss, not negative, or -1 for none.
        weight: [C] floating, factor of the losses of each class.
        reduction: "none", "mean" or "sum". The mean is the sum over N, ignored rows included, as in mmcv; 0 for N = 0.

    Returns:
        [N] for "none", else []; float64 for float64 inputs, else float32. Differentiable twice, by weight too. Sums are
        the same bits at any number of threads.

    Raises:
        RuntimeError: a shape, dtype, device or value that is none of the above; the message names it.
    """
    return torch.ops.pydet.softmax_focal_loss(inputs, targets, gamma, alpha, weight, reduction)


@register_fake("pydet::softmax_focal_loss")
def _softmax_focal_loss_fake(
    inputs: Tensor,
    targets: Tensor,
    gamma: float = 2.0,
    alpha: float = 0.25,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    torch._check(
        inputs.dim() == 2, lambda: f"softmax_focal_loss: inputs must be [N, C] with C >= 1, got {list(inputs.shape)}"
    )
    dtype = torch.float64 if inputs.dtype == torch.float64 else torch.float32
    return inputs.new_empty(inputs.shape[:1] if reduction == "none" else (), dtype=dtype)


@register_fake("pydet::_softmax_focal_loss_with_gradient")
def _with_gradient_fake(
    inputs: Tensor, targets: Tensor, gamma: float, alpha: float, weight: Tensor | None, reduction: str
) -> tuple[Tensor, Tensor]:
    return _softmax_focal_loss_fake(inputs, targets, gamma, alpha, weight, reduction), inputs.new_empty(inputs.shape)


@register_fake("pydet::_softmax_focal_loss_backward")
def _backward_fake(
    grad: Tensor, inputs: Tensor, targets: Tensor, gamma: float, alpha: float, weight: Tensor | None, reduction: str
) -> Tensor:
    return inputs.new_empty(inputs.shape)


register("softmax_focal_loss", (2.0, 0.25, None, "mean"), weight_at=2)
