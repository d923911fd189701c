"""How good detections are: COCO's and VOC's average precision, and which classes are confused."""

from __future__ import annotations

from pydet.metrics.coco import CocoResult, coco_metrics, coco_tools
from pydet.metrics.confusion import confusion_matrix
from pydet.metrics.voc import Curve, voc_curves

__all__ = ["CocoResult", "Curve", "coco_metrics", "coco_tools", "confusion_matrix", "voc_curves"]
