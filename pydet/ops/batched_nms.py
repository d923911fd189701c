from __future__ import annotations

import torch
from torch import Tensor

from pydet import _library  # noqa: F401  (defines torch.ops.pydet)
from pydet.ops._fakes import register_fake


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """`nms` inside each class, in one call: boxes of different classes never suppress each other.

    As `torchvision.ops.batched_nms`, but exact: no offsets are added to the coordinates, so negative and large
    coordinates, half precision and thousands of classes give what a loop over the classes gives. Classes are
    independent and run on all threads; on CUDA one launch has them all, and the host waits once, as for `nms`.

    Args:
        boxes: [N, 4] xyxy in any unit, floating.
        scores: [N], floating.
        idxs: [N], class of each box: any integers, or floating values that are not NaN. On CUDA nobody looks for a NaN,
            which would be to wait for the device: it is a class like any other.
        iou_threshold: as in `nms`.

    Returns:
        int64 [K], indices of the kept boxes of all classes by decreasing score.

    Raises:
        RuntimeError: a shape, dtype or device that is none of the above, or a NaN; the message names it.
    """
    return torch.ops.pydet.batched_nms(boxes, scores, idxs, iou_threshold)


@register_fake("pydet::batched_nms")
def _batched_nms_fake(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    torch._check(boxes.dim() == 2, lambda: f"batched_nms: boxes must be [N, 4], got {list(boxes.shape)}")
    torch._check(boxes.size(1) == 4, lambda: f"batched_nms: boxes must be [N, 4], got {list(boxes.shape)}")
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)
