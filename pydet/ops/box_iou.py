from __future__ import annotations

import torch
from torch import Tensor

from pydet import _library, reference  # noqa: F401  (_library defines torch.ops.pydet)


def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> Tensor:
    """Intersection over union (Jaccard index) of every box of one set with every box of another.

    As `torchvision.ops.box_iou`, and for batches too. Areas are not clamped: a pair whose union is 0 gives NaN.

    Args:
        boxes1: [..., N, 4], any unit, floating or integer.
        boxes2: [..., M, 4], the same leading dimensions and device.
        fmt: "xyxy" (corners), "xywh" (top left corner, size) or "cxcywh" (centre, size).

    Returns:
        [..., N, M], float64 where an input is float64, else float32 (half precision and integers too, whose areas
        would overflow or round). Differentiable; the gradient itself is not.

    Raises:
        RuntimeError: a shape, dtype, device or `fmt` that is none of the above; the message names it.
    """
    return torch.ops.pydet.box_iou(boxes1, boxes2, fmt)


@torch.library.register_fake("pydet::box_iou")
def _box_iou_fake(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> Tensor:
    torch._check(boxes1.size(-1) == 4, lambda: f"box_iou: boxes1 must be [..., N, 4], got {list(boxes1.shape)}")
    torch._check(boxes2.size(-1) == 4, lambda: f"box_iou: boxes2 must be [..., M, 4], got {list(boxes2.shape)}")
    double = torch.float64 in (boxes1.dtype, boxes2.dtype)
    return boxes1.new_empty((*boxes1.shape[:-1], boxes2.shape[-2]), dtype=torch.float64 if double else torch.float32)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    boxes1, boxes2, ctx.fmt = inputs
    ctx.save_for_backward(boxes1, boxes2)


def _backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    boxes1, boxes2 = (t.detach().requires_grad_(t.is_floating_point()) for t in ctx.saved_tensors)
    with torch.enable_grad():
        iou = reference.box_iou(boxes1, boxes2, ctx.fmt)
    wanted = [t for t, needed in zip((boxes1, boxes2), ctx.needs_input_grad, strict=False) if needed]
    grads = iter(torch.autograd.grad(iou, wanted, grad))
    return tuple(next(grads) if needed else None for needed in ctx.needs_input_grad[:2]) + (None,)


torch.library.register_autograd("pydet::box_iou", _backward, setup_context=_setup_context)
