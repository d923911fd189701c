"""Every detector by name: who described it, how to build it, and where its weights are published."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydet.models.darknet import Darknet, Section
from pydet.models.detection import DetectionModel
from pydet.models.retinanet import RetinaNet
from pydet.models.ssd import SSD
from pydet.models.yolov3 import yolov3, yolov3_spp, yolov3_tiny

ASSETS = Path(__file__).parent.parent / "assets"

YOLOV3_PAPER = "Redmon and Farhadi 2018, YOLOv3: An Incremental Improvement"
SSD_PAPER = "Liu et al. 2016, SSD: Single Shot MultiBox Detector"
RETINANET_PAPER = "Lin et al. 2017, Focal Loss for Dense Object Detection"


@dataclass(frozen=True)
class Published:
    """The author's weights.

    Attributes:
        file: its name.
        page: where it is offered.
        size: in bytes; None where it is not known.
        sha256: the first digits of its hash, as far as they are known.
    """

    file: str
    page: str
    size: int | None = None
    sha256: str = ""

    def __str__(self) -> str:
        size = f" ({self.size:,} bytes)" if self.size else ""
        return f"{self.file}{size} at {self.page}"


@dataclass(frozen=True)
class Definition:
    """A detector that has been published.

    Attributes:
        name: what users and checkpoints call it.
        paper: who described it.
        image_size: (height, width) that pictures are brought to; for RetinaNet the shortest and the longest side.
        names: a file of `pydet/assets` with the names of its labels.
        weights: of its author; None where nobody offers them.
    """

    name: str
    paper: str
    image_size: tuple[int, int]
    names: str
    weights: Published | None

    def class_names(self) -> list[str]:
        return read_lines(ASSETS / self.names)

    def build(
        self, class_names: Sequence[str] | None = None, image_size: tuple[int, int] | None = None
    ) -> DetectionModel:
        """The network, its numbers at random; the published classes and size where none are named."""
        raise NotImplementedError


@dataclass(frozen=True)
class DarknetDefinition(Definition):
    """A network of Darknet: `sections` makes the cfg for a number of classes."""

    sections: Callable[..., list[Section]] = field(kw_only=True)

    def build(
        self,
        class_names: Sequence[str] | None = None,
        image_size: tuple[int, int] | None = None,
        batch_norm: str = "cuda",
    ) -> Darknet:
        names = self.class_names() if class_names is None else class_names
        network = Darknet(self.sections(num_classes=len(names)), image_size or self.image_size, names, batch_norm)
        network.name = self.name
        return network


@dataclass(frozen=True)
class TorchvisionDefinition(Definition):
    """A network whose tensors have the names of torchvision's."""

    make: Callable[..., DetectionModel] = field(kw_only=True)

    def build(
        self, class_names: Sequence[str] | None = None, image_size: tuple[int, int] | None = None
    ) -> DetectionModel:
        if image_size not in (None, self.image_size):
            raise ValueError(f"load: this model works at {self.image_size} pixels only, got {image_size}")
        network = self.make(self.class_names() if class_names is None else class_names)
        network.name = self.name
        return network


def _yolov3(name: str, sections: Callable[..., list[Section]], size: int, nbytes: int, sha256: str = "") -> Definition:
    weights = Published(f"{name}.weights", "https://pjreddie.com/darknet/yolo/", nbytes, sha256)
    return DarknetDefinition(name, YOLOV3_PAPER, (size, size), "coco.names", weights, sections=sections)


def _ssd(size: int, weights: Published | None) -> Definition:
    make = functools.partial(SSD, size=size)
    return TorchvisionDefinition(f"ssd{size}", SSD_PAPER, (size, size), "coco91.names", weights, make=make)


def _retinanet(name: str, weights: Published | None, **options: Any) -> Definition:
    make = functools.partial(RetinaNet, **options)
    return TorchvisionDefinition(name, RETINANET_PAPER, (800, 1333), "coco91.names", weights, make=make)


def _torchvision(file: str) -> Published:
    """The names of torchvision's files end with the first eight digits of their SHA-256."""
    return Published(file, f"https://download.pytorch.org/models/{file}", sha256=Path(file).stem.rpartition("-")[2])


TINY_SHA256 = "dccea06f59b781ec1234ddf8d1e94b9519a97f4245748a7d4db75d5b7080a42c"

_DEFINITIONS = (
    _retinanet("retinanet-resnet50", _torchvision("retinanet_resnet50_fpn_coco-eeacb38b.pth")),
    _retinanet("retinanet-resnet50-v2", _torchvision("retinanet_resnet50_fpn_v2_coco-5905b1c5.pth"), version=2),
    _retinanet("retinanet-resnet101", None, depth=101),
    _ssd(300, _torchvision("ssd300_vgg16_coco-b556d3b4.pth")),
    _ssd(512, None),
    _yolov3("yolov3", yolov3, 608, 248_007_048),
    _yolov3("yolov3-spp", yolov3_spp, 608, 252_209_544),
    _yolov3("yolov3-tiny", yolov3_tiny, 416, 35_434_956, TINY_SHA256),
)
MODELS: dict[str, Definition] = {definition.name: definition for definition in _DEFINITIONS}


def find(name: str) -> Definition:
    """The definition of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in MODELS:
        raise ValueError(f"load: unknown model {name!r}; known ones are {', '.join(sorted(MODELS))}")
    return MODELS[name]


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty, without the space around them."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file of class names: {error}") from error
    return [line.strip() for line in lines if line.strip()]
