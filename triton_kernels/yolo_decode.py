"""YOLOv3 section 2.1: centre = (sigmoid(t_xy) + cell) * stride, size = anchor * exp(t_wh), score = sigmoid(t_o) *
sigmoid(t_class).

A program decodes CELLS cells of one image and one anchor: logits are read along the cells (NCHW) and scores written
along the classes; the compiler exchanges the tile in between. Strides are arguments, so that no layout is copied.
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
def yolo_decode_kernel(  # type: ignore[no-untyped-def]
    inputs,  # [B, A * (5 + C), H, W] with the strides below
    anchors,  # [A, 2] width, height in pixels
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
    centre_x = (x.to(COMPUTE) + sigmoid(tx)) * stride_x
    centre_y = (y.to(COMPUTE) + sigmoid(ty)) * stride_y
    half_width = 0.5 * tl.exp(tw) * tl.load(anchors + anchor * 2)
    half_height = 0.5 * tl.exp(th) * tl.load(anchors + anchor * 2 + 1)
    tl.store(boxes + out_row * 4, centre_x - half_width, mask=inside)
    tl.store(boxes + out_row * 4 + 1, centre_y - half_height, mask=inside)
    tl.store(boxes + out_row * 4 + 2, centre_x + half_width, mask=inside)
    tl.store(boxes + out_row * 4 + 3, centre_y + half_height, mask=inside)
    tl.store(objectness + out_row, confidence, mask=inside)

    for first in range(0, num_classes, CLASSES):
        label = (first + tl.arange(0, CLASSES)).to(tl.int64)
        mask = inside[:, None] & (label < num_classes)[None, :]
        logits = tl.load(source[:, None] + (5 + label)[None, :] * plane, mask=mask, other=0).to(COMPUTE)
        target = scores + out_row[:, None] * num_classes + label[None, :]
        tl.store(target, confidence[:, None] * sigmoid(logits), mask=mask)


def yolo_decode(inputs: Tensor, anchors: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
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
    require(len(image_size) == 2, op, "image_size must be (height, width)", f"{len(image_size)} values")
    require(min(image_size) > 0, op, "image_size must be positive", tuple(image_size))
    require_one_device(op, inputs=inputs, anchors=anchors)

    classes, rows = channels // count - 5, height * width * count
    dtype = torch.float64 if inputs.dtype == torch.float64 else torch.float32
    boxes = inputs.new_empty((batch, rows, 4), dtype=dtype)
    objectness = inputs.new_empty((batch, rows), dtype=dtype)
    scores = inputs.new_empty((batch, rows, classes), dtype=dtype)
    if boxes.numel() == 0:
        return boxes, objectness, scores
    image_stride, channel_stride, row_stride, column_stride = inputs.stride()
    with torch.cuda.device_of(inputs):
        yolo_decode_kernel[(batch * triton.cdiv(height * width, CELLS) * count,)](
            inputs=inputs,
            anchors=anchors.to(dtype).contiguous(),
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
            num_classes=classes,
            height=height,
            width=width,
            COMPUTE=tl.float64 if dtype == torch.float64 else tl.float32,
            CELLS=CELLS,
            CLASSES=CLASSES,
            enable_fp_fusion=False,
        )
    return boxes, objectness, scores
