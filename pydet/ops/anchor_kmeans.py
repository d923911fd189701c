from __future__ import annotations

from typing import Tuple  # noqa: UP035  (TorchScript reads the annotations)

import torch
from torch import Tensor

from pydet import _library  # noqa: F401  (defines torch.ops.pydet)
from pydet.ops._fakes import register_fake


def anchor_kmeans(wh: Tensor, k: int, seed: int = 0, max_iterations: int = 300) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    """Anchors for a data set: k-means of its boxes' sizes with distance 1 - IoU (YOLOv2 section 2).

    The distance of two sizes is that of boxes with one centre. The start is k-means++: the best of a few boxes that are
    drawn in proportion to their distance from the nearest centre so far. Then every box goes to its nearest centre, and
    every centre to the median of its boxes, until no box changes. (The mean, which Darknet's tools take, is drawn to
    the large boxes of a cluster, while this distance is relative: the average IoU falls again after some steps, and
    ends 0.2 to 3.6 points lower on COCO's boxes and on blood cells.) The best centres on the way are returned. One
    without boxes becomes the box that is farthest from its own centre.

    Args:
        wh: [N, 2] floating, widths and heights of boxes in any one unit (pixels of the network's input for YOLOv3,
            cells for YOLOv2), positive and finite, at most 2^27 of them.
        k: anchors wanted, at most the number of different boxes.
        seed: of the random start. One seed gives the same anchors on every machine, with any number of threads.
        max_iterations: 0 returns the start. On a GPU all of them are launched, since the host waits for no result;
            those after the last one that is needed take a few microseconds each.

    Returns:
        anchors [k, 2], smallest area first, and the average IoU [] of a box with its nearest anchor. float64 for
        float64 boxes, else float32. Not differentiable. On a GPU nobody waits to see the values of `wh`: where the CPU
        refuses them, or there are fewer than k different boxes, all results are NaN.

    Raises:
        RuntimeError: a shape, dtype or value that is none of the above; the message names it, and the row of a box.
    """
    return torch.ops.pydet.anchor_kmeans(wh.detach(), k, seed, max_iterations)


def anchor_elbow(wh: Tensor, max_k: int, seed: int = 0, max_iterations: int = 300) -> Tensor:
    """Average IoU of `anchor_kmeans` for every number of anchors, to choose one: the curve flattens where more of them
    no longer pay (YOLOv2 figure 2).

    Args:
        wh: [N, 2] sizes of boxes, as for `anchor_kmeans`.
        max_k: the largest number of anchors.
        seed: of each random start.
        max_iterations: of each clustering.

    Returns:
        [max_k], the average IoU with 1, 2, ... anchors.

    Raises:
        RuntimeError: as `anchor_kmeans`.
    """
    if max_k < 1:
        raise RuntimeError(f"anchor_elbow: max_k must be at least 1, got {max_k}")
    return torch.stack([anchor_kmeans(wh, k, seed, max_iterations)[1] for k in range(1, max_k + 1)])


@register_fake("pydet::anchor_kmeans")
def _anchor_kmeans_fake(wh: Tensor, k: int, seed: int = 0, max_iterations: int = 300) -> tuple[Tensor, Tensor]:
    torch._check(wh.dim() == 2, lambda: f"anchor_kmeans: wh must be [N, 2], got {wh.shape}")
    dtype = torch.float64 if wh.dtype == torch.float64 else torch.float32
    return wh.new_empty((k, 2), dtype=dtype), wh.new_empty((), dtype=dtype)
