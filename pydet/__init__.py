"""pydet: fast detection operators for PyTorch, and the classic one-stage detectors on them.

>>> import pydet
>>> pydet.load("yolov3-tiny").detect("dog.jpg").save("detections.jpg")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydet import ops
    from pydet.detector import Detector
    from pydet.memory import keep_freed_memory

__version__ = "0.1.0"
__all__ = ["keep_freed_memory", "load", "ops"]


def load(model: str | None = None, **options: Any) -> Detector:
    """A detector, ready to be called on pictures: YOLOv3-tiny unless the options, those of `pydet.models.load`, name
    another."""
    from pydet import models
    from pydet.detector import Detector

    return Detector(models.load(model, **options))


def __getattr__(name: str) -> Any:
    # torch takes a second to import: `pydet --help` and errors about arguments do not wait for it.
    if name == "ops":
        return importlib.import_module("pydet.ops")
    if name == "keep_freed_memory":
        return importlib.import_module("pydet.memory").keep_freed_memory
    raise AttributeError(f"module 'pydet' has no attribute {name!r}")
