"""Predictions whose IoU with any ground truth of their image is above a threshold; which prediction of its cell each
ground truth trains is a matter of a few numbers for each, and left to torch.

A program has PREDICTIONS predictions of an image and meets its ground truths as match_anchors does.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from pydet.triton_kernels.checks import require, require_one_device
from pydet.triton_kernels.match_anchors import (
    check_ragged_truths,
    image_of_each,
    image_offsets,
    iou_with,
    is_apart,
    load_box,
    load_boxes,
)
from torch import Tensor

PREDICTIONS = 64  # of a warp: two a lane
MOST_OF_MASK = 32


@triton.jit
def match_cells_kernel(  # type: ignore[no-untyped-def]
    predictions,  # [B, A, 4]
    truths,  # [G, 4]
    offsets,  # [B + 1]: of the ground truths of each image
    threshold,  # [1], not negative
    matches,  # [B, A]: -2 above it, else -1
    count,  # A
    PREDICTIONS: tl.constexpr,
):
    count = tl.full((), count, tl.int64)
    image, index, inside, boxes, around = load_boxes(predictions, count, 4 * count, PREDICTIONS)
    above = tl.zeros_like(inside)
    least = tl.load(threshold)
    truth = tl.load(offsets + image)
    end = tl.load(offsets + image + 1)
    while truth < end:
        box = load_box(truths, truth)
        if is_apart(around, box) == 0:
            above = above | (iou_with(box, boxes) > least)
        truth += 1
    tl.store(matches + image * count + index, tl.where(above, -2, -1).to(tl.int64), mask=inside)


def shape_iou(a: Tensor, b: Tensor) -> Tensor:
    """Of widths and heights [..., 2], laid on one centre."""
    overlap = torch.minimum(a[..., 0], b[..., 0]) * torch.minimum(a[..., 1], b[..., 1])
    return overlap / (a[..., 0] * a[..., 1] + b[..., 0] * b[..., 1] - overlap)


def iou_of_pairs(a: Tensor, b: Tensor) -> Tensor:
    extent = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    overlap = extent[..., 0] * extent[..., 1]
    areas = [(box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1]) for box in (a, b)]
    return overlap / (areas[0] + areas[1] - overlap)


def most_overlapping(own: Tensor, truth: Tensor, size: Tensor) -> Tensor:
    """Of [G, N, 4] predictions and [G, 1, 4] ground truths: highest IoU, else least distance below 20, else -1."""
    iou = iou_of_pairs(truth, own)
    iou = torch.where(iou > 0, iou, 0)
    centre = (0.5 * (own[..., :2] + own[..., 2:]) - 0.5 * (truth[..., :2] + truth[..., 2:])) / size
    extent = ((own[..., 2:] - own[..., :2]) - (truth[..., 2:] - truth[..., :2])) / size
    squares = torch.cat([centre, extent], dim=-1) ** 2
    distance = (squares[..., 0] + squares[..., 1] + squares[..., 2] + squares[..., 3]).sqrt()
    distance = torch.where(distance < 20, distance, 20)
    nearest = torch.where((distance < 20).any(dim=1), distance.argmin(dim=1), -1)
    return torch.where((iou > 0).any(dim=1), iou.argmax(dim=1), nearest)


def of_best_shape(shapes: Tensor, truth: Tensor, mask: list[int] | None) -> Tensor:
    """Of [G or 1, K, 2] shapes and [G, 1, 4] ground truths; the place in the mask, -1 for none."""
    iou = shape_iou(truth[..., 2:] - truth[..., :2], shapes)
    best = torch.where(iou > 0, iou, 0).argmax(dim=1)
    if mask is None:
        return best
    found = torch.full_like(best, -1)
    for place, prior in reversed(list(enumerate(mask))):
        found = torch.where(best == prior, place, found)
    return found


def check(
    predictions: Tensor,
    gt_boxes: Tensor,
    counts: Tensor,
    grid: tuple[int, int],
    image_size: tuple[int, int],
    mode: str,
    priors: Tensor | None,
    mask: list[int] | None,
    ignore_threshold: float | None,
) -> int:
    """The contract of csrc/checks/match_anchors.h; how many predictions a cell has."""
    op = "match_cells"
    require(predictions.is_floating_point(), op, "predictions must be a floating tensor", predictions.dtype)
    check_ragged_truths(op, gt_boxes, counts)
    shape, images = list(predictions.shape), counts.shape[0]
    rule = f"predictions must be [B, H * W * N, 4] with B = {images} as in counts"
    require(len(shape) == 3 and shape[2] == 4 and shape[0] == images, op, rule, shape)
    require_one_device(op, predictions=predictions, gt_boxes=gt_boxes)
    for name, size in (("grid", grid), ("image_size", image_size)):
        fits = len(size) == 2 and all(0 < extent < 1 << 31 for extent in size)
        require(fits, op, f"{name} must be (height, width), positive 32-bit integers", list(size))
    of_cell = shape[1] // (grid[0] * grid[1])
    rule = f"predictions must have H * W * N rows, N >= 1, for the {grid[0]} x {grid[1]} grid and fewer than 2^31"
    whole = of_cell >= 1 and of_cell * grid[0] * grid[1] == shape[1] and shape[1] < 1 << 31
    require(whole, op, rule, shape[1])
    require(
        ignore_threshold is None or ignore_threshold >= 0, op, "ignore_threshold must be at least 0", ignore_threshold
    )
    require(mode in ("shape", "overlap"), op, "mode must be 'shape' or 'overlap'", repr(mode))
    require(mask is None or priors is not None, op, "mask must come with priors", "none")
    if priors is None:
        return of_cell
    require(mode == "shape", op, "priors must be left out in mode 'overlap'", list(priors.shape))
    pairs = priors.is_floating_point() and priors.dim() == 2 and priors.shape[1] == 2
    require(pairs, op, "priors must be a floating tensor [K, 2]", f"{priors.dtype} {list(priors.shape)}")
    require_one_device(op, predictions=predictions, priors=priors)
    rule = f"priors must be [N, 2] with N = {of_cell} predictions of a cell, or come with a mask"
    require(mask is not None or priors.shape[0] == of_cell, op, rule, list(priors.shape))
    if mask is not None:
        rule = f"mask must have N = {of_cell} entries, one for each prediction of a cell"
        require(len(mask) == of_cell, op, rule, list(mask))
        require(of_cell <= MOST_OF_MASK, op, f"mask must have at most {MOST_OF_MASK} entries", of_cell)
        known = all(0 <= prior < priors.shape[0] for prior in mask)
        require(known, op, f"mask must be of the {priors.shape[0]} priors", list(mask))
    return of_cell


def match_cells(
    predictions: Tensor,
    gt_boxes: Tensor,
    counts: Tensor,
    grid: tuple[int, int],
    image_size: tuple[int, int],
    mode: str = "shape",
    priors: Tensor | None = None,
    mask: list[int] | None = None,
    ignore_threshold: float | None = None,
) -> tuple[Tensor, Tensor]:
    """`pydet.ops.match_cells` on one GPU."""
    of_cell = check(predictions, gt_boxes, counts, grid, image_size, mode, priors, mask, ignore_threshold)
    (images, rows), total = predictions.shape[:2], gt_boxes.shape[0]
    matches = predictions.new_empty((images, rows), dtype=torch.int64)
    predictors = predictions.new_full((total,), -1, dtype=torch.int64)
    if images == 0:
        return matches, predictors
    dtype = torch.promote_types(torch.promote_types(predictions.dtype, gt_boxes.dtype), torch.float32)
    boxes, truths = predictions.to(dtype).contiguous(), gt_boxes.to(dtype).contiguous()
    offsets = image_offsets(counts, total, predictions)
    limit = math.inf if ignore_threshold is None else ignore_threshold
    with torch.cuda.device_of(predictions):
        match_cells_kernel[(images * triton.cdiv(rows, PREDICTIONS),)](
            predictions=boxes,
            truths=truths,
            offsets=offsets,
            threshold=boxes.new_full((1,), limit),
            matches=matches,
            count=rows,
            PREDICTIONS=PREDICTIONS,
            num_warps=1,
            enable_fp_fusion=False,
        )

    # YOLO section 2: the cell in which the centre falls, in float32; none for a box without area, or outside.
    cells, size = (torch.stack([truths.new_full((), n) for n in (pair[1], pair[0])]) for pair in (grid, image_size))
    at = 0.5 * (truths[:, :2] + truths[:, 2:]) * cells / size
    image = image_of_each(offsets, total)
    valid = ((truths[:, 2:] > truths[:, :2]) & (at >= 0) & (at < cells)).all(dim=1) & (image < images)
    image = image.clamp(max=images - 1)
    place_in_grid = torch.where(valid[:, None], at, 0).float().minimum((cells - 1).float()).long()
    column, row = place_in_grid.unbind(dim=1)
    cell = image * (grid[0] * grid[1]) + row * grid[1] + column
    index = torch.arange(total, device=truths.device)
    if mode == "overlap":  # section 2.4: one object a cell, the first
        owner = index.new_full((images * grid[0] * grid[1],), total)
        owner.scatter_reduce_(0, cell, torch.where(valid, index, total), "amin")
        valid = valid & (owner[cell] == index)
    own = boxes.view(-1, of_cell, 4)[cell]
    if mode == "overlap":
        best = most_overlapping(own, truths[:, None], size)
    else:
        shapes = own[..., 2:] - own[..., :2] if priors is None else priors.to(dtype)[None]
        best = of_best_shape(shapes, truths[:, None], mask)
    valid = valid & (best >= 0)
    place = cell * of_cell + best.clamp(min=0)
    predictors = torch.where(valid, place, -1)
    # The last ground truth has what several want; -2 changes nothing.
    matches.view(-1).scatter_reduce_(0, place, torch.where(valid, index - offsets[image], -2), "amax")
    return matches, predictors
