"""The detection operators of mmcv.ops with mmcv's own arguments and results, for code that was written against them.

`from mmcv.ops import nms` becomes `from pydet.ops.mmcv import nms`: the names of pydet.ops are torchvision's, whose
arguments stand in another order and whose `nms` returns indices only. mmcv itself is not needed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from pydet import ops
from pydet.ops.bbox_overlaps import bbox_overlaps, with_last_pixel

__all__ = ["batched_nms", "bbox_overlaps", "nms", "sigmoid_focal_loss", "soft_nms", "softmax_focal_loss"]

P = ParamSpec("P")
R = TypeVar("R")

Array = Any
"""A Tensor or a numpy array: what comes in comes out."""


def _with_older_name(function: Callable[P, R]) -> Callable[P, R]:
    """Takes `iou_thr=`, too, the older name of `iou_threshold`, as mmcv does."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **_renamed(function.__name__, kwargs, "iou_threshold" in kwargs or len(args) > 2))

    return call


def _renamed(name: str, options: dict[str, Any], given: bool) -> dict[str, Any]:
    if "iou_thr" not in options:
        return options
    if given:
        raise TypeError(f"{name}: iou_thr is an older name of iou_threshold, only one of them may be given")
    return {"iou_threshold" if key == "iou_thr" else key: value for key, value in options.items()}


@_with_older_name
def nms(
    boxes: Array,
    scores: Array,
    iou_threshold: float,
    offset: int = 0,
    score_threshold: float = 0,
    max_num: int = -1,
) -> tuple[Array, Array]:
    """Non-maximum suppression, as `mmcv.ops.nms`.

    Args:
        boxes: [N, 4] xyxy in any unit, tensor or numpy array, floating.
        scores: [N], of the same kind.
        iou_threshold: a box goes whose IoU with a better one is above this; as a keyword `iou_thr`, too.
        offset: 1 where x2 and y2 are the last pixel of a box, so that its width is x2 - x1 + 1; else 0.
        score_threshold: where it is above 0, boxes whose score is not above it go first.
        max_num: how many boxes are returned at most; -1 for all.

    Returns:
        dets [K, 5] (x1, y1, x2, y2, score), best first, and inds int64 [K], their indices into `boxes`.

    Raises:
        RuntimeError: a shape, dtype or value that is none of the above; the message names it.
        TypeError: both names of iou_threshold.
    """
    boxes, scores, restore = _tensors(boxes, scores)
    keep = _keep(ops.nms, boxes, (scores,), iou_threshold, offset, score_threshold, max_num)
    return restore(torch.cat([boxes[keep], scores[keep, None]], dim=1), keep)


@_with_older_name
def soft_nms(
    boxes: Array,
    scores: Array,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    method: str = "linear",
    offset: int = 0,
) -> tuple[Array, Array]:
    """`pydet.ops.soft_nms` for numpy arrays too, as `mmcv.ops.soft_nms`.

    Args:
        boxes: [N, 4] xyxy in any unit, tensor or numpy array, floating.
        scores: [N], of the same kind.
        iou_threshold: as the others, see `pydet.ops.soft_nms`; as a keyword `iou_thr`, too.
        sigma: of "gaussian".
        min_score: A box goes when its score falls below.
        method: "linear", "gaussian" or "naive".
        offset: 0 or 1, see `nms`.

    Returns:
        dets [K, 5] with the lowered scores, in the order of picking, and inds int64 [K].

    Raises:
        RuntimeError: see `pydet.ops.soft_nms`.
        TypeError: both names of iou_threshold.
    """
    boxes, scores, restore = _tensors(boxes, scores)
    return restore(*ops.soft_nms(boxes, scores, iou_threshold, sigma, min_score, method, offset))


def batched_nms(
    boxes: Tensor, scores: Tensor, idxs: Tensor, nms_cfg: dict[str, Any] | None, class_agnostic: bool = False
) -> tuple[Tensor, Tensor]:
    """NMS inside each class, as `mmcv.ops.batched_nms`, but exact: no coordinate is moved by a class's offset.

    Args:
        boxes: [N, 4] xyxy in any unit, floating.
        scores: [N], floating.
        idxs: [N], the class of each box.
        nms_cfg: {"type": "nms" or "soft_nms", "iou_threshold": ..., and further arguments of that function}. `iou_thr`
            is an older name of `iou_threshold`, "class_agnostic" counts before the argument, `split_thr` changes
            nothing here. None only sorts by score.
        class_agnostic: whether boxes of different classes suppress each other.

    Returns:
        dets [K, 5] (x1, y1, x2, y2, score), best first, and keep int64 [K], their indices.

    Raises:
        RuntimeError: a shape, dtype or value that is none of the above; the message names it.
        ValueError: an entry of nms_cfg that its type does not know.
        TypeError: both names of iou_threshold.
    """
    if nms_cfg is None:
        order = torch.sort(scores, descending=True, stable=True).indices
        return torch.cat([boxes[order], scores[order, None]], dim=1), order
    cfg = _renamed("batched_nms", dict(nms_cfg), "iou_threshold" in nms_cfg)
    class_agnostic = cfg.pop("class_agnostic", class_agnostic)
    kind = cfg.pop("type", "nms")
    cfg.pop("split_thr", None)
    known: dict[str, tuple[str, ...]] = {"nms": ("iou_threshold", "offset", "score_threshold", "max_num")}
    known["soft_nms"] = ("iou_threshold", "sigma", "min_score", "method", "offset", "max_num")
    if kind not in known:
        raise ValueError(f"batched_nms: nms_cfg['type'] must be 'nms' or 'soft_nms', got {kind!r}")
    for name in cfg:
        if name not in known[kind]:
            raise ValueError(f"batched_nms: nms_cfg for {kind} may have {', '.join(known[kind])}, got {name!r}")
    if class_agnostic:
        idxs = torch.zeros_like(idxs)
    if kind == "soft_nms":
        return _soft_nms_by_class(boxes, scores, idxs, **cfg)
    if "iou_threshold" not in cfg:
        raise ValueError("batched_nms: nms_cfg must have an 'iou_threshold'")
    defaults = {"offset": 0, "score_threshold": 0.0, "max_num": -1}
    keep = _keep(ops.batched_nms, boxes, (scores, idxs), **(defaults | cfg))
    return torch.cat([boxes[keep], scores[keep, None]], dim=1), keep


def sigmoid_focal_loss(
    input: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    alpha: float = 0.25,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """`pydet.ops.sigmoid_focal_loss` of integer classes, as `mmcv.ops.sigmoid_focal_loss`.

    Args:
        input: [N, C] logits, floating.
        target: [N] integers, 0 to C - 1, C for background; a negative one makes the row's losses 0.
        gamma: the focusing parameter.
        alpha: weight of the class itself, 1 - alpha that of the others.
        weight: [C] floating, a factor of the losses of all rows of each class; 1 for background, for which mmcv reads
            behind the tensor's end.
        reduction: "none", "mean" or "sum". The mean is the sum over N, as in mmcv, not over N * C.

    Returns:
        [N, C] for "none", else [].

    Raises:
        RuntimeError: see `pydet.ops.sigmoid_focal_loss`.
    """
    rows = max(input.shape[0], 1)
    if weight is None:
        loss = ops.sigmoid_focal_loss(input, target, alpha, gamma, "none" if reduction == "none" else "sum")
        return loss / rows if reduction == "mean" else loss
    if weight.shape != input.shape[1:]:
        raise RuntimeError(f"sigmoid_focal_loss: weight must be [C] with C = {input.shape[1]}, got {[*weight.shape]}")
    loss = ops.sigmoid_focal_loss(input, target, alpha, gamma, "none")
    factors = torch.cat([weight, weight.new_ones(1)])[target.clamp(min=0)]
    loss = loss * factors[:, None]
    return loss if reduction == "none" else loss.sum() / (rows if reduction == "mean" else 1)


softmax_focal_loss = ops.softmax_focal_loss  # it has mmcv's arguments: torchvision has no such function


def _closed(op: str, boxes: Tensor, offset: int) -> Tensor:
    """Boxes whose plain width is x2 - x1 + offset."""
    if offset not in (0, 1):
        raise RuntimeError(f"{op}: offset must be 0 or 1, got {offset}")
    return with_last_pixel(boxes) if offset else boxes


def _keep(
    operator: Callable[..., Tensor],
    boxes: Tensor,
    per_box: tuple[Tensor, ...],
    iou_threshold: float,
    offset: int,
    score_threshold: float,
    max_num: int,
) -> Tensor:
    """Indices that an operator of pydet keeps of the boxes above the score threshold; per_box[0] are the scores."""
    closed = _closed(operator.__name__, boxes, offset)
    if score_threshold > 0:
        valid = torch.nonzero(per_box[0] > score_threshold)[:, 0]
        keep = valid[operator(closed[valid], *(t[valid] for t in per_box), iou_threshold)]
    else:
        keep = operator(closed, *per_box, iou_threshold)
    return keep[:max_num] if max_num > 0 else keep


def _soft_nms_by_class(
    boxes: Tensor, scores: Tensor, idxs: Tensor, max_num: int = -1, min_score: float = 1e-3, **options: Any
) -> tuple[Tensor, Tensor]:
    dets, keep = [boxes.new_zeros(0, 5)], [torch.zeros(0, dtype=torch.int64, device=boxes.device)]
    for label in torch.unique(idxs):
        own = torch.nonzero(idxs == label)[:, 0]
        found, inds = ops.soft_nms(boxes[own], scores[own], min_score=min_score, **options)
        dets.append(found)
        keep.append(own[inds])
    all_dets, all_keep = torch.cat(dets), torch.cat(keep)
    order = torch.sort(all_dets[:, 4], descending=True, stable=True).indices
    # soft_nms leaves the best box of what it is given whatever its score; of all classes together that is one.
    stays = all_dets[order, 4] >= min_score
    stays[:1] = True
    order = order[stays]
    order = order[:max_num] if max_num > 0 else order
    return all_dets[order], all_keep[order]


def _tensors(boxes: Array, scores: Array) -> tuple[Tensor, Tensor, Callable[[Tensor, Tensor], tuple[Array, Array]]]:
    """Both as tensors, and what gives a pair of results back in the kind of the boxes."""
    numpy = isinstance(boxes, np.ndarray)

    def restore(dets: Tensor, inds: Tensor) -> tuple[Array, Array]:
        return (dets.numpy(), inds.numpy()) if numpy else (dets, inds)

    first, second = (torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in (boxes, scores))
    return first, second, restore
