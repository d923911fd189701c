"""Every detector by name: who described it, how to build it, and where its weights are published."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydet.models.darknet import Darknet, Section
from pydet.models.detection import DetectionModel
from pydet.models.retinanet import RetinaNet
from pydet.models.ssd import SSD
from pydet.models.yolov1 import yolov1, yolov1_paper, yolov1_tiny
from pydet.models.yolov2 import yolo9000, yolov2, yolov2_tiny, yolov2_tiny_voc, yolov2_voc
from pydet.models.yolov3 import yolov3, yolov3_spp, yolov3_tiny

ASSETS = Path(__file__).parent.parent / "assets"

YOLO_PAPER = "Redmon et al. 2016, You Only Look Once: Unified, Real-Time Object Detection"
YOLO9000_PAPER = "Redmon and Farhadi 2017, YOLO9000: Better, Faster, Stronger"
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

    def facts(self) -> list[tuple[str, str]]:
        """What there is to know without building it: names and values."""
        height, width = self.image_size
        weights = self.weights
        return [
            ("model", self.name),
            ("paper", self.paper),
            ("input", f"{height} x {width}"),
            ("labels", f"{len(self.class_names()):,}: {', '.join(self.class_names()[:5])}, ..."),
            ("weights", str(weights) if weights else "nobody is known to publish any"),
            ("SHA-256", (weights.sha256 if weights else "") or "not known"),
        ]

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
    """A network whose tensors have the names of torchvision's.

    Attributes:
        make: of the names of the labels, and of what is to be other than published: `width`, and for RetinaNet
            `shortest`, `longest` and `frozen`.
    """

    make: Callable[..., DetectionModel] = field(kw_only=True)

    def build(
        self,
        class_names: Sequence[str] | None = None,
        image_size: tuple[int, int] | None = None,
        **options: int,
    ) -> DetectionModel:
        if image_size not in (None, self.image_size):
            raise ValueError(f"load: this model works at {self.image_size} pixels only, got {image_size}")
        network = self.make(self.class_names() if class_names is None else class_names, **options)
        network.name, network.options = self.name, options
        return network


def _darknet(
    name: str,
    paper: str,
    sections: Callable[..., list[Section]],
    size: int,
    names: str,
    nbytes: int | None = None,
    sha256: str = "",
) -> Definition:
    """`nbytes`: of the author's weights; None where there are none."""
    page = "https://pjreddie.com/darknet/" + ("yolov1/" if paper == YOLO_PAPER else "yolo/")
    weights = Published(f"{name}.weights", page, nbytes, sha256) if nbytes else None
    return DarknetDefinition(name, paper, (size, size), names, weights, sections=sections)


def _ssd(size: int, weights: Published | None) -> Definition:
    make = functools.partial(SSD, size=size)
    return TorchvisionDefinition(f"ssd{size}", SSD_PAPER, (size, size), "coco91.names", weights, make=make)


def _retinanet(name: str, weights: Published | None, **options: Any) -> Definition:
    make = functools.partial(RetinaNet, **options)
    return TorchvisionDefinition(name, RETINANET_PAPER, (800, 1333), "coco91.names", weights, make=make)


def _torchvision(file: str) -> Published:
    """The names of torchvision's files end with the first eight digits of their SHA-256."""
    return Published(file, "https://download.pytorch.org/models/", sha256=Path(file).stem.rpartition("-")[2])


TINY_SHA256 = "dccea06f59b781ec1234ddf8d1e94b9519a97f4245748a7d4db75d5b7080a42c"

_DEFINITIONS = (
    _retinanet("retinanet-resnet50", _torchvision("retinanet_resnet50_fpn_coco-eeacb38b.pth")),
    _retinanet("retinanet-resnet50-v2", _torchvision("retinanet_resnet50_fpn_v2_coco-5905b1c5.pth"), version=2),
    _retinanet("retinanet-resnet101", None, depth=101),
    _ssd(300, _torchvision("ssd300_vgg16_coco-b556d3b4.pth")),
    _ssd(512, None),
    _darknet("yolov1", YOLO_PAPER, yolov1, 448, "voc.names", 789_312_988),
    _darknet("yolov1-paper", YOLO_PAPER, yolov1_paper, 448, "voc.names"),
    _darknet("yolov1-tiny", YOLO_PAPER, yolov1_tiny, 448, "voc.names", 108_399_816),
    _darknet("yolov2", YOLO9000_PAPER, yolov2, 608, "coco.names", 203_934_260),
    _darknet("yolov2-tiny", YOLO9000_PAPER, yolov2_tiny, 416, "coco.names", 44_948_596),
    _darknet("yolov2-tiny-voc", YOLO9000_PAPER, yolov2_tiny_voc, 416, "voc.names", 63_471_556),
    _darknet("yolov2-voc", YOLO9000_PAPER, yolov2_voc, 416, "voc.names", 202_704_260),
    _darknet("yolo9000", YOLO9000_PAPER, yolo9000, 544, "9k.names", 195_230_020),
    _darknet("yolov3", YOLOV3_PAPER, yolov3, 608, "coco.names", 248_007_048),
    _darknet("yolov3-spp", YOLOV3_PAPER, yolov3_spp, 608, "coco.names", 252_209_544),
    _darknet("yolov3-tiny", YOLOV3_PAPER, yolov3_tiny, 416, "coco.names", 35_434_956, TINY_SHA256),
)
MODELS: dict[str, Definition] = {definition.name: definition for definition in _DEFINITIONS}


_OPTIONS = {".cfg": "cfg"} | dict.fromkeys((".safetensors", ".weights", ".pth", ".pt"), "weights")


def find(name: str) -> Definition:
    """The definition of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in MODELS:
        raise ValueError(f"load: unknown model {name!r}; {_hint(name)}known ones are {', '.join(sorted(MODELS))}")
    return MODELS[name]


def like(network: DetectionModel) -> list[str]:
    """The names of the definitions whose layers a network has; its classes, anchors and sizes may be others."""
    if not isinstance(network, Darknet):
        return [network.name]
    kinds = [section.name for section in network.sections]
    darknet = [definition for definition in MODELS.values() if isinstance(definition, DarknetDefinition)]
    return [d.name for d in darknet if [section.name for section in d.sections()] == kinds]


def _hint(name: str) -> str:
    option = _OPTIONS.get(Path(name).suffix.lower())
    if option:
        return f"a file is named by {option}=, on the command line --{option}; "
    # So close that yolov8, which is another detector, is not taken for a slip of yolov3
    alike = difflib.get_close_matches(name.lower().replace("_", "-"), MODELS, 1, cutoff=0.93)
    return f"is {alike[0]} meant? " if alike else ""


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty, without the space around them."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file of class names: {error}") from error
    return [line.strip() for line in lines if line.strip()]
