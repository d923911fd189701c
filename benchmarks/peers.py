"""Other libraries, where they are installed, each called in the form that it is fastest in.

What they do differently, and how they are compared:

- torchvision: the definition, order included. Its `batched_nms` moves classes apart by adding to the coordinates, whose
  rounding carries a box over the threshold now and then.
- powerboxes: `nms` and `rtree_nms` give the order of torchvision. Scores are float64.
- lsnms: suppresses at IoU >= the threshold (torchvision: >), in float64, and drops scores <= 0.
- cv2.dnn: boxes are xywh, the IoU is computed from them in double, scores must be above the score threshold.

On boxes with random coordinates no IoU is within rounding of the threshold, and the four keep the same boxes: asserted.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import numpy as np
import torch
from race import Contenders
from torch import Tensor


def peer(name: str) -> Any | None:
    """A library to compare with, or None where it is not installed."""
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def nms_peers(boxes: Tensor, scores: Tensor, threshold: float, quadratic: bool = True) -> Contenders:
    """NMS of everybody else; quadratic: also of those whose time grows with N²."""
    contenders: Contenders = {}
    corners, double = boxes.numpy(), scores.double().numpy()
    if quadratic and (torchvision := peer("torchvision")):
        contenders["torchvision"] = lambda: torchvision.ops.nms(boxes, scores, threshold)
    if powerboxes := peer("powerboxes"):
        contenders["powerboxes rtree"] = lambda: powerboxes.rtree_nms(corners, double, threshold, 0.0)
        if quadratic:
            contenders["powerboxes"] = lambda: powerboxes.nms(corners, double, threshold, 0.0)
    if len(boxes) <= 100_000 and (lsnms := peer("lsnms")):  # half a minute for a million
        wide = corners.astype(np.float64)
        contenders["lsnms"] = lambda: lsnms.nms(wide, double, threshold)
    if quadratic and (cv2 := peer("cv2")):
        sizes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).astype(np.float64)
        single = scores.numpy()
        contenders["cv2.dnn"] = lambda: cv2.dnn.NMSBoxes(sizes, single, 0.0, threshold)
    return contenders


def batched_nms_peers(boxes: Tensor, scores: Tensor, idxs: Tensor, threshold: float) -> Contenders:
    contenders: Contenders = {}
    corners, double, labels = boxes.numpy(), scores.double().numpy(), idxs.numpy()
    if torchvision := peer("torchvision"):
        contenders["torchvision"] = lambda: torchvision.ops.batched_nms(boxes, scores, idxs, threshold)
    if lsnms := peer("lsnms"):
        wide = corners.astype(np.float64)
        contenders["lsnms"] = lambda: lsnms.nms(wide, double, threshold, class_ids=labels)
    if cv2 := peer("cv2"):
        sizes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).astype(np.float64)
        single, small = scores.numpy(), labels.astype(np.int32)
        contenders["cv2.dnn"] = lambda: cv2.dnn.NMSBoxesBatched(sizes, single, small, 0.0, threshold)
    return contenders


def same_keeps(theirs: Any, ours: Tensor) -> bool:
    """The same indices, in the same order where it is torch's answer; others may order equal scores as they like."""
    if isinstance(theirs, Tensor):
        return torch.equal(theirs, ours)
    return np.array_equal(np.sort(np.asarray(theirs, dtype=np.int64).ravel()), np.sort(ours.numpy()))
