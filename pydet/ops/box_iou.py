from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from pydet import _library, reference  # noqa: F401  (_library defines torch.ops.pydet)
from pydet.ops import _batching, _gradients
from pydet.ops._fakes import register_fake


def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy", aligned: bool = False) -> Tensor:
    """Intersection over union (Jaccard index) of every box of one set with every box of another.

    As `torchvision.ops.box_iou`, and for batches and aligned boxes too. Areas are not clamped: a pair whose union is 0
    gives NaN.

    Args:
        boxes1: [..., N, 4], any unit, floating or integer.
        boxes2: [..., M, 4], the same leading dimensions and device.
        fmt: "xyxy" (corners), "xywh" (top left corner, size) or "cxcywh" (centre, size).
        aligned: each box only with the box at the same place of boxes2, which has the shape of boxes1, [..., 4].

    Returns:
        [..., N, M], or [...] where aligned; float64 where an input is float64, else float32 (half precision and
        integers too, whose areas would overflow or round). Differentiable, twice; where coordinates are equal the
        gradient is shared, and pairs whose own gradient is 0 contribute none, even where the IoU is NaN.

    Raises:
        RuntimeError: a shape, dtype, device or `fmt` that is none of the above; the message names it.
    """
    return torch.ops.pydet.box_iou(boxes1, boxes2, fmt, aligned)


def box_iof(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy", aligned: bool = False) -> Tensor:
    """Intersection over foreground: which part of each box of boxes1 each box of boxes2 covers.

    As `mmcv.ops.bbox_overlaps(boxes1, boxes2, mode="iof")`. detectron2's `pairwise_ioa` divides by the other area:
    `box_iof(boxes2, boxes1).T`. Areas are not clamped: a box of boxes1 whose area is 0 gives NaN.

    Args:
        boxes1: [..., N, 4], the boxes whose area is divided by, any unit, floating or integer.
        boxes2: [..., M, 4], the same leading dimensions and device.
        fmt: "xyxy" (corners), "xywh" (top left corner, size) or "cxcywh" (centre, size).
        aligned: each box only with the box at the same place of boxes2, which has the shape of boxes1, [..., 4].

    Returns:
        [..., N, M], or [...] where aligned, of the type and differentiable as `box_iou`.

    Raises:
        RuntimeError: a shape, dtype, device or `fmt` that is none of the above; the message names it.
    """
    return torch.ops.pydet.box_iof(boxes1, boxes2, fmt, aligned)


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor, aligned: bool = False) -> Tensor:
    """Generalized IoU of every box of one set with every box of another (Rezatofighi et al. 2019).

    IoU - (hull - union) / hull, with the area of the smallest box around both: from -1 for small boxes far apart to 1
    for equal ones. As `torchvision.ops.generalized_box_iou`, in one pass.

    Args:
        boxes1: [..., N, 4] xyxy in any unit, floating or integer.
        boxes2: [..., M, 4] xyxy, the same leading dimensions and device.
        aligned: as of `box_iou`.

    Returns:
        [..., N, M], or [...] where aligned, of the type and differentiable as `box_iou`.

    Raises:
        RuntimeError: a shape, dtype or device that is none of the above; the message names it.
    """
    return torch.ops.pydet.generalized_box_iou(boxes1, boxes2, aligned)


def distance_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7, aligned: bool = False) -> Tensor:
    """Distance IoU of every box of one set with every box of another (Zheng et al. 2020).

    IoU - d^2 / (c^2 + eps): distance d of the centres, diagonal c of the smallest box around both. As
    `torchvision.ops.distance_box_iou`, in one pass.

    Args:
        boxes1: [..., N, 4] xyxy in any unit, floating or integer.
        boxes2: [..., M, 4] xyxy, the same leading dimensions and device.
        eps: keeps the divisor from being 0, in the boxes' unit squared.
        aligned: as of `box_iou`.

    Returns:
        [..., N, M], or [...] where aligned, of the type and differentiable as `box_iou`.

    Raises:
        RuntimeError: a shape, dtype or device that is none of the above; the message names it.
    """
    return torch.ops.pydet.distance_box_iou(boxes1, boxes2, eps, aligned)


def complete_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7, aligned: bool = False) -> Tensor:
    """Complete IoU of every box of one set with every box of another (Zheng et al. 2020).

    Distance IoU - alpha * v, where v = 4 / pi^2 * (atan(w1 / h1) - atan(w2 / h2))^2 compares the aspect ratios and
    alpha = v / (1 - IoU + v + eps). As `torchvision.ops.complete_box_iou`, in one pass.

    Args:
        boxes1: [..., N, 4] xyxy in any unit, floating or integer.
        boxes2: [..., M, 4] xyxy, the same leading dimensions and device.
        eps: keeps divisors from being 0; in `distance_box_iou` in the boxes' unit squared.
        aligned: as of `box_iou`.

    Returns:
        [..., N, M], or [...] where aligned, of the type and differentiable as `box_iou`; alpha is a constant in the
        gradient, as in the paper.

    Raises:
        RuntimeError: a shape, dtype or device that is none of the above; the message names it.
    """
    return torch.ops.pydet.complete_box_iou(boxes1, boxes2, eps, aligned)


def _fake(op: str, boxes1: Tensor, boxes2: Tensor, aligned: bool) -> Tensor:
    torch._check(boxes1.size(-1) == 4, lambda: f"{op}: boxes1 must be [..., N, 4], got {list(boxes1.shape)}")
    torch._check(boxes2.size(-1) == 4, lambda: f"{op}: boxes2 must be [..., M, 4], got {list(boxes2.shape)}")
    shape = boxes1.shape[:-1] if aligned else (*boxes1.shape[:-1], boxes2.shape[-2])
    return boxes1.new_empty(shape, dtype=reference.result_dtype(boxes1, boxes2))


def _fake_with_format(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy", aligned: bool = False, *, op: str) -> Tensor:
    return _fake(op, boxes1, boxes2, aligned)


def _fake_with_eps(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7, aligned: bool = False, *, op: str) -> Tensor:
    return _fake(op, boxes1, boxes2, aligned)


_FAKES: dict[str, Callable[..., Tensor]] = {
    "box_iou": _fake_with_format,
    "box_iof": _fake_with_format,
    "generalized_box_iou": lambda boxes1, boxes2, aligned=False, *, op: _fake(op, boxes1, boxes2, aligned),
    "distance_box_iou": _fake_with_eps,
    "complete_box_iou": _fake_with_eps,
}
for _op, _function in _FAKES.items():
    register_fake(f"pydet::{_op}")(functools.partial(_function, op=_op))
    _gradients.register(_op, "_box_iou_backward")
    _batching.register(_op)


@register_fake("pydet::_box_iou_backward")
def _backward_fake(
    gradient: Tensor, boxes1: Tensor, boxes2: Tensor, op: str, fmt: str, eps: float, aligned: bool
) -> tuple[Tensor, Tensor]:
    dtype = reference.compute_dtype(boxes1, boxes2)
    return boxes1.new_empty(boxes1.shape, dtype=dtype), boxes2.new_empty(boxes2.shape, dtype=dtype)


_gradients.register_second("_box_iou_backward")
_batching.register("_box_iou_backward", tensors=3)
