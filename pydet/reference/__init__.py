"""Slow, obvious PyTorch: the ground truth that every kernel is tested against. Any device, any floating dtype."""

from pydet.reference.batched_nms import batched_nms
from pydet.reference.box_iou import (
    box_iou,
    complete_box_iou,
    compute_dtype,
    distance_box_iou,
    generalized_box_iou,
    result_dtype,
)
from pydet.reference.box_iou_loss import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss
from pydet.reference.nms import nms
from pydet.reference.yolo_decode import yolo_decode

__all__ = [
    "batched_nms",
    "box_iou",
    "complete_box_iou",
    "complete_box_iou_loss",
    "compute_dtype",
    "distance_box_iou",
    "distance_box_iou_loss",
    "generalized_box_iou",
    "generalized_box_iou_loss",
    "nms",
    "result_dtype",
    "yolo_decode",
]
