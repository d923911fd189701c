"""For each anchor the ground truth of the highest IoU, for each ground truth the highest IoU of all anchors; then what
a mode makes of the second: anchors that have it get their own best ground truth back, or the first of them is forced.

A program has ANCHORS anchors of an image and meets its ground truths one after another; one that is apart from all of
them has an IoU of 0 with each and is not looked at. IoUs are compared as integers, of which the highest can be found by
an atomic operation, in any order with the same result.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from pydet.triton_kernels.box_iou import divide
from pydet.triton_kernels.checks import require, require_one_device
from torch import Tensor

ANCHORS = 64  # of a warp: two a lane
BACKGROUND, BETWEEN = -1, -2
FORCED = 1 << 32  # above every index


@triton.jit
def rank_of(x):  # type: ignore[no-untyped-def]
    """A float as an integer in the order of torch.max: NaN above everything, -0 equal to 0."""
    if x.dtype.is_fp64():
        bits = (x + 0.0).to(tl.int64, bitcast=True)
        return tl.where(x == x, tl.where(bits < 0, bits ^ 0x7FFFFFFFFFFFFFFF, bits), 0x7FFFFFFFFFFFFFFF)
    else:
        bits = (x + 0.0).to(tl.int32, bitcast=True)
        return tl.where(x == x, tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits), 0x7FFFFFFF)


@triton.jit
def load_box(boxes, index):  # type: ignore[no-untyped-def]
    """x1, y1, x2, y2 and area."""
    x1 = tl.load(boxes + index * 4)
    y1 = tl.load(boxes + index * 4 + 1)
    x2 = tl.load(boxes + index * 4 + 2)
    y2 = tl.load(boxes + index * 4 + 3)
    return x1, y1, x2, y2, (x2 - x1) * (y2 - y1)


@triton.jit
def is_plain(box):  # type: ignore[no-untyped-def]
    """Not inverted, of finite area: with one of positive area the IoU is in [0, 1], and 0 where they are apart."""
    x1, y1, x2, y2, area = box
    largest = 4.49e307 if area.dtype.is_fp64() else 8.5e37  # about a quarter of the largest number
    return (x2 >= x1) & (y2 >= y1) & (area <= largest)


@triton.jit
def load_boxes(boxes, count, image_stride, BOXES: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of a program: image, indices in it, whether there are such boxes; the boxes, and what is around all of them."""
    blocks = tl.cdiv(count, BOXES)
    task = tl.program_id(0).to(tl.int64)
    image = task // blocks
    index = (task % blocks) * BOXES + tl.arange(0, BOXES)
    inside = index < count
    index = tl.minimum(index, count - 1)  # the last box again where there are no more, which changes no maximum
    box = load_box(boxes + image * image_stride, index)
    x1, y1, x2, y2, _ = box
    plain = tl.min(is_plain(box).to(tl.int32), axis=0) > 0
    around = tl.min(x1, axis=0), tl.min(y1, axis=0), tl.max(x2, axis=0), tl.max(y2, axis=0), plain
    return image, index, inside, box, around


@triton.jit
def is_apart(around, truth):  # type: ignore[no-untyped-def]
    """Whether a ground truth has an IoU of 0 with all boxes of a program."""
    left, top, right, bottom, plain = around
    x1, y1, x2, y2, area = truth
    plain = plain & is_plain(truth) & (area > 0)
    return plain & ((left >= x2) | (right <= x1) | (top >= y2) | (bottom <= y1))


@triton.jit
def iou_with(truth, boxes):  # type: ignore[no-untyped-def]
    """Of a ground truth and boxes; comparisons keep what a NaN must do, see box_iou."""
    x1, y1, x2, y2, area = truth
    bx1, by1, bx2, by2, box_area = boxes
    width = tl.where(x2 < bx2, x2, bx2) - tl.where(x1 > bx1, x1, bx1)
    height = tl.where(y2 < by2, y2, by2) - tl.where(y1 > by1, y1, by1)
    overlap = tl.where(width < 0, 0.0, width) * tl.where(height < 0, 0.0, height)
    return divide(overlap, area + box_area - overlap)


@triton.jit
def match_anchors_kernel(  # type: ignore[no-untyped-def]
    anchors,  # [A, 4] or [B, A, 4]
    truths,  # [G, 4]
    offsets,  # [B + 1]: of the ground truths of each image
    highest,  # [G] ranks: written by PHASE "best", read by the others
    first,  # [G]: written by PHASE "first"
    out,  # [B, A]
    count,  # A
    image_stride,  # between the anchors of two images
    high,  # ranks of the thresholds
    low,
    PHASE: tl.constexpr,  # "best": out by the thresholds; "restore": RetinaNet's; "first": SSD's forced anchors
    ASKED: tl.constexpr,  # PHASE "best": another follows; out has the best ground truth in its high half, if "restore"
    ANCHORS: tl.constexpr,
):
    count = tl.full((), count, tl.int64)
    image, anchor, inside, boxes, around = load_boxes(anchors, count, image_stride, ANCHORS)

    lowest: tl.constexpr = -0x7FFFFFFFFFFFFFFF if boxes[0].dtype.is_fp64() else -0x7FFFFFFF
    best = tl.zeros_like(rank_of(boxes[0])) + lowest
    index = tl.zeros_like(anchor)
    equal = tl.zeros_like(inside)
    begin = tl.load(offsets + image)
    end = tl.load(offsets + image + 1)
    truth = begin
    while truth < end:
        box = load_box(truths, truth)
        unseen = is_apart(around, box)
        if PHASE == "best":
            rank = tl.zeros_like(best)
            if unseen == 0:
                rank = rank_of(iou_with(box, boxes))
            better = rank > best  # so that the first of equals stays
            index = tl.where(better, truth - begin, index)
            best = tl.where(better, rank, best)
            if ASKED != "no":
                tl.atomic_max(highest + truth, tl.max(rank, axis=0), sem="relaxed")
        else:
            wanted = tl.load(highest + truth)
            if (unseen == 0) | (wanted == 0):
                rank = rank_of(iou_with(box, boxes))
                if PHASE == "restore":
                    equal = equal | (rank == wanted)
                else:
                    found = tl.min(tl.where(rank == wanted, anchor, count), axis=0)
                    if found < count:
                        tl.atomic_min(first + truth, found, sem="relaxed")
        truth += 1

    here = out + image * count + anchor
    if PHASE == "best":
        result = tl.where(best < low, -1, tl.where(best < high, -2, index))
        if ASKED == "restore":
            result = (index << 32) | (result & 0xFFFFFFFF)
        tl.store(here, result, mask=inside)
    if PHASE == "restore":
        both = tl.load(here)
        tl.store(here, tl.where(equal, both >> 32, (both << 32) >> 32), mask=inside)


def rank_of_number(value: float, dtype: torch.dtype) -> int:
    """The rank of a number rounded to a dtype, on the host."""
    width = 64 if dtype == torch.float64 else 32
    bits = int(torch.tensor(value + 0.0, dtype=dtype).view(torch.int64 if width == 64 else torch.int32))
    return bits if bits >= 0 else bits ^ ((1 << (width - 1)) - 1)


def image_offsets(counts: Tensor | None, total: int, like: Tensor) -> Tensor:
    """[B + 1]. Nobody has looked at the counts: a negative one is 0 and what is beyond the end is not there."""
    if counts is None:
        return torch.arange(2, device=like.device) * total
    ends = counts.long().clamp(0, total).cumsum(0).clamp(max=total)
    return torch.cat([ends.new_zeros(1), ends])


def image_of_each(offsets: Tensor, total: int) -> Tensor:
    """[G]: the image of each ground truth; B for those that the counts leave out."""
    truths = torch.arange(total, device=offsets.device)
    return torch.searchsorted(offsets[1:], truths, right=True)


def force_first(out: Tensor, first: Tensor, offsets: Tensor) -> None:
    """SSD section 2.2: the first anchor with a ground truth's best IoU gets that one; of several the last has it."""
    image = image_of_each(offsets, len(first))
    counted = image < len(out)
    image = image.clamp(max=len(out) - 1)
    index = torch.arange(len(first), device=out.device) - offsets[image]
    place = torch.where(counted, image * out.shape[1] + first, 0)
    claim = torch.where(counted, FORCED + index, -FORCED)
    flat = out.view(-1)
    flat.scatter_reduce_(0, place, claim, "amax")
    flat.copy_(torch.where(flat >= FORCED, flat - FORCED, flat))


def check_ragged_truths(op: str, gt_boxes: Tensor, counts: Tensor | None) -> None:
    require(gt_boxes.is_floating_point(), op, "gt_boxes must be a floating tensor", gt_boxes.dtype)
    require(gt_boxes.dim() == 2 and gt_boxes.shape[1] == 4, op, "gt_boxes must be [G, 4]", list(gt_boxes.shape))
    if counts is not None:
        integers = counts.dim() == 1 and not counts.is_floating_point() and counts.dtype != torch.bool
        require(integers, op, "counts must be an integer tensor [B]", f"{counts.dtype} {list(counts.shape)}")
        require_one_device(op, gt_boxes=gt_boxes, counts=counts)


def match_anchors(
    anchors: Tensor,
    gt_boxes: Tensor,
    counts: Tensor | None = None,
    high_threshold: float = 0.5,
    low_threshold: float | None = None,
    mode: str = "retinanet",
) -> Tensor:
    """`pydet.ops.match_anchors` on one GPU."""
    op = "match_anchors"
    require(anchors.is_floating_point(), op, "anchors must be a floating tensor", anchors.dtype)
    check_ragged_truths(op, gt_boxes, counts)
    shape = list(anchors.shape)
    boxes = len(shape) == 2 or (len(shape) == 3 and counts is not None)
    require(boxes and shape[-1] == 4, op, "anchors must be [A, 4], or [B, A, 4] with counts", shape)
    images = 1 if counts is None else counts.shape[0]
    require(
        len(shape) == 2 or shape[0] == images, op, f"anchors must be [B, A, 4] with B = {images} as in counts", shape
    )
    require_one_device(op, anchors=anchors, gt_boxes=gt_boxes)
    require(high_threshold == high_threshold, op, "high_threshold must be a number", high_threshold)
    if low_threshold is None:
        low_threshold = min(0.4, high_threshold) if mode == "retinanet" else high_threshold
    rule = f"low_threshold must be at most high_threshold = {high_threshold}"
    require(low_threshold <= high_threshold, op, rule, low_threshold)
    modes = {"retinanet": "restore", "ssd": "first", "threshold": "no"}
    require(mode in modes, op, "mode must be 'retinanet', 'ssd' or 'threshold'", repr(mode))

    count, total = shape[-2], gt_boxes.shape[0]
    out = anchors.new_empty((images, count), dtype=torch.int64)
    if out.numel() > 0:
        dtype = torch.promote_types(torch.promote_types(anchors.dtype, gt_boxes.dtype), torch.float32)
        rank, lowest = (torch.int64, -(1 << 63)) if dtype == torch.float64 else (torch.int32, -(1 << 31))
        offsets = image_offsets(counts, total, anchors)
        asked = modes[mode]
        highest = torch.full((total if asked != "no" else 0,), lowest, dtype=rank, device=anchors.device)
        first = torch.full((total if asked == "first" else 0,), count - 1, dtype=torch.int64, device=anchors.device)
        arguments: dict[str, Any] = {
            "anchors": anchors.to(dtype).contiguous(),
            "truths": gt_boxes.to(dtype).contiguous(),
            "offsets": offsets,
            "highest": highest,
            "first": first,
            "out": out,
            "count": count,
            "image_stride": 4 * count if len(shape) == 3 else 0,
            "high": rank_of_number(high_threshold, dtype),
            "low": rank_of_number(low_threshold, dtype),
            "ASKED": asked,
            "ANCHORS": ANCHORS,
            "num_warps": 1,
            "enable_fp_fusion": False,
        }
        grid = (images * triton.cdiv(count, ANCHORS),)
        with torch.cuda.device_of(anchors):
            match_anchors_kernel[grid](PHASE="best", **arguments)
            if asked != "no":
                match_anchors_kernel[grid](PHASE=asked, **arguments)
        if asked == "first":
            force_first(out, first, offsets)
    return out if counts is not None else out[0]
