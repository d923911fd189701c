"""Detection operators: each is `torch.ops.pydet.<name>`, with the names, arguments and results of torchvision.ops.

Replacing `from torchvision.ops import nms` by `from pydet.ops import nms` is the whole migration.
"""

from pydet.ops._backend import OPERATORS, backend_of, set_backend
from pydet.ops.anchor_kmeans import anchor_elbow, anchor_kmeans
from pydet.ops.batched_nms import batched_nms
from pydet.ops.bbox_overlaps import bbox_overlaps
from pydet.ops.box_iou import box_iof, box_iou, complete_box_iou, distance_box_iou, generalized_box_iou
from pydet.ops.box_iou_loss import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss
from pydet.ops.boxes import box_area, box_convert, clip_boxes_to_image, remove_small_boxes
from pydet.ops.decode_boxes import decode_boxes
from pydet.ops.encode_boxes import encode_boxes
from pydet.ops.hard_negative_mining import hard_negative_mining
from pydet.ops.match_anchors import match_anchors
from pydet.ops.match_cells import match_cells
from pydet.ops.multiclass_nms import multiclass_nms
from pydet.ops.nms import nms
from pydet.ops.patch_torchvision import patch_torchvision
from pydet.ops.sigmoid_focal_loss import sigmoid_focal_loss
from pydet.ops.soft_nms import soft_nms
from pydet.ops.softmax_focal_loss import softmax_focal_loss
from pydet.ops.tree_predict import tree_predict, tree_probabilities
from pydet.ops.tree_softmax import tree_softmax
from pydet.ops.yolo_decode import yolo_decode, yolo_grid_decode

__all__ = [
    "OPERATORS",
    "anchor_elbow",
    "anchor_kmeans",
    "backend_of",
    "batched_nms",
    "bbox_overlaps",
    "box_area",
    "box_convert",
    "box_iof",
    "box_iou",
    "clip_boxes_to_image",
    "complete_box_iou",
    "complete_box_iou_loss",
    "decode_boxes",
    "distance_box_iou",
    "distance_box_iou_loss",
    "encode_boxes",
    "generalized_box_iou",
    "generalized_box_iou_loss",
    "hard_negative_mining",
    "match_anchors",
    "match_cells",
    "multiclass_nms",
    "nms",
    "patch_torchvision",
    "remove_small_boxes",
    "set_backend",
    "sigmoid_focal_loss",
    "soft_nms",
    "softmax_focal_loss",
    "tree_predict",
    "tree_probabilities",
    "tree_softmax",
    "yolo_decode",
    "yolo_grid_decode",
]
