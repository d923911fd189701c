"""Which augmentation each detector was trained with."""

from __future__ import annotations

from pydet.data.augment import Augmentation, Flip
from pydet.data.augment_darknet import ColourJitter, DarknetCrop, DarknetPlace
from pydet.data.augment_ssd import SsdAugmentation

_WEAK = ColourJitter(hue=0.1, saturation=0.75, exposure=0.75)  # factors of 3 / 4 to 4 / 3

# Of the cfgs of Darknet's author; where a name is not here, its beginning is: yolov3-tiny is trained as yolov3
_PRESETS: dict[str, Augmentation] = {
    "yolov1": DarknetCrop(),
    "yolov1-tiny": DarknetCrop(colours=_WEAK),
    "yolov2": DarknetCrop(jitter=0.3),
    "yolov2-tiny-voc": DarknetCrop(jitter=0.2),
    "yolo9000": DarknetCrop(jitter=0.2, colours=_WEAK),
    "yolov3": DarknetPlace(jitter=0.3, zoom=(0.25, 2.0)),
    "ssd": SsdAugmentation(),
    "retinanet": Flip(),
}


def augmentation_of(model: str) -> Augmentation:
    """The augmentation of a detector's paper or release, by the name that `pydet models` lists.

    YOLOv2 cropped its pictures when it was released (2016), YOLOv3 placed and zoomed them (2018).

    Raises:
        ValueError: There is no such detector.
    """
    fitting = [name for name in _PRESETS if model.startswith(name)]
    if not fitting:
        raise ValueError(f"augmentation_of: unknown detector {model!r}; known are {', '.join(_PRESETS)}")
    return _PRESETS[max(fitting, key=len)]
