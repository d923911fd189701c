"""YOLOv2 section 2, YOLOv3 section 2.1: centre = (sigmoid(t_xy) + cell) * stride, size = anchor * exp(t_wh), score =
sigmoid(t_o) * sigmoid(t_class), or a softmax.

A program decodes CELLS cells of one image and one anchor: logits are read along the cells (NCHW) and scores written
along the classes; the compiler exchanges the tile in between. Strides are arguments, so that no layout is copied.
A softmax reads the logits three times, twice from a cache. yolo_grid_decode takes its scores from here.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from pydet.triton_kernels.checks import require, require_one_device
from torch import Tensor

CELLS, CLASSES = 64, 32


@triton.jit
def sigmoid(x):  # type: ignore[no-untyped-def]
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def class_scores(logits, confidence, largest, CLASSES_ARE: tl.constexpr):  # type: ignore[no-untyped-def]
    """[CELLS, CLASSES] scores; for a softmax `confidence` is divided by the sum of exponentials."""
    if CLASSES_ARE == "softmax":
        return tl.exp(logits - largest[:, None]) * confidence[:, None]
    elif CLASSES_ARE == "sigmoid":
        return confidence[:, None] * sigmoid(logits)
    elif CLASSES_ARE == "linear":
        return confidence[:, None] * logits
    else:
        return logits


@triton.jit
def softmax_of_cells(  # type: ignore[no-untyped-def]
    source,  # [CELLS] pointers to the logit of class 0
    inside,  # [CELLS] whether there is such a cell
    num_classes,
    plane,  # from one class to the next
    COMPUTE: tl.constexpr,
    CELLS: tl.constexpr,
    CLASSES: tl.constexpr,
):
    """Largest logit of each cell, and the sum of exponentials less it; NaN where there is a NaN."""
    largest = tl.full((CELLS,), float("-inf"), COMPUTE)
    for first in range(0, num_classes, CLASSES):
        label = (first + tl.arange(0, CLASSES)).to(tl.int64)
        mask = inside[:, None] & (label < num_classes)[None, :]
        logits = tl.load(source[:, None] + label[None, :] * plane, mask=mask, other=float("-inf")).to(COMPUTE)
        largest = tl.maximum(largest, tl.max(logits, axis=1))
    total = tl.zeros((CELLS,), COMPUTE)
    for first in range(0, num_classes, CLASSES):
        label = (first + tl.arange(0, CLASSES)).to(tl.int64)
        mask = inside[:, None] & (label < num_classes)[None, :]
        logits = tl.load(source[:, None] + label[None, :] * plane, mask=mask, other=float("-inf")).to(COMPUTE)
        total += tl.sum(tl.where(mask, tl.exp(logits - largest[:, None]), 0.0), axis=1)
    return largest, total


@triton.jit
def yolo_decode_kernel(  # type: ignore[no-untyped-def]
    inputs,  # [B, A * (5 + C), H, W] with the strides below
    anchors,  # [A, 2] width, height in pixels or cells
    boxes,  # [B, H * W * A, 4] xyxy
    objectness,  # [B, H * W * A]
    scores,  # [B, H * W * A, C]
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    image_height,
    image_width,
    num_anchors,
    num_classes,
    height,
    width,
    CLASSES_ARE: tl.constexpr,
    ANCHORS_IN_CELLS: tl.constexpr,
    COMPUTE: tl.constexpr,
    CELLS: tl.constexpr,
    CLASSES: tl.constexpr,
):
    # Arguments are 32 bits wide where their value allows it: widened before they are multiplied.
    cells = tl.full((), height, tl.int64) * width
    plane = tl.full((), channel_stride, tl.int64)
    stride_x = (tl.full((), image_width, tl.float64) / width).to(COMPUTE)  # pixels a cell; divided exactly, in double
    stride_y = (tl.full((), image_height, tl.float64) / height).to(COMPUTE)
    tiles = tl.cdiv(cells, CELLS)
    task = tl.program_id(0).to(tl.int64)
    anchor = task % num_anchors
    image = task // num_anchors // tiles
    cell = (task // num_anchors % tiles) * CELLS + tl.arange(0, CELLS)
    inside = cell < cells
    x, y = cell % width, cell // width
    first_channel = inputs + image * image_stride + anchor * (5 + num_classes) * plane
    source = first_channel + y * row_stride + x * column_stride
    out_row = (image * cells + cell) * num_anchors + anchor

    tx = tl.load(source, mask=inside, other=0).to(COMPUTE)
    ty = tl.load(source + plane, mask=inside, other=0).to(COMPUTE)
    tw = tl.load(source + 2 * plane, mask=inside, other=0).to(COMPUTE)
    th = tl.load(source + 3 * plane, mask=inside, other=0).to(COMPUTE)
    confidence = sigmoid(tl.load(source + 4 * plane, mask=inside, other=0).to(COMPUTE))
    anchor_width, anchor_height = tl.load(anchors + anchor * 2), tl.load(anchors + anchor * 2 + 1)
    if ANCHORS_IN_CELLS:
        anchor_width, anchor_height = anchor_width * stride_x, anchor_height * stride_y
    centre_x = (x.to(COMPUTE) + sigmoid(tx)) * stride_x
    centre_y = (y.to(COMPUTE) + sigmoid(ty)) * stride_y
    half_width = 0.5 * tl.exp(tw) * anchor_width
    half_height = 0.5 * tl.exp(th) * anchor_height
    tl.store(boxes + out_row * 4, centre_x - half_width, mask=inside)
    tl.store(boxes + out_row * 4 + 1, centre_y - half_height, mask=inside)
    tl.store(boxes + out_row * 4 + 2, centre_x + half_width, mask=inside)
    tl.store(boxes + out_row * 4 + 3, centre_y + half_height, mask=inside)
    tl.store(objectness + out_row, confidence, mask=inside)

    largest = confidence
    first_logit = source + 5 * plane
    if CLASSES_ARE == "softmax":
        largest, total = softmax_of_cells(first_logit, inside, num_classes, plane, COMPUTE, CELLS, CLASSES)
        confidence = confidence / total
    for first in range(0, num_classes, CLASSES):
        label = (first + tl.arange(0, CLASSES)).to(tl.int64)
        mask = inside[:, None] & (label < num_classes)[None, :]
        logits = tl.load(first_logit[:, None] + label[None, :] * plane, mask=mask, other=0).to(COMPUTE)
        target = scores + out_row[:, None] * num_classes + label[None, :]
        tl.store(target, class_scores(logits, confidence, largest, CLASSES_ARE), mask=mask)


def new_outputs(inputs: Tensor, rows: int, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.float64 if inputs.dtype == torch.float64 else torch.float32
    batch = inputs.shape[0]
    boxes = inputs.new_empty((batch, rows, 4), dtype=dtype)
    objectness = inputs.new_empty((batch, rows), dtype=dtype)
    return boxes, objectness, inputs.new_empty((batch, rows, num_classes), dtype=dtype)


def check_image_size(op: str, image_size: tuple[int, int]) -> None:
    require(len(image_size) == 2, op, "image_size must be (height, width)", f"{len(image_size)} values")
    require(min(image_size) > 0, op, "image_size must be positive", tuple(image_size))


def yolo_decode(
    inputs: Tensor,
    anchors: Tensor,
    image_size: tuple[int, int],
    classes: str = "sigmoid",
    anchors_in_cells: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """`pydet.ops.yolo_decode` for [B, A * (5 + C), H, W] and anchors [A, 2] on one GPU."""
    op = "yolo_decode"
    require(inputs.is_floating_point(), op, "inputs must be a floating tensor", inputs.dtype)
    require(anchors.is_floating_point(), op, "anchors must be a floating tensor", anchors.dtype)
    require(inputs.dim() == 4, op, "inputs must be [B, A * (5 + C), H, W]", list(inputs.shape))
    pairs = anchors.dim() == 2 and anchors.shape[0] >= 1 and anchors.shape[1] == 2
    require(pairs, op, "anchors must be [A, 2] with A >= 1", list(anchors.shape))
    batch, channels, height, width = inputs.shape
    count = anchors.shape[0]
    whole = channels % count == 0 and channels // count >= 6
    rule = f"inputs must have A * (5 + C) channels, C >= 1, for the A = {count} anchors"
    require(whole, op, rule, list(inputs.shape))
    check_image_size(op, image_size)
    require_one_device(op, inputs=inputs, anchors=anchors)
    known = classes in ("sigmoid", "softmax", "logits")
    require(known, op, "classes must be 'sigmoid', 'softmax' or 'logits'", f"'{classes}'")

    num_classes = channels // count - 5
    boxes, objectness, scores = new_outputs(inputs, height * width * count, num_classes)
    if boxes.numel() == 0:
        return boxes, objectness, scores
    image_stride, channel_stride, row_stride, column_stride = inputs.stride()
    with torch.cuda.device_of(inputs):
        yolo_decode_kernel[(batch * triton.cdiv(height * width, CELLS) * count,)](
            inputs=inputs,
            anchors=anchors.to(boxes.dtype).contiguous(),
            boxes=boxes,
            objectness=objectness,
            scores=scores,
            image_stride=image_stride,
            channel_stride=channel_stride,
            row_stride=row_stride,
            column_stride=column_stride,
            image_height=image_size[0],
            image_width=image_size[1],
            num_anchors=count,
            num_classes=num_classes,
            height=height,
            width=width,
            CLASSES_ARE=classes,
            ANCHORS_IN_CELLS=anchors_in_cells,
            COMPUTE=tl.float64 if boxes.dtype == torch.float64 else tl.float32,
            CELLS=CELLS,
            CLASSES=CLASSES,
            enable_fp_fusion=False,
        )
    return boxes, objectness, scores
