"""What the six detectors are trained by: functions of the raw outputs of their heads and of `Targets`.

Each returns its terms by name, which are added up. They are made of `pydet.ops`: no loop over images, boxes or cells,
no matrix of anchors by objects, nothing that waits for a GPU. The `loss` of a network calls them with its own anchors
and settings.
"""

from pydet.losses.retinanet import retinanet_loss
from pydet.losses.ssd import ssd_loss
from pydet.losses.targets import NO_LABEL, Targets
from pydet.losses.yolo9000 import TreeTables, yolo9000_loss
from pydet.losses.yolov1 import DetectionSettings, yolov1_loss
from pydet.losses.yolov2 import RegionSettings, yolov2_loss
from pydet.losses.yolov3 import yolov3_loss

__all__ = [
    "NO_LABEL",
    "DetectionSettings",
    "RegionSettings",
    "Targets",
    "TreeTables",
    "retinanet_loss",
    "ssd_loss",
    "yolo9000_loss",
    "yolov1_loss",
    "yolov2_loss",
    "yolov3_loss",
]
