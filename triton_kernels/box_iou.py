"""IoU(a, b) = |a ∩ b| / (|a| + |b| - |a ∩ b|) for every pair, areas with their sign, nothing clamped but the overlap.

A program computes ROWS x COLUMNS pairs: each box is loaded once for a whole row or column of them, and stores of a row
are contiguous.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from pydet.triton_kernels.checks import require, require_one_device
from torch import Tensor

ROWS, COLUMNS = 16, 128


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
def box_iou_kernel(  # type: ignore[no-untyped-def]
    boxes1,  # [batch, n, 4]
    boxes2,  # [batch, m, 4]
    out,  # [batch, n, m]
    n,
    m,
    FORMAT: tl.constexpr,
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
    area_a = ((ax2 - ax1) * (ay2 - ay1))[:, None]
    area_b = ((bx2 - bx1) * (by2 - by1))[None, :]
    # Comparisons instead of tl.maximum: a NaN is dropped here and comes back through the area, as in the C++.
    left = tl.where(ax1[:, None] > bx1[None, :], ax1[:, None], bx1[None, :])
    top = tl.where(ay1[:, None] > by1[None, :], ay1[:, None], by1[None, :])
    right = tl.where(ax2[:, None] < bx2[None, :], ax2[:, None], bx2[None, :])
    bottom = tl.where(ay2[:, None] < by2[None, :], ay2[:, None], by2[None, :])
    width, height = right - left, bottom - top
    overlap = tl.where(width < 0, 0.0, width) * tl.where(height < 0, 0.0, height)
    union = area_a + area_b - overlap
    # `/` would be an approximation in float32
    iou = overlap / union if overlap.dtype.is_fp64() else tl.math.div_rn(overlap, union)
    offset = (image * n + row)[:, None] * m + column[None, :]
    tl.store(out + offset, iou, mask=(row < n)[:, None] & (column < m)[None, :])


def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy", aligned: bool = False) -> Tensor:
    """`pydet.ops.box_iou` for [..., N, 4] and [..., M, 4] on one GPU."""
    op = "box_iou"
    require(not aligned, op, "aligned boxes have no Triton kernel yet", aligned)
    for name, boxes, letter in (("boxes1", boxes1, "N"), ("boxes2", boxes2, "M")):
        shape = list(boxes.shape)
        require(len(shape) >= 2 and shape[-1] == 4, op, f"{name} must be [..., {letter}, 4]", shape)
        numeric = not boxes.is_complex() and boxes.dtype != torch.bool
        require(numeric, op, f"{name} must be a floating or integer tensor", boxes.dtype)
    leads = list(boxes1.shape), list(boxes2.shape)
    same = leads[0][:-2] == leads[1][:-2]
    require(same, op, "boxes1 and boxes2 must have the same leading dimensions", f"{leads[0]} and {leads[1]}")
    require_one_device(op, boxes1=boxes1, boxes2=boxes2)
    require(fmt in ("xyxy", "xywh", "cxcywh"), op, "fmt must be 'xyxy', 'xywh' or 'cxcywh'", repr(fmt))

    n, m = boxes1.shape[-2], boxes2.shape[-2]
    dtypes = boxes1.dtype, boxes2.dtype
    in_double = any(dtype == torch.float64 or not dtype.is_floating_point for dtype in dtypes)
    out = boxes1.new_empty((*boxes1.shape[:-1], m), dtype=torch.float64 if torch.float64 in dtypes else torch.float32)
    if out.numel() == 0:
        return out
    programs = out.numel() // (n * m) * triton.cdiv(n, ROWS) * triton.cdiv(m, COLUMNS)
    with torch.cuda.device_of(boxes1):
        box_iou_kernel[(programs,)](
            boxes1=boxes1.contiguous(),
            boxes2=boxes2.contiguous(),
            out=out,
            n=n,
            m=m,
            FORMAT=fmt,
            COMPUTE=tl.float64 if in_double else tl.float32,
            ROWS=ROWS,
            COLUMNS=COLUMNS,
            enable_fp_fusion=False,  # the same bits as the C++: boxes must not move over a threshold
        )
    return out
