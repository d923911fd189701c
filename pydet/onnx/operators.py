"""Our operators in terms of ONNX's, put in their place while a network is exported.

Most references are plain tensor code without a look at a value, and are taken as they are. Suppression is one operator
of ONNX and a little around it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import ir, opset18
from torch import Tensor

from pydet import reference

op: Any = opset18  # its types are those of graphs that are parsed, not traced

# It exists in graphs only: the scores [G, C, N] of the boxes [G, N, 4] that survive, -inf for all others.
_LIBRARY = torch.library.Library("pydet_onnx", "DEF")
_LIBRARY.define(
    "survivors(Tensor boxes, Tensor scores, int most, float iou_threshold, float score_threshold) -> Tensor"
)
_LIBRARY.impl("survivors", lambda boxes, scores, *_: torch.empty_like(scores), "Meta")


def survivors(boxes: Any, scores: Any, most: int, iou_threshold: float, score_threshold: float) -> Any:
    """ONNX's NonMaxSuppression, as ours: a box falls when its IoU is greater, of equal scores the first is better."""
    numbers = (ir.tensor([number]) for number in (most, iou_threshold, score_threshold))
    chosen = op.NonMaxSuppression(boxes, scores, *(op.Constant(value=number) for number in numbers))
    nothing = op.Expand(op.Constant(value=ir.tensor([-torch.inf])), op.Shape(scores))
    return op.ScatterND(nothing, chosen, op.GatherND(scores, chosen))


def multiclass_nms(
    boxes: Tensor,
    scores: Tensor,
    score_threshold: float,
    iou_threshold: float,
    max_per_image: int,
    pre_nms_top_k: int | None = None,
    class_agnostic: bool = False,
    multi_label: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`pydet.ops.multiclass_nms` as the detectors call it."""
    if pre_nms_top_k is not None or class_agnostic or not multi_label:
        raise NotImplementedError(
            "multiclass_nms: what no detector asks for (pre_nms_top_k, class_agnostic, multi_label=False) has no "
            "translation to ONNX"
        )
    batch, n, classes = scores.shape
    kept = torch.where(scores > score_threshold, scores, -torch.inf)
    if iou_threshold < 1:
        columns = kept.transpose(1, 2)  # [B, C, N]
        if boxes.dim() == 3:
            kept = _survivors(boxes, columns, max_per_image, iou_threshold, score_threshold)
        else:  # each class of an image has boxes of its own, as if it were an image of one class
            own = boxes.transpose(1, 2).reshape(-1, n, 4), columns.reshape(-1, 1, n)
            kept = _survivors(*own, max_per_image, iou_threshold, score_threshold).reshape(batch, classes, n)
        kept = kept.transpose(1, 2)
    # Equal scores keep their order: by row, then by class.
    flat = torch.nn.functional.pad(kept.reshape(batch, n * classes), (0, max_per_image), value=-torch.inf)
    best, index = flat.topk(max_per_image, dim=1)
    found = best > -torch.inf
    index = torch.where(found, index, 0)
    rows, labels = index // classes, index % classes
    source, place = (boxes, rows) if boxes.dim() == 3 else (boxes.reshape(batch, n * classes, 4), index)
    chosen = source.gather(1, place[..., None].expand(-1, -1, 4))
    return (
        torch.where(found[..., None], chosen, 0.0),
        torch.where(found, best, 0.0),
        torch.where(found, labels, -1),
        rows,
        found.sum(dim=1),
    )


def _survivors(*args: Any) -> Tensor:
    return torch.ops.pydet_onnx.survivors(*args)


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.pydet.decode_boxes.default: reference.decode_boxes,
    torch.ops.pydet.multiclass_nms.default: multiclass_nms,
    torch.ops.pydet.yolo_decode.default: reference.yolo_decode,
    torch.ops.pydet.yolo_grid_decode.default: reference.yolo_grid_decode,
}
TRANSLATIONS: dict[Any, Callable[..., Any]] = {torch.ops.pydet_onnx.survivors.default: survivors}
