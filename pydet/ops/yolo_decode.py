from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pydet import _library, reference  # noqa: F401  (_library defines torch.ops.pydet)
from pydet.ops import _autograd, _gradients
from pydet.ops._fakes import register_fake


def yolo_decode(
    inputs: Tensor,
    anchors: Tensor,
    image_size: tuple[int, int],
    classes: str = "sigmoid",
    anchors_in_cells: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes and scores of a raw YOLOv3 or YOLOv2 head, in one read and one write.

    Cell (row, column) and anchor a predict t: centre x = (column + sigmoid(tx)) * image width / W, width =
    exp(tw) * anchor width, the same for y and height (YOLOv2 section 2, YOLOv3 section 2.1). Row (row * W + column) *
    A + a of the results is theirs, the order of Darknet's [yolo] layer.

    The defaults are YOLOv3. A YOLOv2 head ([region] in Darknet) is `yolo_decode(raw, anchors, image_size, "softmax",
    anchors_in_cells=True)`, with "sigmoid" where its cfg says softmax=0. YOLO9000's classes are a tree: "logits" leaves
    them as they are, one row a box, for a softmax over each group of siblings.

    Args:
        inputs: [B, A * (5 + C), H, W] float32, float64, float16 or bfloat16, contiguous or channels last (both are
            read without a copy); per anchor tx, ty, tw, th, objectness and C >= 1 class logits.
        anchors: [A, 2] floating, (width, height) in pixels of the network's input, positive and finite. On a GPU the
            values are not checked: that would wait for the device.
        image_size: (height, width) of the network's input in pixels.
        classes: "sigmoid" or "softmax": the score of a class is the objectness times that of its logit. "logits": the
            scores are the logits themselves, not multiplied by anything.
        anchors_in_cells: the anchors are in cells of the map, as in YOLOv2's cfgs, instead of pixels.

    Returns:
        boxes [B, H * W * A, 4] xyxy in pixels of the network's input, not clipped; objectness [B, H * W * A], its
        sigmoid; scores [B, H * W * A, C]. float64 for float64 inputs, else float32. A NaN logit gives NaN in what it
        enters, and only there; a softmax is NaN where a logit is NaN or inf. Differentiable, twice too.

    Raises:
        RuntimeError: a shape, dtype, device or value that is none of the above; the message names it.
    """
    return torch.ops.pydet.yolo_decode(inputs, anchors, image_size, classes, anchors_in_cells)


def yolo_grid_decode(
    inputs: Tensor,
    side: int,
    num_boxes: int,
    image_size: tuple[int, int],
    roots: bool = True,
    classes: str = "linear",
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes and scores of the first YOLO's output, a grid without anchors (YOLO section 2).

    Box n of cell (row, column) is (x, y, w, h): centre x = (column + x) / S of the image's width, width = w * w of it
    where the network gives roots, else w; the same for y and height. Row (row * S + column) * N + n of the results is
    its. The N boxes of a cell share its class probabilities. The layout is that of Darknet's [detection] layer, which
    is [S * S * C class probabilities | S * S * N objectness | S * S * N * 4 coordinates], each cell after cell.

    Args:
        inputs: [B, S * S * (C + 5 * N)] float32, float64, float16 or bfloat16, C >= 1.
        side: S, the cells of a row and of a column: 7 in the paper.
        num_boxes: N, the boxes of a cell: 2 in the paper, "num" in a cfg.
        image_size: (height, width) of the network's input in pixels.
        roots: w and h are square roots, as the paper trains them ("sqrt=1" in a cfg).
        classes: "linear": they are probabilities, as the paper's regression gives them. "softmax" of the cell's C
            values, where a cfg says softmax=1.

    Returns:
        boxes [B, S * S * N, 4] xyxy in pixels of the network's input, not clipped; objectness [B, S * S * N] as it is
        in the input, a regression that may leave 0..1; scores [B, S * S * N, C], objectness times class probability.
        float64 for float64 inputs, else float32. Differentiable, twice too.

    Raises:
        RuntimeError: a shape, dtype or value that is none of the above; the message names it.
    """
    return torch.ops.pydet.yolo_grid_decode(inputs, side, num_boxes, image_size, roots, classes)


def _new_outputs(inputs: Tensor, rows: int, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    batch = inputs.shape[0]
    dtype = torch.float64 if inputs.dtype == torch.float64 else torch.float32
    shapes = (batch, rows, 4), (batch, rows), (batch, rows, num_classes)
    boxes, objectness, scores = (inputs.new_empty(shape, dtype=dtype) for shape in shapes)
    return boxes, objectness, scores


@register_fake("pydet::yolo_decode")
def _yolo_decode_fake(
    inputs: Tensor, anchors: Tensor, image_size: list[int], classes: str = "sigmoid", anchors_in_cells: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    torch._check(inputs.dim() == 4, lambda: f"yolo_decode: inputs must be [B, A * (5 + C), H, W], got {inputs.shape}")
    _, channels, height, width = inputs.shape
    num_anchors = anchors.shape[0]
    return _new_outputs(inputs, height * width * num_anchors, channels // num_anchors - 5)


@register_fake("pydet::yolo_grid_decode")
def _yolo_grid_decode_fake(
    inputs: Tensor, side: int, num_boxes: int, image_size: list[int], roots: bool = True, classes: str = "linear"
) -> tuple[Tensor, Tensor, Tensor]:
    torch._check(
        inputs.dim() == 2, lambda: f"yolo_grid_decode: inputs must be [B, S * S * (C + 5 * N)], {inputs.shape}"
    )
    cells = side * side
    return _new_outputs(inputs, cells * num_boxes, inputs.shape[1] // cells - 5 * num_boxes)


def _register_gradient(name: str, tensors: int) -> None:
    """The gradient of the first arguments, `tensors` of them, by PyTorch from the reference."""

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:tensors])
        ctx.options = inputs[tensors:]

    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        definition: Callable[..., Any] = getattr(reference, name)
        found = _gradients.of_reference(lambda *given: definition(*given, *ctx.options), ctx.saved_tensors, grads)
        return *found, *(None for _ in ctx.options)

    _autograd.register(name, backward, setup_context)


_register_gradient("yolo_decode", tensors=2)
_register_gradient("yolo_grid_decode", tensors=1)
