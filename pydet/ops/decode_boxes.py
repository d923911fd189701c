from __future__ import annotations

from collections.abc import Sequence
from typing import List, Optional  # noqa: UP035  (TorchScript reads the annotations)

import torch
from torch import Tensor

from pydet import _library, reference  # noqa: F401  (_library defines torch.ops.pydet)
from pydet.ops import _batching, _gradients
from pydet.ops._fakes import register_fake


def decode_boxes(
    rel_codes: Tensor,
    boxes: Tensor,
    weights: Optional[List[float]] = None,  # noqa: UP006, UP045
    bbox_xform_clip: float = 4.135166556742356,
) -> Tensor:
    """The boxes that a regressor means at each anchor or proposal: the inverse of `encode_boxes`.

    As torchvision's BoxCoder: x = x_b + t_x / weight * w_b and w = w_b * exp(min(t_w / weight, clip)).

    Args:
        rel_codes: [..., N, 4 * K], K codes a box (one a class in Faster R-CNN, else 1), floating.
        boxes: [..., N, 4] xyxy, the anchors or proposals, floating; without the first dimensions of rel_codes they are
            shared by all of these.
        weights: 4 positive numbers for x, y, width and height, as given to `encode_boxes`; None means 1.
        bbox_xform_clip: the most that the code of a size may be, log(1000 / 16) in torchvision; inf for none. Where it
            holds the size has no gradient.

    Returns:
        [..., N, 4 * K] xyxy, not clipped to a picture; float64 where an input is float64, else float32 (half precision
        can't hold pixels). Differentiable, twice.

    Raises:
        RuntimeError: a shape, dtype, device or value that is none of the above; the message names it.
    """
    return torch.ops.pydet.decode_boxes(
        rel_codes, boxes, [1.0, 1.0, 1.0, 1.0] if weights is None else weights, bbox_xform_clip
    )


@register_fake("pydet::decode_boxes")
def _decode_boxes_fake(
    rel_codes: Tensor, boxes: Tensor, weights: Sequence[float] = (1.0,) * 4, bbox_xform_clip: float = 4.135166556742356
) -> Tensor:
    torch._check(rel_codes.size(-1) % 4 == 0, lambda: "decode_boxes: rel_codes must be [..., N, 4 * K]")
    torch._check(boxes.size(-1) == 4, lambda: "decode_boxes: boxes must be [..., N, 4]")
    return rel_codes.new_empty(rel_codes.shape, dtype=reference.compute_dtype(rel_codes, boxes))


@register_fake("pydet::_decode_boxes_backward")
def _decode_boxes_backward_fake(
    grad: Tensor, rel_codes: Tensor, boxes: Tensor, weights: list[float], bbox_xform_clip: float
) -> tuple[Tensor, Tensor]:
    dtype = reference.compute_dtype(rel_codes, boxes)
    return grad.new_empty(grad.shape, dtype=dtype), grad.new_empty((*grad.shape[:-1], 4), dtype=dtype)


_gradients.register("decode_boxes", "_decode_boxes_backward")
_gradients.register_second("_decode_boxes_backward", "decode_boxes")
_batching.register("decode_boxes", adapt=_batching.shared_by_rows)
_batching.register("_decode_boxes_backward", tensors=3, adapt=_batching.shared_by_rows)
