"""IoU(a, b) = |a ∩ b| / (|a| + |b| - |a ∩ b|), areas with their sign, nothing clamped but the overlap; and its kin:

generalized: IoU - (|hull| - |a ∪ b|) / |hull|; distance: IoU - d^2 / (c^2 + eps); complete: distance - alpha v with
v = 4 / pi^2 (atan(w_a / h_a) - atan(w_b / h_b))^2, alpha = v / (1 - IoU + v + eps); foreground: |a ∩ b| / |a|.

A program computes ROWS x COLUMNS pairs: each box is loaded once for a whole row or column of them, and stores of a row
are contiguous. Of aligned boxes it computes one column.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from pydet.triton_kernels.checks import require, require_one_device
from torch import Tensor

ROWS, COLUMNS, PAIRS = 16, 128, 512
ASPECT_SCALE = tl.constexpr(0.40528473456935108578)  # 4 / pi^2


@triton.jit
def load_corners(boxes, index, mask, FORMAT: tl.constexpr, COMPUTE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Boxes [.., 4] at these indices as x1, y1, x2, y2."""
    a = tl.load(boxes + index * 4, mask=mask, other=0).to(COMPUTE)
    b = tl.load(boxes + index * 4 + 1, mask=mask, other=0).to(COMPUTE)
    c = tl.load(boxes + index * 4 + 2, mask=mask, other=0).to(COMPUTE)
    d = tl.load(boxes + index * 4 + 3, mask=mask, other=0).to(COMPUTE)
    if FORMAT == "cxcywh":
        a = a - 0.5 * c
        b = b - 0.5 * d
    if FORMAT != "xyxy":
        c = a + c
        d = b + d
    return a, b, c, d


@triton.jit
def divide(a, b):  # type: ignore[no-untyped-def]
    """Rounded; `/` would be an approximation in float32."""
    return a / b if a.dtype.is_fp64() else tl.math.div_rn(a, b)


@triton.jit
def arctangent(x):  # type: ignore[no-untyped-def]
    """csrc/math/scalar.h's; in float64 the series, whose terms fall by 0.17 each."""
    a = tl.abs(x)
    steep, middle = a > 2.414213562373095, a > 0.41421356237309503
    above = tl.where(steep, -1.0, tl.where(middle, a - 1.0, a))
    t = divide(above, tl.where(steep, a, tl.where(middle, a + 1.0, 1.0)))
    z = t * t
    if x.dtype.is_fp64():
        p = tl.zeros_like(z)
        for k in tl.static_range(22, 0, -1):
            p = p * z + (1 - 2 * (k % 2)) / (2 * k + 1)
        eighths = tl.where(steep, 4.0, tl.where(middle, 2.0, 0.0)) * tl.full((), 0.39269908169872414, x.dtype)
        angle = eighths + (t + t * (z * p))
    else:
        p = -0.0608297028
        p = p * z + 0.105958208
        p = p * z - 0.142438263
        p = p * z + 0.199984878
        p = p * z - 0.333333164
        c = tl.where(steep, 1.57079637, tl.where(middle, 0.785398185, 0.0))
        rest = tl.where(steep, -4.37113883e-8, tl.where(middle, -2.18556941e-8, 0.0))
        angle = c + (t + (t * z * p + rest))
    return tl.where(x < 0, -angle, angle)


@triton.jit
def similarity(  # type: ignore[no-untyped-def]
    ax1, ay1, ax2, ay2, bx1, by1, bx2, by2, OP: tl.constexpr, EPS: tl.constexpr
):
    """Of boxes whose shapes broadcast."""
    # Comparisons instead of tl.maximum: a NaN is dropped here and comes back through the area, as in the C++.
    left, top = tl.where(ax1 > bx1, ax1, bx1), tl.where(ay1 > by1, ay1, by1)
    right, bottom = tl.where(ax2 < bx2, ax2, bx2), tl.where(ay2 < by2, ay2, by2)
    width, height = right - left, bottom - top
    overlap = tl.where(width < 0, 0.0, width) * tl.where(height < 0, 0.0, height)
    area_a, area_b = (ax2 - ax1) * (ay2 - ay1), (bx2 - bx1) * (by2 - by1)
    union = area_a + area_b - overlap
    result = divide(overlap, area_a + tl.zeros_like(overlap) if OP == "box_iof" else union)
    if OP != "box_iou" and OP != "box_iof":
        hull_width = tl.where(ax2 > bx2, ax2, bx2) - tl.where(ax1 < bx1, ax1, bx1)
        hull_height = tl.where(ay2 > by2, ay2, by2) - tl.where(ay1 < by1, ay1, by1)
        # 0, not -0, as in the C++.
        hull_width, hull_height = tl.where(hull_width > 0, hull_width, 0.0), tl.where(hull_height > 0, hull_height, 0.0)
        if OP == "generalized_box_iou":
            hull = hull_width * hull_height
            result = result - divide(hull - union, hull)
        else:
            iou, eps = result, tl.full((), EPS, result.dtype)
            x, y = 0.5 * (ax1 + ax2) - 0.5 * (bx1 + bx2), 0.5 * (ay1 + ay2) - 0.5 * (by1 + by2)
            diagonal = hull_width * hull_width + hull_height * hull_height + eps
            result = iou - divide(x * x + y * y, diagonal)
            if OP == "complete_box_iou":
                turn = arctangent(divide(ax2 - ax1, ay2 - ay1)) - arctangent(divide(bx2 - bx1, by2 - by1))
                v = tl.full((), ASPECT_SCALE, result.dtype) * (turn * turn)
                result = result - divide(v, 1.0 - iou + v + eps) * v
    return result


@triton.jit
def box_iou_kernel(  # type: ignore[no-untyped-def]
    boxes1,  # [batch, n, 4]
    boxes2,  # [batch, m, 4]
    out,  # [batch, n, m]
    n,
    m,
    OP: tl.constexpr,
    FORMAT: tl.constexpr,
    EPS: tl.constexpr,
    COMPUTE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row_blocks = tl.cdiv(n, ROWS)
    column_blocks = tl.cdiv(m, COLUMNS)
    task = tl.program_id(0).to(tl.int64)
    image = task // column_blocks // row_blocks
    row = (task // column_blocks % row_blocks) * ROWS + tl.arange(0, ROWS)
    column = (task % column_blocks) * COLUMNS + tl.arange(0, COLUMNS)
    ax1, ay1, ax2, ay2 = load_corners(boxes1, image * n + row, row < n, FORMAT, COMPUTE)
    bx1, by1, bx2, by2 = load_corners(boxes2, image * m + column, column < m, FORMAT, COMPUTE)
    ax1, ay1, ax2, ay2 = ax1[:, None], ay1[:, None], ax2[:, None], ay2[:, None]
    bx1, by1, bx2, by2 = bx1[None, :], by1[None, :], bx2[None, :], by2[None, :]
    result = similarity(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2, OP, EPS)
    offset = (image * n + row)[:, None] * m + column[None, :]
    tl.store(out + offset, result, mask=(row < n)[:, None] & (column < m)[None, :])


@triton.jit
def aligned_box_iou_kernel(  # type: ignore[no-untyped-def]
    boxes1,  # [n, 4]
    boxes2,  # [n, 4]
    out,  # [n]
    n,
    OP: tl.constexpr,
    FORMAT: tl.constexpr,
    EPS: tl.constexpr,
    COMPUTE: tl.constexpr,
    PAIRS: tl.constexpr,
):
    pair = tl.program_id(0).to(tl.int64) * PAIRS + tl.arange(0, PAIRS)
    ax1, ay1, ax2, ay2 = load_corners(boxes1, pair, pair < n, FORMAT, COMPUTE)
    bx1, by1, bx2, by2 = load_corners(boxes2, pair, pair < n, FORMAT, COMPUTE)
    result = similarity(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2, OP, EPS)
    tl.store(out + pair, result, mask=pair < n)


def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy", aligned: bool = False) -> Tensor:
    """`pydet.ops.box_iou` on one GPU."""
    return _launch("box_iou", boxes1, boxes2, fmt, 0.0, aligned)


def box_iof(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy", aligned: bool = False) -> Tensor:
    """`pydet.ops.box_iof` on one GPU."""
    return _launch("box_iof", boxes1, boxes2, fmt, 0.0, aligned)


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor, aligned: bool = False) -> Tensor:
    """`pydet.ops.generalized_box_iou` on one GPU."""
    return _launch("generalized_box_iou", boxes1, boxes2, "xyxy", 0.0, aligned)


def distance_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7, aligned: bool = False) -> Tensor:
    """`pydet.ops.distance_box_iou` on one GPU."""
    return _launch("distance_box_iou", boxes1, boxes2, "xyxy", eps, aligned)


def complete_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7, aligned: bool = False) -> Tensor:
    """`pydet.ops.complete_box_iou` on one GPU."""
    return _launch("complete_box_iou", boxes1, boxes2, "xyxy", eps, aligned)


def _check(op: str, boxes1: Tensor, boxes2: Tensor, fmt: str, aligned: bool) -> None:
    for name, boxes in (("boxes1", boxes1), ("boxes2", boxes2)):
        numeric = not boxes.is_complex() and boxes.dtype != torch.bool
        require(numeric, op, f"{name} must be a floating or integer tensor", boxes.dtype)
    shapes = list(boxes1.shape), list(boxes2.shape)
    if aligned:
        require(len(shapes[0]) >= 1 and shapes[0][-1] == 4, op, "boxes1 must be [..., 4]", shapes[0])
        require(shapes[0] == shapes[1], op, f"boxes2 must be {shapes[0]} as boxes1", shapes[1])
    else:
        for name, shape, letter in (("boxes1", shapes[0], "N"), ("boxes2", shapes[1], "M")):
            require(len(shape) >= 2 and shape[-1] == 4, op, f"{name} must be [..., {letter}, 4]", shape)
        same = shapes[0][:-2] == shapes[1][:-2]
        rule = "boxes1 and boxes2 must have the same leading dimensions"
        require(same, op, rule, f"{shapes[0]} and {shapes[1]}")
    require_one_device(op, boxes1=boxes1, boxes2=boxes2)
    require(fmt in ("xyxy", "xywh", "cxcywh"), op, "fmt must be 'xyxy', 'xywh' or 'cxcywh'", repr(fmt))


def _launch(op: str, boxes1: Tensor, boxes2: Tensor, fmt: str, eps: float, aligned: bool) -> Tensor:
    _check(op, boxes1, boxes2, fmt, aligned)
    dtypes = boxes1.dtype, boxes2.dtype
    in_double = any(dtype == torch.float64 or not dtype.is_floating_point for dtype in dtypes)
    shape = boxes1.shape[:-1] if aligned else (*boxes1.shape[:-1], boxes2.shape[-2])
    out = boxes1.new_empty(shape, dtype=torch.float64 if torch.float64 in dtypes else torch.float32)
    if out.numel() == 0:
        return out
    options = {"OP": op, "FORMAT": fmt, "EPS": eps, "COMPUTE": tl.float64 if in_double else tl.float32}
    options["enable_fp_fusion"] = False  # the same bits as the C++: boxes must not move over a threshold
    tensors = {"boxes1": boxes1.contiguous(), "boxes2": boxes2.contiguous(), "out": out}
    with torch.cuda.device_of(boxes1):
        if aligned:
            n = out.numel()
            aligned_box_iou_kernel[(triton.cdiv(n, PAIRS),)](**tensors, n=n, **options, PAIRS=PAIRS)
        else:
            n, m = shape[-2:]
            programs = out.numel() // (n * m) * triton.cdiv(n, ROWS) * triton.cdiv(m, COLUMNS)
            box_iou_kernel[(programs,)](**tensors, n=n, m=m, **options, ROWS=ROWS, COLUMNS=COLUMNS)
    return out
