"""Slow, obvious PyTorch: the ground truth that every kernel is tested against. Any device, any floating dtype."""

from pydet.reference.anchor_kmeans import anchor_kmeans
from pydet.reference.batch_norm_leaky_relu import batch_norm_leaky_relu
from pydet.reference.batched_nms import batched_nms
from pydet.reference.box_iou import (
    box_iof,
    box_iou,
    complete_box_iou,
    compute_dtype,
    distance_box_iou,
    generalized_box_iou,
    result_dtype,
)
from pydet.reference.box_iou_loss import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss
from pydet.reference.conv import conv
from pydet.reference.decode_boxes import decode_boxes
from pydet.reference.encode_boxes import encode_boxes
from pydet.reference.hard_negative_mining import hard_negative_mining
from pydet.reference.match_anchors import match_anchors
from pydet.reference.match_cells import match_cells
from pydet.reference.max_pool_2x2 import max_pool_2x2
from pydet.reference.multiclass_nms import multiclass_nms
from pydet.reference.nms import nms
from pydet.reference.resample import resample
from pydet.reference.sigmoid_focal_loss import sigmoid_focal_loss
from pydet.reference.soft_nms import soft_nms
from pydet.reference.softmax_focal_loss import softmax_focal_loss
from pydet.reference.tree_predict import tree_predict, tree_probabilities
from pydet.reference.tree_softmax import tree_softmax
from pydet.reference.yolo_decode import yolo_decode, yolo_grid_decode

__all__ = [
    "anchor_kmeans",
    "batch_norm_leaky_relu",
    "batched_nms",
    "box_iof",
    "box_iou",
    "complete_box_iou",
    "complete_box_iou_loss",
    "compute_dtype",
    "conv",
    "decode_boxes",
    "distance_box_iou",
    "distance_box_iou_loss",
    "encode_boxes",
    "generalized_box_iou",
    "generalized_box_iou_loss",
    "hard_negative_mining",
    "match_anchors",
    "match_cells",
    "max_pool_2x2",
    "multiclass_nms",
    "nms",
    "resample",
    "result_dtype",
    "sigmoid_focal_loss",
    "soft_nms",
    "softmax_focal_loss",
    "tree_predict",
    "tree_probabilities",
    "tree_softmax",
    "yolo_decode",
    "yolo_grid_decode",
]
