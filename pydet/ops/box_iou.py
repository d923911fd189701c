from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from pydet import _library, reference  # noqa: F401  (_library defines torch.ops.pydet)
from pydet.ops import _gradients


def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> Tensor:
    """Intersection over union (Jaccard index) of every box of one set with every box of another.

    As `torchvision.ops.box_iou`, and for batches too. Areas are not clamped: a pair whose union is 0 gives NaN.

    Args:
        boxes1: [..., N, 4], any unit, floating or integer.
        boxes2: [..., M, 4], the same leading dimensions and device.
        fmt: "xyxy" (corners), "xywh" (top left corner, size) or "cxcywh" (centre, size).

    Returns:
        [..., N, M], float64 where an input is float64, else float32 (half precision and integers too, whose areas
        would overflow or round). Differentiable, twice; where coordinates are equal the gradient is shared, and pairs
        whose own gradient is 0 contribute none, even where the IoU is NaN.

    Raises:
        RuntimeError: a shape, dtype, device or `fmt` that is none of the above; the message names it.
    """
    return torch.ops.pydet.box_iou(boxes1, boxes2, fmt)


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Generalized IoU of every box of one set with every box of another (Rezatofighi et al. 2019).

    IoU - (hull - union) / hull, with the area of the smallest box around both: from -1 for small boxes far apart to 1
    for equal ones. As `torchvision.ops.generalized_box_iou`, in one pass.

    Args:
        boxes1: [..., N, 4] xyxy in any unit, floating or integer.
        boxes2: [..., M, 4] xyxy, the same leading dimensions and device.

    Returns:
        [..., N, M], of the type and differentiable as `box_iou`.

    Raises:
        RuntimeError: a shape, dtype or device that is none of the above; the message names it.
    """
    return torch.ops.pydet.generalized_box_iou(boxes1, boxes2)


def distance_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    """Distance IoU of every box of one set with every box of another (Zheng et al. 2020).

    IoU - d^2 / (c^2 + eps): distance d of the centres, diagonal c of the smallest box around both. As
    `torchvision.ops.distance_box_iou`, in one pass.

    Args:
        boxes1: [..., N, 4] xyxy in any unit, floating or integer.
        boxes2: [..., M, 4] xyxy, the same leading dimensions and device.
        eps: keeps the divisor from being 0, in the boxes' unit squared.

    Returns:
        [..., N, M], of the type and differentiable as `box_iou`.

    Raises:
        RuntimeError: a shape, dtype or device that is none of the above; the message names it.
    """
    return torch.ops.pydet.distance_box_iou(boxes1, boxes2, eps)


def complete_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    """Complete IoU of every box of one set with every box of another (Zheng et al. 2020).

    Distance IoU - alpha * v, where v = 4 / pi^2 * (atan(w1 / h1) - atan(w2 / h2))^2 compares the aspect ratios and
    alpha = v / (1 - IoU + v + eps). As `torchvision.ops.complete_box_iou`, in one pass.

    Args:
        boxes1: [..., N, 4] xyxy in any unit, floating or integer.
        boxes2: [..., M, 4] xyxy, the same leading dimensions and device.
        eps: keeps divisors from being 0; in `distance_box_iou` in the boxes' unit squared.

    Returns:
        [..., N, M], of the type and differentiable as `box_iou`; alpha is a constant in the gradient, as in the paper.

    Raises:
        RuntimeError: a shape, dtype or device that is none of the above; the message names it.
    """
    return torch.ops.pydet.complete_box_iou(boxes1, boxes2, eps)


def _reference_of(op: str, fmt: str, eps: float) -> Callable[..., Tensor]:
    options = {"box_iou": {"fmt": fmt}, "generalized_box_iou": {}}.get(op, {"eps": eps})
    return functools.partial(getattr(reference, op), **options)


def _fake(boxes1: Tensor, boxes2: Tensor, *options: str | float, op: str) -> Tensor:
    torch._check(boxes1.size(-1) == 4, lambda: f"{op}: boxes1 must be [..., N, 4], got {list(boxes1.shape)}")
    torch._check(boxes2.size(-1) == 4, lambda: f"{op}: boxes2 must be [..., M, 4], got {list(boxes2.shape)}")
    double = torch.float64 in (boxes1.dtype, boxes2.dtype)
    return boxes1.new_empty((*boxes1.shape[:-1], boxes2.shape[-2]), dtype=torch.float64 if double else torch.float32)


def _setup_context(ctx, inputs, output, op: str) -> None:  # type: ignore[no-untyped-def]
    boxes1, boxes2, *options = inputs
    ctx.fmt, ctx.eps = (options[0], 0.0) if op == "box_iou" else ("xyxy", options[0] if options else 0.0)
    ctx.save_for_backward(boxes1, boxes2)


def _backward(ctx, gradient: Tensor, op: str):  # type: ignore[no-untyped-def]
    boxes = ctx.saved_tensors
    if _gradients.has_kernel("_box_iou_backward", op, boxes[0]):
        grads = torch.ops.pydet._box_iou_backward(gradient, *boxes, op, ctx.fmt, ctx.eps)
    else:
        grads = _gradients.of_reference(_reference_of(op, ctx.fmt, ctx.eps), boxes, gradient)
    needed = zip(grads, boxes, ctx.needs_input_grad, strict=False)
    return *(g.to(b.dtype) if n else None for g, b, n in needed), *(None,) * (len(ctx.needs_input_grad) - 2)


for _op in ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou"):
    torch.library.register_fake(f"pydet::{_op}", functools.partial(_fake, op=_op))
    torch.library.register_autograd(
        f"pydet::{_op}",
        functools.partial(_backward, op=_op),
        setup_context=functools.partial(_setup_context, op=_op),
    )


@torch.library.register_fake("pydet::_box_iou_backward")
def _backward_fake(
    gradient: Tensor, boxes1: Tensor, boxes2: Tensor, op: str, fmt: str, eps: float
) -> tuple[Tensor, Tensor]:
    dtype = reference.compute_dtype(boxes1, boxes2)
    return boxes1.new_empty(boxes1.shape, dtype=dtype), boxes2.new_empty(boxes2.shape, dtype=dtype)


def _backward_setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    gradient, boxes1, boxes2, *ctx.options = inputs
    ctx.save_for_backward(gradient, boxes1, boxes2)


def _backward_backward(ctx, *grads: Tensor | None):  # type: ignore[no-untyped-def]
    gradient, *boxes = ctx.saved_tensors
    return *_gradients.of_gradient(_reference_of(*ctx.options), boxes, gradient, grads), None, None, None


torch.library.register_autograd("pydet::_box_iou_backward", _backward_backward, setup_context=_backward_setup_context)
