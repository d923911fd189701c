from __future__ import annotations

import functools

import torch
from torch import Tensor

from pydet import _library, reference  # noqa: F401  (_library defines torch.ops.pydet)
from pydet.ops import _batching, _gradients
from pydet.ops._fakes import register_fake


def generalized_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """1 - generalized IoU of each box with the box at the same place (Rezatofighi et al. 2019).

    As `torchvision.ops.generalized_box_iou_loss`, the reduction included in the one pass.

    Args:
        boxes1: [..., 4] xyxy in any unit, floating or integer.
        boxes2: [..., 4] xyxy, the same shape and device.
        reduction: "none", "mean" (0 of no boxes, with gradients) or "sum".
        eps: added to union and hull, which keeps divisors from being 0; in the boxes' unit squared.

    Returns:
        [...], or a scalar where it is reduced; float64 where an input is float64, else float32. Differentiable, twice.

    Raises:
        RuntimeError: a shape, dtype, device or `reduction` that is none of the above; the message names it.
    """
    return torch.ops.pydet.generalized_box_iou_loss(boxes1, boxes2, reduction, eps)


def distance_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """1 - distance IoU of each box with the box at the same place (Zheng et al. 2020).

    As `torchvision.ops.distance_box_iou_loss`, the reduction included in the one pass.

    Args:
        boxes1: [..., 4] xyxy in any unit, floating or integer.
        boxes2: [..., 4] xyxy, the same shape and device.
        reduction: "none", "mean" (0 of no boxes, with gradients) or "sum".
        eps: added to union and squared diagonal, which keeps divisors from being 0; in the boxes' unit squared.

    Returns:
        [...], or a scalar where it is reduced; float64 where an input is float64, else float32. Differentiable, twice.

    Raises:
        RuntimeError: a shape, dtype, device or `reduction` that is none of the above; the message names it.
    """
    return torch.ops.pydet.distance_box_iou_loss(boxes1, boxes2, reduction, eps)


def complete_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """1 - complete IoU of each box with the box at the same place (Zheng et al. 2020).

    As `torchvision.ops.complete_box_iou_loss`, the reduction included in the one pass; alpha is a constant in the
    gradient.

    Args:
        boxes1: [..., 4] xyxy in any unit, floating or integer.
        boxes2: [..., 4] xyxy, the same shape and device.
        reduction: "none", "mean" (0 of no boxes, with gradients) or "sum".
        eps: keeps the divisor of alpha from being 0; the others have 1e-7 whatever it is, as in torchvision.

    Returns:
        [...], or a scalar where it is reduced; float64 where an input is float64, else float32. Differentiable, twice.

    Raises:
        RuntimeError: a shape, dtype, device or `reduction` that is none of the above; the message names it.
    """
    return torch.ops.pydet.complete_box_iou_loss(boxes1, boxes2, reduction, eps)


def _fake(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7, *, op: str) -> Tensor:
    torch._check(boxes1.size(-1) == 4, lambda: f"{op}: boxes1 must be [..., 4], got {list(boxes1.shape)}")
    shape = boxes1.shape[:-1] if reduction == "none" else ()
    return boxes1.new_empty(shape, dtype=reference.result_dtype(boxes1, boxes2))


for _op in ("generalized_box_iou_loss", "distance_box_iou_loss", "complete_box_iou_loss"):
    register_fake(f"pydet::{_op}")(functools.partial(_fake, op=_op))
    _gradients.register(_op, "_box_iou_loss_backward")
    _batching.register_loss(_op)


@register_fake("pydet::_box_iou_loss_backward")
def _backward_fake(
    gradient: Tensor, boxes1: Tensor, boxes2: Tensor, op: str, reduction: str, eps: float
) -> tuple[Tensor, Tensor]:
    dtype = reference.result_dtype(boxes1, boxes2)
    return boxes1.new_empty(boxes1.shape, dtype=dtype), boxes2.new_empty(boxes2.shape, dtype=dtype)


_gradients.register_second("_box_iou_loss_backward")
_batching.register_loss_backward("_box_iou_loss_backward")
