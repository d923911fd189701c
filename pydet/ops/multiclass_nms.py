from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from pydet import _library  # noqa: F401  (defines torch.ops.pydet)
from pydet.ops import _autograd
from pydet.ops._autograd import is_plain_call
from pydet.ops._backend import has_internal
from pydet.ops._fakes import register_fake

BY_CLASS = "_multiclass_nms_by_class"


def multiclass_nms(
    boxes: Tensor,
    scores: Tensor,
    score_threshold: float,
    iou_threshold: float,
    max_per_image: int,
    pre_nms_top_k: Optional[int] = None,  # noqa: UP045  (TorchScript does not know `int | None`)
    class_agnostic: bool = False,
    multi_label: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The post-processing of a batch in one call: threshold, top k, NMS inside each class, best detections.

    The shapes of the results depend on no value, so it can be traced by `torch.compile(fullgraph=True)` and
    `torch.export` as it is, and on CUDA it waits for nothing: a CUDA graph can hold it. Image i has `count[i]`
    detections; what stands behind them is padding. An image gives what this loop gives, to the last bit:

        row, label = (scores[i] > score_threshold).nonzero().T
        top = sort by decreasing score, ties by row and then by label, the first pre_nms_top_k
        keep = batched_nms(boxes[i, row[top]], scores[i, row[top], label[top]], label[top], iou_threshold)
        keep[:max_per_image]

    Args:
        boxes: [B, N, 4] xyxy in any unit, or [B, N, C, 4] where every class has a box of its own; floating.
        scores: [B, N, C], floating; classes that are adjacent in memory (`predictions[..., 5:]`) are read in place.
        score_threshold: A score must be greater, compared in float32 (float64 for float64 scores); NaN never is.
        iou_threshold: as in `nms`.
        max_per_image: at least 1; the size K of the results.
        pre_nms_top_k: at least 1; how many scores of an image enter the NMS. None: all. On CUDA the workspace grows
            with it, by about 200 bytes a score; without it the scores are taken in rounds until the results are full,
            in about 1 MB an image, more where max_per_image is above 2,000.
        class_agnostic: boxes of different classes suppress each other too.
        multi_label: False: each row only competes with its best class, the first of equal ones.

    Returns:
        Best first: boxes [B, K, 4] and scores [B, K] in the dtypes of the inputs, padded with 0; labels int64 [B, K],
        padded with -1; rows int64 [B, K], the index into N that a detection comes from, padded with 0 (a valid index,
        to gather masks or objectness with); count int64 [B]. Gradients flow to the boxes and scores that were chosen.

    Raises:
        RuntimeError: a shape, dtype, device or value that is none of the above; the message names it.
    """
    return torch.ops.pydet.multiclass_nms(
        boxes, scores, score_threshold, iou_threshold, max_per_image, pre_nms_top_k, class_agnostic, multi_label
    )


def multiclass_nms_by_class(
    boxes: Tensor, scores: Tensor, score_threshold: float, iou_threshold: float, max_per_image: int, class_top_k: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`multiclass_nms` of the best scores of each class only, without the rows.

    Args:
        boxes: [B, N, 4].
        class_top_k: how many of each class; which of equal scores are among them is open.
    """
    wants_gradient = torch.is_grad_enabled() and (boxes.requires_grad or scores.requires_grad)
    if is_plain_call() and not wants_gradient and has_internal(BY_CLASS, scores.device):
        by_class = torch.ops.pydet._multiclass_nms_by_class
        found = by_class(boxes, scores, score_threshold, iou_threshold, max_per_image, class_top_k)
    else:
        # [B, K, C], each with a box of its own
        scores, rows = scores.topk(min(class_top_k, scores.shape[1]), dim=1)
        images = torch.arange(boxes.shape[0], device=boxes.device)[:, None, None]
        found = multiclass_nms(boxes[images, rows], scores, score_threshold, iou_threshold, max_per_image)
    boxes, scores, labels, _, count = found
    return boxes, scores, labels, count


@register_fake("pydet::multiclass_nms")
def _multiclass_nms_fake(
    boxes: Tensor,
    scores: Tensor,
    score_threshold: float,
    iou_threshold: float,
    max_per_image: int,
    pre_nms_top_k: int | None = None,
    class_agnostic: bool = False,
    multi_label: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    torch._check(scores.dim() == 3, lambda: f"multiclass_nms: scores must be [B, N, C], got {list(scores.shape)}")
    torch._check(
        boxes.dim() in (3, 4),
        lambda: f"multiclass_nms: boxes must be [B, N, 4] or [B, N, C, 4], got {list(boxes.shape)}",
    )
    batch = scores.shape[0]
    return (
        boxes.new_empty(batch, max_per_image, 4),
        scores.new_empty(batch, max_per_image),
        boxes.new_empty(batch, max_per_image, dtype=torch.int64),
        boxes.new_empty(batch, max_per_image, dtype=torch.int64),
        boxes.new_empty(batch, dtype=torch.int64),
    )


@register_fake("pydet::_multiclass_nms_by_class")
def _(
    boxes: Tensor, scores: Tensor, score_threshold: float, iou_threshold: float, max_per_image: int, class_top_k: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _multiclass_nms_fake(boxes, scores, score_threshold, iou_threshold, max_per_image)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    boxes, scores = inputs[:2]
    _, _, labels, rows, _ = output
    ctx.shapes = boxes.shape, scores.shape
    ctx.save_for_backward(labels, rows)


def _add_rows(to: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """Adds values [B, K, 4] to the rows index [B, K] of [B, N, 4]; a row that is there several times has its sum always
    in the same order: on CUDA scatter_add has not, on the CPU index_put has not.
    """
    if to.is_cuda:
        image = torch.arange(to.shape[0], device=to.device)[:, None].expand_as(index)
        return to.index_put((image, index), values, accumulate=True)
    return to.scatter_add(1, index[:, :, None].expand(-1, -1, 4), values)


def _backward(ctx, grad_boxes: Tensor, grad_scores: Tensor, *_: Tensor):  # type: ignore[no-untyped-def]
    labels, rows = ctx.saved_tensors
    boxes_shape, scores_shape = ctx.shapes
    batch, n, classes = scores_shape
    found = labels >= 0
    flat = rows * classes + labels.clamp(min=0)
    of_boxes = of_scores = None
    if ctx.needs_input_grad[1]:
        of_scores = grad_scores.new_zeros(batch, n * classes)
        of_scores = of_scores.scatter_add(1, flat, grad_scores * found) if n * classes else of_scores
        of_scores = of_scores.reshape(scores_shape)
    if ctx.needs_input_grad[0]:
        source = rows if len(boxes_shape) == 3 else flat
        count = n if len(boxes_shape) == 3 else n * classes
        of_boxes = grad_boxes.new_zeros(batch, count, 4)
        if count:
            of_boxes = _add_rows(of_boxes, source, grad_boxes * found[:, :, None])
        of_boxes = of_boxes.reshape(boxes_shape)
    return of_boxes, of_scores, None, None, None, None, None, None


_autograd.register("multiclass_nms", _backward, _setup_context)
