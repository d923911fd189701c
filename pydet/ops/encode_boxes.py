from __future__ import annotations

from collections.abc import Sequence
from typing import List, Optional  # noqa: UP035  (TorchScript reads the annotations)

import torch
from torch import Tensor

from pydet import _library, reference  # noqa: F401  (_library defines torch.ops.pydet)
from pydet.ops import _batching, _gradients
from pydet.ops._fakes import register_fake


def encode_boxes(reference_boxes: Tensor, proposals: Tensor, weights: Optional[List[float]] = None) -> Tensor:  # noqa: UP006, UP045
    """What a regressor must say at each proposal so that it means the reference box (R-CNN, appendix C).

    t_x = (x - x_p) / w_p and t_w = log(w / w_p), the same for y and height, times the weights: torchvision's BoxCoder.
    SSD's variances (0.1, 0.2) are the weights [10, 10, 5, 5]; RetinaNet has none.

    Args:
        reference_boxes: [..., N, 4] xyxy, the boxes to be said (ground truths), floating.
        proposals: [..., N, 4] xyxy, where they are said from (anchors, priors), floating; without the first
            dimensions of reference_boxes they are shared by all of these.
        weights: 4 positive numbers for x, y, width and height; None means 1. (torchvision's private function wants a
            tensor of them.)

    Returns:
        [..., N, 4], float64 where an input is float64, else float32. A reference box without width or height gives -inf
        or NaN there, as does a proposal without them. Differentiable, twice.

    Raises:
        RuntimeError: a shape, dtype, device or weight that is none of the above; the message names it.
    """
    weights = [1.0, 1.0, 1.0, 1.0] if weights is None else weights
    return torch.ops.pydet.encode_boxes(reference_boxes, proposals, weights)


@register_fake("pydet::encode_boxes")
def _encode_boxes_fake(reference_boxes: Tensor, proposals: Tensor, weights: Sequence[float] = (1.0,) * 4) -> Tensor:
    torch._check(reference_boxes.size(-1) == 4, lambda: "encode_boxes: reference_boxes must be [..., N, 4]")
    torch._check(proposals.size(-1) == 4, lambda: "encode_boxes: proposals must be [..., N, 4]")
    dtype = reference.compute_dtype(reference_boxes, proposals)
    return reference_boxes.new_empty(reference_boxes.shape, dtype=dtype)


@register_fake("pydet::_encode_boxes_backward")
def _encode_boxes_backward_fake(
    grad: Tensor, reference_boxes: Tensor, proposals: Tensor, weights: list[float]
) -> tuple[Tensor, Tensor]:
    dtype = reference.compute_dtype(reference_boxes, proposals)
    return grad.new_empty(grad.shape, dtype=dtype), grad.new_empty(grad.shape, dtype=dtype)


_gradients.register("encode_boxes", "_encode_boxes_backward")
_gradients.register_second("_encode_boxes_backward", "encode_boxes")
_batching.register("encode_boxes", adapt=_batching.shared_by_rows)
_batching.register("_encode_boxes_backward", tensors=3, adapt=_batching.shared_by_rows)
