from __future__ import annotations

import torch
from torch import Tensor

from pydet import _library, reference  # noqa: F401  (_library defines torch.ops.pydet)


def yolo_decode(inputs: Tensor, anchors: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes and scores of a raw YOLOv3 head, in one read and one write (YOLOv3 section 2.1).

    Cell (row, column) and anchor a predict t: centre x = (column + sigmoid(tx)) * image width / W, width =
    exp(tw) * anchor width, the same for y and height. Row (row * W + column) * A + a of the results is theirs, the
    order of Darknet's [yolo] layer.

    Args:
        inputs: [B, A * (5 + C), H, W] float32, float64, float16 or bfloat16, contiguous or channels last (both are
            read without a copy); per anchor tx, ty, tw, th, objectness and C >= 1 class logits.
        anchors: [A, 2] floating, (width, height) in pixels of the network's input, positive and finite. On a GPU the
            values are not checked: that would wait for the device.
        image_size: (height, width) of the network's input in pixels.

    Returns:
        boxes [B, H * W * A, 4] xyxy in pixels of the network's input, not clipped; objectness [B, H * W * A], its
        sigmoid; scores [B, H * W * A, C], objectness * sigmoid(class). float64 for float64 inputs, else float32.
        A NaN logit gives NaN in what it enters, and only there. Differentiable, twice.

    Raises:
        RuntimeError: a shape, dtype, device or value that is none of the above; the message names it.
    """
    return torch.ops.pydet.yolo_decode(inputs, anchors, image_size)


@torch.library.register_fake("pydet::yolo_decode")
def _yolo_decode_fake(inputs: Tensor, anchors: Tensor, image_size: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    torch._check(inputs.dim() == 4, lambda: f"yolo_decode: inputs must be [B, A * (5 + C), H, W], got {inputs.shape}")
    batch, channels, height, width = inputs.shape
    rows = height * width * anchors.shape[0]
    dtype = torch.float64 if inputs.dtype == torch.float64 else torch.float32
    shapes = (batch, rows, 4), (batch, rows), (batch, rows, channels // anchors.shape[0] - 5)
    boxes, objectness, scores = (inputs.new_empty(shape, dtype=dtype) for shape in shapes)
    return boxes, objectness, scores


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    raw, anchors, ctx.image_size = inputs
    ctx.save_for_backward(raw, anchors)


def _backward(ctx, *grads: Tensor):  # type: ignore[no-untyped-def]
    needed = ctx.needs_input_grad[:2]
    raw, anchors = ctx.saved_tensors
    twice = torch.is_grad_enabled()  # the gradient is to be differentiated too
    if not twice:
        raw, anchors = (t.detach().requires_grad_(n) for t, n in zip((raw, anchors), needed, strict=True))
    with torch.enable_grad():
        decoded = reference.yolo_decode(raw, anchors, ctx.image_size)
    wanted = [t for t, n in zip((raw, anchors), needed, strict=True) if n]
    found = iter(torch.autograd.grad(decoded, wanted, grads, allow_unused=True, create_graph=twice))
    return *(next(found) if n else None for n in needed), None


torch.library.register_autograd("pydet::yolo_decode", _backward, setup_context=_setup_context)
