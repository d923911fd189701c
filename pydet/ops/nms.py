from __future__ import annotations

import torch
from torch import Tensor

from pydet import _library  # noqa: F401  (defines torch.ops.pydet)
from pydet.ops._fakes import register_fake


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression: the best box stays, boxes that overlap it too much go, and so on.

    As `torchvision.ops.nms`, with the same result on every input: a NaN score sorts first; equal scores keep the order
    of the input; a box goes when its IoU with a kept one is **greater** than the threshold, which is compared in double
    on every device; a pair whose IoU is NaN (two boxes without area) suppresses nothing. Memory is O(N).

    On CUDA the host waits for the device once, at the end: how many boxes are kept is the size of the result. Where
    that must not be, `multiclass_nms` has results of known size.

    Args:
        boxes: [N, 4] xyxy in any unit, floating. Half precision is computed in float32.
        scores: [N], floating.
        iou_threshold: in [0, 1] as a rule; a negative one removes every box whose IoU is a number.

    Returns:
        int64 [K], indices of the kept boxes by decreasing score.

    Raises:
        RuntimeError: a shape, dtype or device that is none of the above, or a NaN threshold; the message names it.
    """
    return torch.ops.pydet.nms(boxes, scores, iou_threshold)


@register_fake("pydet::nms")
def _nms_fake(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    torch._check(boxes.dim() == 2, lambda: f"nms: boxes must be [N, 4], got {list(boxes.shape)}")
    torch._check(boxes.size(1) == 4, lambda: f"nms: boxes must be [N, 4], got {list(boxes.shape)}")
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)
