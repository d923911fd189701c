from __future__ import annotations

import torch
from torch import Tensor

from pydet import _library  # noqa: F401  (defines torch.ops.pydet)
from pydet.ops._fakes import register_fake
from pydet.ops._gradient_in_forward import register


def sigmoid_focal_loss(
    inputs: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "none"
) -> Tensor:
    """Focal loss of independent logits (RetinaNet; Lin et al. 2017), in one pass over them.

    As `torchvision.ops.sigmoid_focal_loss`, and for integer classes too, without their one-hot form. Where a gradient
    is wanted it is written in the same pass. gamma < 1 and saturated or infinite logits have finite gradients.

    Args:
        inputs: logits, floating: any shape for floating targets, [..., C] for integer ones.
        targets: floating, the shape of inputs, labels in [0, 1]; or integers, shape inputs.shape[:-1]: 0 to C - 1 is
            the class of the row, C the background, as in detectron2 and mmdetection, and a negative number makes the
            row count for nothing. On a GPU, where a check would wait for the device, numbers beyond C are background.
        alpha: weight of label 1, in [0, 1]; label 0 weighs 1 - alpha. -1 for no weights.
        gamma: the focusing parameter, not negative; 0 is cross-entropy.
        reduction: "none", "mean" or "sum". The mean is over the logits of rows that are not ignored, and 0 where there
            is none (torchvision: NaN).

    Returns:
        The shape of inputs for "none", else []; float64 for float64 inputs, else float32 (torchvision: half precision,
        whose sums overflow). Differentiable twice, by soft targets too. Sums are the same bits at any number of
        threads.

    Raises:
        RuntimeError: a shape, dtype, device or value that is none of the above; the message names it.
    """
    return torch.ops.pydet.sigmoid_focal_loss(inputs, targets, alpha, gamma, reduction)


@register_fake("pydet::sigmoid_focal_loss")
def _sigmoid_focal_loss_fake(
    inputs: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "none"
) -> Tensor:
    rows = inputs.shape if targets.is_floating_point() else inputs.shape[:-1]
    torch._check(
        targets.dim() == len(rows),
        lambda: f"sigmoid_focal_loss: targets must be {list(rows)}, got {list(targets.shape)}",
    )
    dtype = torch.float64 if inputs.dtype == torch.float64 else torch.float32
    return inputs.new_empty(inputs.shape if reduction == "none" else (), dtype=dtype)


@register_fake("pydet::_sigmoid_focal_loss_with_gradient")
def _with_gradient_fake(
    inputs: Tensor, targets: Tensor, alpha: float, gamma: float, reduction: str
) -> tuple[Tensor, Tensor]:
    return _sigmoid_focal_loss_fake(inputs, targets, alpha, gamma, reduction), inputs.new_empty(inputs.shape)


@register_fake("pydet::_sigmoid_focal_loss_backward")
def _backward_fake(grad: Tensor, inputs: Tensor, targets: Tensor, alpha: float, gamma: float, reduction: str) -> Tensor:
    return inputs.new_empty(inputs.shape)


register("sigmoid_focal_loss", (0.25, 2.0, "none"))
