"""Detection operators: each is `torch.ops.pydet.<name>`, with the names, arguments and results of torchvision.ops.

Replacing `from torchvision.ops import nms` by `from pydet.ops import nms` is the whole migration.
"""

from pydet.ops._backend import OPERATORS, backend_of, set_backend
from pydet.ops.batched_nms import batched_nms
from pydet.ops.box_iou import box_iou, complete_box_iou, distance_box_iou, generalized_box_iou
from pydet.ops.box_iou_loss import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss
from pydet.ops.boxes import box_area, box_convert, clip_boxes_to_image, remove_small_boxes
from pydet.ops.nms import nms
from pydet.ops.yolo_decode import yolo_decode

__all__ = [
    "OPERATORS",
    "backend_of",
    "batched_nms",
    "box_area",
    "box_convert",
    "box_iou",
    "clip_boxes_to_image",
    "complete_box_iou",
    "complete_box_iou_loss",
    "distance_box_iou",
    "distance_box_iou_loss",
    "generalized_box_iou",
    "generalized_box_iou_loss",
    "nms",
    "remove_small_boxes",
    "set_backend",
    "yolo_decode",
]
