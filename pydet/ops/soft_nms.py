from __future__ import annotations

import torch
from torch import Tensor

from pydet import _library  # noqa: F401  (defines torch.ops.pydet)
from pydet.ops._fakes import register_fake


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    method: str = "linear",
    offset: int = 0,
) -> tuple[Tensor, Tensor]:
    """Soft-NMS: overlapping boxes keep a lowered score instead of going (Bodla et al. 2017, equations 2 and 3).

    As `mmcv.ops.soft_nms`. The best box is picked, the scores of all that are left are multiplied by a weight of their
    IoU with it, what falls below `min_score` goes, and so on. Equal scores are picked in the order of the input (mmcv:
    in the order that its swaps leave). A NaN score is picked first; an IoU of NaN changes no score.

    On CUDA one block of threads makes all picks, and the host waits once, for their number.

    Args:
        boxes: [N, 4] xyxy in any unit, floating. Half precision is computed in float32.
        scores: [N], floating.
        iou_threshold: "naive" and "linear" lower a score whose IoU is at least this.
        sigma: of "gaussian", positive.
        min_score: A box goes when its score falls below. The best box of all stays in any case, as in mmcv.
        method: the weight: "linear" 1 - IoU, "gaussian" exp(-IoU^2 / sigma), "naive" 0.
        offset: 1 where x2 and y2 are the last pixel of a box, so that its width is x2 - x1 + 1; else 0.

    Returns:
        dets [K, 5], (x1, y1, x2, y2, lowered score) in the order of picking, float64 if an input is, else float32;
        inds int64 [K], their indices into `boxes`. Neither has a gradient.

    Raises:
        RuntimeError: a shape, dtype, device or value that is none of the above; the message names it.
    """
    boxes, scores = boxes.detach(), scores.detach()
    return torch.ops.pydet.soft_nms(boxes, scores, iou_threshold, sigma, min_score, method, offset)


@register_fake("pydet::soft_nms")
def _soft_nms_fake(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    method: str = "linear",
    offset: int = 0,
) -> tuple[Tensor, Tensor]:
    torch._check(boxes.dim() == 2, lambda: f"soft_nms: boxes must be [N, 4], got {list(boxes.shape)}")
    torch._check(boxes.size(1) == 4, lambda: f"soft_nms: boxes must be [N, 4], got {list(boxes.shape)}")
    dtype = torch.float64 if torch.float64 in (boxes.dtype, scores.dtype) else torch.float32
    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(kept, 5, dtype=dtype), boxes.new_empty(kept, dtype=torch.int64)
