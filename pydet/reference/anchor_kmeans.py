from __future__ import annotations

import math

import torch
from torch import Tensor

MASK = 2**64 - 1


def anchor_kmeans(wh: Tensor, k: int, seed: int = 0, max_iterations: int = 300) -> tuple[Tensor, Tensor]:
    """k-means of the sizes [N, 2] of boxes with distance 1 - IoU of boxes with one centre (YOLOv2 section 2).

    Returns the centres [k, 2], smallest area first, and the average IoU of a box with its nearest one. Sums are taken
    in whole numbers, so that neither their order nor the device changes the result.
    """
    if not bool((torch.isfinite(wh) & (wh > 0)).all()):
        raise RuntimeError("anchor_kmeans: wh must be positive and finite")
    _, exponent = math.frexp(wh.max().item())
    boxes = torch.ldexp(wh.double(), torch.tensor(-exponent, device=wh.device))
    unit = 2.0 ** (62 - len(boxes).bit_length())
    centres = _first_centres(boxes, k, seed, unit)
    best, best_total, labels = centres, -1, torch.full((len(boxes),), -1, device=wh.device)
    for iteration in range(max_iterations + 1):
        before = labels
        iou, labels = _shape_ious(boxes, centres).max(dim=1)
        total = int((iou * unit).long().sum())
        if total > best_total:
            best, best_total = centres, total
        if torch.equal(labels, before) or iteration == max_iterations:
            break
        centres = _medians(boxes, iou, labels, k)
    order = sorted(range(k), key=lambda c: (best[c].prod().item(), best[c, 0].item()))
    dtype = torch.float64 if wh.dtype == torch.float64 else torch.float32
    anchors = torch.ldexp(best[order], torch.tensor(exponent, device=wh.device)).to(dtype)
    return anchors, torch.tensor(best_total / unit / len(boxes), dtype=dtype, device=wh.device)


def _shape_ious(boxes: Tensor, centres: Tensor) -> Tensor:
    """[N, 2], [k, 2] -> [N, k]"""
    overlap = torch.minimum(boxes[:, None], centres).prod(dim=2)
    return overlap / (boxes.prod(dim=1)[:, None] + centres.prod(dim=1) - overlap)


def _first_centres(boxes: Tensor, k: int, seed: int, unit: float) -> Tensor:
    """k-means++: boxes drawn in proportion to their distance from the nearest centre so far, the best of a few."""
    state, number = _random(seed & MASK)
    centres = boxes[len(boxes) * number >> 64][None]
    distance = _distances(boxes, centres, unit)
    while len(centres) < k:
        total = int(distance.sum())
        if total == 0:
            raise RuntimeError(
                f"anchor_kmeans: k must be at most the number of different boxes, {len(centres)}, got {k}"
            )
        tried = []
        for _ in range(2 + k.bit_length()):
            state, number = _random(state)
            drawn = torch.searchsorted(distance.cumsum(0), total * number >> 64, right=True)
            after = torch.minimum(distance, _distances(boxes, boxes[drawn][None], unit))
            tried.append((after, boxes[drawn][None]))
        distance, centre = min(tried, key=lambda pair: int(pair[0].sum()))
        centres = torch.cat([centres, centre])
    return centres


def _distances(boxes: Tensor, centres: Tensor, unit: float) -> Tensor:
    """1 - IoU with the nearest centre, in whole numbers."""
    return ((1 - _shape_ious(boxes, centres).amax(dim=1)) * unit).long()


def _random(state: int) -> tuple[int, int]:
    """SplitMix64 (Steele, Lea and Flood 2014): the next state and a number in 0 to 2^64 - 1."""
    state = (state + 0x9E3779B97F4A7C15) & MASK
    z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return state, z ^ z >> 31


def _medians(boxes: Tensor, iou: Tensor, labels: Tensor, k: int) -> Tensor:
    """The median of each cluster; an empty one gets the box that is farthest from its own centre."""
    counts = labels.bincount(minlength=k).tolist()
    centres = boxes.new_zeros(k, 2)
    for cluster in (c for c in range(k) if counts[c]):
        centres[cluster] = boxes[labels == cluster].median(dim=0).values
    for cluster in (c for c in range(k) if not counts[c]):
        worst = iou.argmin()
        centres[cluster] = boxes[worst]
        iou[worst] = 2
    return centres
