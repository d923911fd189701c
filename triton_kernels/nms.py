"""Of two boxes with |a ∩ b| / (|a| + |b| - |a ∩ b|) > threshold the worse one is suppressed, if the better one is kept.

So a box is kept once all better boxes that overlap it enough are suppressed, which a program finds out for a tile of
TILE boxes while others do the same. Boxes are sorted so that a tile has neighbours of one size, and tiles are compared
only where their bounds allow an IoU above the threshold. A few launches decide nearly everything; in the last one a
single program goes on until nothing is left: of the boxes that are left, the best can be decided.

How many boxes there are is another number in each call: nothing is compiled anew for it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from pydet.triton_kernels.box_iou import divide, load_corners
from pydet.triton_kernels.checks import require, require_one_device
from pydet.triton_kernels.match_anchors import rank_of
from torch import Tensor

TILE = 32
LAUNCHES = 12  # each waits for one more link of a chain of boxes that overlap; few chains have more
KEPT = 1


@triton.jit
def spread_bits(x):  # type: ignore[no-untyped-def]
    """21 bits with a zero before each."""
    x = (x | x << 16) & 0x0000FFFF0000FFFF
    x = (x | x << 8) & 0x00FF00FF00FF00FF
    x = (x | x << 4) & 0x0F0F0F0F0F0F0F0F
    x = (x | x << 2) & 0x3333333333333333
    return (x | x << 1) & 0x5555555555555555


@triton.jit
def can_overlap(x1, y1, x2, y2, area):  # type: ignore[no-untyped-def]
    """A box without positive extents, or of infinite area, has an IoU of 0 or NaN with everything."""
    return (x2 > x1) & (y2 > y1) & (area > 0) & (area < float("inf"))


@triton.jit(do_not_specialize=["n"])
def nms_keys_kernel(boxes, order, keys, n, COMPUTE: tl.constexpr, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Keys [n], by rank, that put boxes beside those they overlap: by size, then along a Z curve of the centres.

    Coordinates go in as the leading bits of floats, so that no bounds have to be found first.
    """
    rank = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    index = tl.load(order + rank, mask=rank < n, other=0)
    x1, y1, x2, y2 = load_corners(boxes, index, rank < n, "xyxy", COMPUTE)
    area = (x2 - x1) * (y2 - y1)
    column = (rank_of((0.5 * (x1 + x2)).to(tl.float32)).to(tl.int64) + 0x80000000) >> 11
    row = (rank_of((0.5 * (y1 + y2)).to(tl.float32)).to(tl.int64) + 0x80000000) >> 11
    level = rank_of(area.to(tl.float32)).to(tl.int64) >> 24  # powers of 4
    key = level << 42 | spread_bits(column) | spread_bits(row) << 1
    tl.store(keys + rank, tl.where(can_overlap(x1, y1, x2, y2, area), key, 1 << 62), mask=rank < n)


@triton.jit(do_not_specialize=["n", "tiles"])
def nms_bounds_kernel(  # type: ignore[no-untyped-def]
    boxes,  # [n, 4]
    order,  # [n] index by rank
    ranks,  # [n] rank by place
    corners,  # [4, n] by place
    bounds,  # [6, tiles]: x1, y1, x2, y2, least and greatest area
    best,  # [tiles] rank
    n,
    tiles,
    COMPUTE: tl.constexpr,
    TILE: tl.constexpr,
):
    n = tl.full((), n, tl.int64)
    tile = tl.program_id(0).to(tl.int64)
    place = tile * TILE + tl.arange(0, TILE)
    inside = place < n
    rank = tl.load(ranks + place, mask=inside, other=n)
    x1, y1, x2, y2 = load_corners(boxes, tl.load(order + rank, mask=inside, other=0), inside, "xyxy", COMPUTE)
    tl.store(corners + place, x1, mask=inside)
    tl.store(corners + n + place, y1, mask=inside)
    tl.store(corners + 2 * n + place, x2, mask=inside)
    tl.store(corners + 3 * n + place, y2, mask=inside)
    area = (x2 - x1) * (y2 - y1)
    counts = inside & can_overlap(x1, y1, x2, y2, area)
    infinity = float("inf")
    tl.store(bounds + tile, tl.min(tl.where(counts, x1, infinity)))
    tl.store(bounds + tiles + tile, tl.min(tl.where(counts, y1, infinity)))
    tl.store(bounds + 2 * tiles + tile, tl.max(tl.where(counts, x2, -infinity)))
    tl.store(bounds + 3 * tiles + tile, tl.max(tl.where(counts, y2, -infinity)))
    tl.store(bounds + 4 * tiles + tile, tl.min(tl.where(counts, area, infinity)))
    tl.store(bounds + 5 * tiles + tile, tl.max(tl.where(counts, area, -infinity)))
    tl.store(best + tile, tl.min(rank))


@triton.jit
def near(bounds, best, tiles, tile, other, worst, low, mask, EVERYTHING: tl.constexpr):  # type: ignore[no-untyped-def]
    """Whether a box of tile `other`, or of each of several, may suppress one of `tile`, whose worst rank is given."""
    better = mask & (tl.load(best + other, mask=mask, other=0) < worst)
    if not EVERYTHING:  # the boxes overlap, and their areas differ by less than the threshold
        for side in tl.static_range(2):
            begin = tl.load(bounds + side * tiles + other, mask=mask, other=0)
            end = tl.load(bounds + (2 + side) * tiles + other, mask=mask, other=0)
            better = better & (begin < tl.load(bounds + (2 + side) * tiles + tile))
            better = better & (tl.load(bounds + side * tiles + tile) < end)
        least = tl.load(bounds + 4 * tiles + other, mask=mask, other=0)
        greatest = tl.load(bounds + 5 * tiles + other, mask=mask, other=0)
        better = better & (low * least <= tl.load(bounds + 5 * tiles + tile))
        better = better & (low * tl.load(bounds + 4 * tiles + tile) <= greatest)
    return better


@triton.jit
def decide_tile(  # type: ignore[no-untyped-def]
    corners, ranks, bounds, best, states, threshold, low, n, tiles, tile, EVERYTHING: tl.constexpr, TILE: tl.constexpr
):
    """Decides what can be decided of a tile; returns how many of its boxes are left.

    States: 0 not decided, 1 kept, 2 suppressed.
    """
    SEVERAL: tl.constexpr = 128  # tiles whose bounds are compared at a time
    place = tl.full((), tile, tl.int64) * TILE + tl.arange(0, TILE)
    state = tl.load(states + place, mask=place < n, other=2, volatile=True)
    if tl.min(state) == 0:
        rank = tl.load(ranks + place, mask=place < n, other=0)
        x1 = tl.load(corners + place, mask=place < n, other=0)[:, None]
        y1 = tl.load(corners + n + place, mask=place < n, other=0)[:, None]
        x2 = tl.load(corners + 2 * n + place, mask=place < n, other=0)[:, None]
        y2 = tl.load(corners + 3 * n + place, mask=place < n, other=0)[:, None]
        area = (x2 - x1) * (y2 - y1)
        worst = tl.max(tl.where(state == 0, rank, -1))
        falls = tl.zeros([TILE], tl.int32)
        waits = tl.zeros([TILE], tl.int32)
        for first in range(0, tiles, SEVERAL):
            several = first + tl.arange(0, SEVERAL)
            any_near = near(bounds, best, tiles, tile, several, worst, low, several < tiles, EVERYTHING)
            if tl.max(any_near.to(tl.int32)) > 0:
                for other in range(first, tl.minimum(first + SEVERAL, tiles)):
                    if near(bounds, best, tiles, tile, other, worst, low, True, EVERYTHING):
                        at = tl.full((), other, tl.int64) * TILE + tl.arange(0, TILE)
                        other_state = tl.load(states + at, mask=at < n, other=2, volatile=True)[None, :]
                        other_rank = tl.load(ranks + at, mask=at < n, other=0)[None, :]
                        a1 = tl.load(corners + at, mask=at < n, other=0)[None, :]
                        b1 = tl.load(corners + n + at, mask=at < n, other=0)[None, :]
                        a2 = tl.load(corners + 2 * n + at, mask=at < n, other=0)[None, :]
                        b2 = tl.load(corners + 3 * n + at, mask=at < n, other=0)[None, :]
                        # Comparisons: a NaN is dropped here and comes back through the area, as in the C++.
                        width = tl.where(a2 < x2, a2, x2) - tl.where(a1 > x1, a1, x1)
                        height = tl.where(b2 < y2, b2, y2) - tl.where(b1 > y1, b1, y1)
                        overlap = tl.where(width < 0, 0.0, width) * tl.where(height < 0, 0.0, height)
                        union = (a2 - a1) * (b2 - b1) + area - overlap
                        hit = (other_rank < rank[:, None]) & (other_state < 2)
                        if not EVERYTHING:
                            hit = hit & (overlap >= low * union)
                        if tl.max(hit.to(tl.int32)) > 0:
                            hit = hit & (divide(overlap, union).to(tl.float64) > threshold)
                            falls = falls | tl.max((hit & (other_state == 1)).to(tl.int32), axis=1)
                            waits = waits | tl.max((hit & (other_state == 0)).to(tl.int32), axis=1)
        decided = tl.where(falls > 0, 2, tl.where(waits > 0, 0, 1))
        tl.store(states + place, decided, mask=state == 0)
        state = tl.where(state == 0, decided, state)
        tl.debug_barrier()  # what this program looks at next, it sees
    return tl.sum((state == 0).to(tl.int32))


@triton.jit(do_not_specialize=["n", "tiles", "launch"])
def nms_kernel(  # type: ignore[no-untyped-def]
    corners,  # [4, n] by place
    ranks,  # [n] by place
    bounds,  # [6, tiles]
    best,  # [tiles]
    states,  # [n] by place
    pending,  # [launches + 1] whether something is left for a launch
    thresholds,  # [2] double: the threshold, and a number below it by more than a product rounds
    n,
    tiles,
    launch,
    EVERYTHING: tl.constexpr,
    COMPUTE: tl.constexpr,
    TILE: tl.constexpr,
):
    n = tl.full((), n, tl.int64)
    if tl.load(pending + launch) > 0:
        threshold = tl.load(thresholds)
        low = tl.load(thresholds + 1).to(COMPUTE)
        before = n + 1
        left = n
        while (left > 0) & (left < before):  # a pass that decides nothing has to wait for other programs
            before = left
            left = tl.full((), 0, tl.int64)
            for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
                left += decide_tile(
                    corners, ranks, bounds, best, states, threshold, low, n, tiles, tile, EVERYTHING, TILE
                )
        if left > 0:
            tl.store(pending + launch + 1, 1)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """`pydet.ops.nms` for [N, 4] and [N] on one GPU. The host waits once, for the number of kept boxes."""
    op = "nms"
    require(boxes.dim() == 2 and boxes.shape[1] == 4, op, "boxes must be [N, 4]", list(boxes.shape))
    n = boxes.shape[0]
    rule = f"scores must be [N] with N = {n} as in boxes"
    require(list(scores.shape) == [n], op, rule, list(scores.shape))
    for name, tensor in (("boxes", boxes), ("scores", scores)):
        require(tensor.is_floating_point(), op, f"{name} must be a floating tensor", tensor.dtype)
    require(iou_threshold == iou_threshold, op, "iou_threshold must be a number", "nan")
    require(n < 2**31, op, "boxes must be at most 2147483647", n)
    require_one_device(op, boxes=boxes, scores=scores)

    order = torch.sort(scores + 0, descending=True, stable=True).indices  # -0 + 0 is 0: equal to it
    if n == 0:
        return order
    dtype = torch.float64 if boxes.dtype == torch.float64 else torch.float32
    info = torch.finfo(dtype)
    low = iou_threshold * (1 - 16 * info.eps) if iou_threshold >= info.tiny / info.eps else 0.0
    tiles = triton.cdiv(n, TILE)
    boxes = boxes.contiguous()
    keys, corners, bounds = (
        order.new_empty(n),
        boxes.new_empty((4, n), dtype=dtype),
        boxes.new_empty((6, tiles), dtype=dtype),
    )
    best, states, pending = (order.new_zeros(size, dtype=torch.int32) for size in (tiles, n, LAUNCHES + 1))
    thresholds = torch.stack(
        [torch.full_like(corners[0, 0], value, dtype=torch.float64) for value in (iou_threshold, low)]
    )
    pending[0] = 1
    compute = tl.float64 if dtype == torch.float64 else tl.float32
    with torch.cuda.device_of(boxes):
        # Boxes must not move over the threshold: no fused multiply-add.
        common = {"COMPUTE": compute, "TILE": TILE, "enable_fp_fusion": False}
        nms_keys_kernel[(tiles,)](boxes=boxes, order=order, keys=keys, n=n, **common)
        ranks = torch.sort(keys).indices.to(torch.int32)
        nms_bounds_kernel[(tiles,)](
            boxes=boxes, order=order, ranks=ranks, corners=corners, bounds=bounds, best=best, n=n, tiles=tiles, **common
        )
        for launch in range(LAUNCHES):
            last = launch == LAUNCHES - 1
            nms_kernel[(1 if last else tiles,)](
                corners=corners,
                ranks=ranks,
                bounds=bounds,
                best=best,
                states=states,
                pending=pending,
                thresholds=thresholds,
                n=n,
                tiles=tiles,
                launch=launch,
                EVERYTHING=iou_threshold < 0,
                **common,
            )
    kept = torch.empty_like(states, dtype=torch.bool)
    kept[ranks.long()] = states == KEPT
    return order[kept]
