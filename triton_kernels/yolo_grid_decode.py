"""YOLO section 2: centre = (p_xy + cell) * stride, size = p_wh^2 * picture, score = confidence * p_class.

A program decodes CELLS boxes, rows of the outputs; logits are read and scores written along the classes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from pydet.triton_kernels.checks import require
from pydet.triton_kernels.yolo_decode import check_image_size, class_scores, new_outputs, softmax_of_cells
from torch import Tensor

CELLS, CLASSES = 32, 32


@triton.jit
def yolo_grid_decode_kernel(  # type: ignore[no-untyped-def]
    inputs,  # [B, S * S * C class values | S * S * N objectness | S * S * N * 4 coordinates]
    boxes,  # [B, S * S * N, 4] xyxy
    objectness,  # [B, S * S * N]
    scores,  # [B, S * S * N, C]
    rows,  # B * S * S * N
    side,
    num_boxes,
    num_classes,
    image_height,
    image_width,
    CLASSES_ARE: tl.constexpr,
    ROOTS: tl.constexpr,
    COMPUTE: tl.constexpr,
    CELLS: tl.constexpr,
    CLASSES: tl.constexpr,
):
    cells = tl.full((), side, tl.int64) * side
    stride_x = (tl.full((), image_width, tl.float64) / side).to(COMPUTE)
    stride_y = (tl.full((), image_height, tl.float64) / side).to(COMPUTE)
    row = tl.program_id(0).to(tl.int64) * CELLS + tl.arange(0, CELLS)
    inside = row < rows
    box = row % (cells * num_boxes)
    cell = box // num_boxes
    image = inputs + row // (cells * num_boxes) * (cells * (num_classes + 5 * num_boxes))
    confidence = tl.load(image + cells * num_classes + box, mask=inside, other=0).to(COMPUTE)
    source = image + cells * (num_classes + num_boxes) + 4 * box
    width = tl.load(source + 2, mask=inside, other=0).to(COMPUTE)
    height = tl.load(source + 3, mask=inside, other=0).to(COMPUTE)
    if ROOTS:
        width, height = width * width, height * height
    centre_x = ((cell % side).to(COMPUTE) + tl.load(source, mask=inside, other=0).to(COMPUTE)) * stride_x
    centre_y = ((cell // side).to(COMPUTE) + tl.load(source + 1, mask=inside, other=0).to(COMPUTE)) * stride_y
    half_width = 0.5 * width * image_width
    half_height = 0.5 * height * image_height
    tl.store(boxes + row * 4, centre_x - half_width, mask=inside)
    tl.store(boxes + row * 4 + 1, centre_y - half_height, mask=inside)
    tl.store(boxes + row * 4 + 2, centre_x + half_width, mask=inside)
    tl.store(boxes + row * 4 + 3, centre_y + half_height, mask=inside)
    tl.store(objectness + row, confidence, mask=inside)

    largest = confidence
    first_logit = image + cell * num_classes
    if CLASSES_ARE == "softmax":
        largest, total = softmax_of_cells(first_logit, inside, num_classes, 1, COMPUTE, CELLS, CLASSES)
        confidence = confidence / total
    for first in range(0, num_classes, CLASSES):
        label = (first + tl.arange(0, CLASSES)).to(tl.int64)
        mask = inside[:, None] & (label < num_classes)[None, :]
        logits = tl.load(first_logit[:, None] + label[None, :], mask=mask, other=0).to(COMPUTE)
        target = scores + row[:, None] * num_classes + label[None, :]
        tl.store(target, class_scores(logits, confidence, largest, CLASSES_ARE), mask=mask)


def yolo_grid_decode(
    inputs: Tensor,
    side: int,
    num_boxes: int,
    image_size: tuple[int, int],
    roots: bool = True,
    classes: str = "linear",
) -> tuple[Tensor, Tensor, Tensor]:
    """`pydet.ops.yolo_grid_decode` for [B, S * S * (C + 5 * N)] on one GPU."""
    op = "yolo_grid_decode"
    require(inputs.is_floating_point(), op, "inputs must be a floating tensor", inputs.dtype)
    require(inputs.dim() == 2, op, "inputs must be [B, S * S * (C + 5 * N)]", list(inputs.shape))
    require(1 <= side <= 1 << 15, op, "side must be 1 to 32768", side)
    require(1 <= num_boxes <= 1 << 15, op, "num_boxes must be 1 to 32768", num_boxes)
    cells = side * side
    whole = inputs.shape[1] % cells == 0 and inputs.shape[1] // cells > 5 * num_boxes
    rule = f"inputs must have S * S * (C + 5 * N) values a row, C >= 1, for S = {side} and N = {num_boxes}"
    require(whole, op, rule, list(inputs.shape))
    check_image_size(op, image_size)
    require(classes in ("linear", "softmax"), op, "classes must be 'linear' or 'softmax'", f"'{classes}'")

    num_classes = inputs.shape[1] // cells - 5 * num_boxes
    boxes, objectness, scores = new_outputs(inputs, cells * num_boxes, num_classes)
    rows = objectness.numel()
    if rows == 0:
        return boxes, objectness, scores
    with torch.cuda.device_of(inputs):
        yolo_grid_decode_kernel[(triton.cdiv(rows, CELLS),)](
            inputs=inputs.contiguous(),
            boxes=boxes,
            objectness=objectness,
            scores=scores,
            rows=rows,
            side=side,
            num_boxes=num_boxes,
            num_classes=num_classes,
            image_height=image_size[0],
            image_width=image_size[1],
            CLASSES_ARE=classes,
            ROOTS=roots,
            COMPUTE=tl.float64 if boxes.dtype == torch.float64 else tl.float32,
            CELLS=CELLS,
            CLASSES=CLASSES,
            enable_fp_fusion=False,
        )
    return boxes, objectness, scores
