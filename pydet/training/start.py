"""Where a training starts: a network for the classes of the data, with numbers of another one where they fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pydet.data.dataset import places_of
from pydet.models import (
    SSD,
    Darknet,
    DetectionModel,
    RetinaNet,
    WeightsError,
    load_checkpoint,
    load_weights,
    read_cfg,
)
from pydet.models.darknet.heads import Grid
from pydet.models.registry import ASSETS, TorchvisionDefinition, find
from pydet.models.retinanet import ANCHORS_A_CELL
from pydet.models.torchvision import load_torchvision, read_state_dict
from pydet.training.cfg import check_layers
from pydet.training.settings import Settings, SettingsError

BACKGROUND = "__background__"
_SECOND = "retinanet-resnet50-v2"

# Layers of a Darknet network that its author trained on ImageNet first: darknet53.conv.74 and so on.
_BACKBONES = {
    "yolov1": 24,
    "yolov1-paper": 24,
    "yolov1-tiny": 13,
    "yolov2": 23,
    "yolov2-voc": 23,
    "yolov2-tiny": 13,
    "yolov2-tiny-voc": 13,
    "yolo9000": 23,
    "yolov3": 75,
    "yolov3-spp": 75,
    "yolov3-tiny": 15,
}


@dataclass(frozen=True)
class Source:
    """Numbers to start from.

    Attributes:
        tensors: by name, those of the network that takes them.
        class_names: what they can find; empty for a backbone.
        name: of the file.
        same_classes: whether they are those of the network that takes them, by their places: with a cfg a class has no
            other name.
    """

    tensors: dict[str, Tensor]
    class_names: Sequence[str]
    name: str
    same_classes: bool = False


def start_weights(settings: Settings) -> Path | None:
    """The file that a training starts from; None for random numbers."""
    if settings.weights == "none":
        return None
    if settings.weights != "auto":
        return Path(settings.weights)
    embedded = ASSETS / f"{settings.model}.safetensors"
    return embedded if embedded.exists() and not settings.cfg else None


def build(settings: Settings, class_names: Sequence[str], image_size: tuple[int, int] | None) -> DetectionModel:
    """The network for these classes, with random numbers; one of a tree is for the tree's."""
    if settings.cfg:
        return _own(settings.cfg, class_names, image_size)
    definition = find(settings.model)
    if settings.model == "yolo9000":
        return definition.build(None, image_size)
    if not isinstance(definition, TorchvisionDefinition):
        if settings.width:
            raise SettingsError(f"train: width is for ssd and retinanet; write a cfg for another {settings.model}")
        return definition.build(class_names, image_size)
    options: dict[str, int] = {"width": settings.width} if settings.width else {}
    if settings.model.startswith("ssd"):
        return definition.build([BACKGROUND, *class_names], image_size, **options)
    if settings.size:
        options |= {"shortest": settings.size, "longest": settings.size * 5 // 3}  # as 800 and 1333
    if settings.model != _SECOND and start_weights(settings) is None:
        options["frozen"] = False  # statistics of nothing would stay for ever
    return definition.build(class_names, None, **options)


def _own(cfg: str, class_names: Sequence[str], image_size: tuple[int, int] | None) -> Darknet:
    sections = read_cfg(cfg)
    check_layers(sections)
    with torch.device("meta"):
        tried = Darknet(sections)
    names = class_names if tried.tree is None else tried.tree.ids
    if len(names) != tried.num_classes:
        has = ", ".join(class_names[:5]) + (", ..." if len(class_names) > 5 else "")
        raise SettingsError(f"{cfg}: is for {tried.num_classes} classes, the data has {len(class_names)}: {has}")
    return Darknet(sections, image_size, names)


def read_source(path: Path, settings: Settings) -> Source:
    """The numbers of a file: pydet's .safetensors, Darknet's .weights, whole or of the first layers, or torchvision's.

    Only what can find objects has class names.

    Raises:
        WeightsError: it is of another network, or damaged.
    """
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        network = load_checkpoint(path)
    elif suffix == ".weights" or suffix[1:].isdigit():  # darknet53.conv.74
        return _darknet_source(path, settings)
    elif suffix in (".pth", ".pt"):
        return _torchvision_source(path, settings)
    else:
        raise WeightsError(f"{path}: weights must be a .weights, .pth or .safetensors file")
    return Source(network.state_dict(), network.class_names, str(path))


def _darknet_source(path: Path, settings: Settings) -> Source:
    with torch.device("meta"):  # the weights' own memory is used: nothing is allocated for tries that do not fit
        network = Darknet(read_cfg(settings.cfg)) if settings.cfg else find(settings.model).build()
    if not isinstance(network, Darknet):
        raise WeightsError(f"{path}: {settings.model} has torchvision's weights, not a .weights file")
    try:
        load_weights(network, path)
        return Source(_loaded(network), network.class_names, str(path), same_classes=bool(settings.cfg))
    except WeightsError as whole:
        # A file of the first layers, as `darknet partial` makes them: it must end where a layer ends.
        for end in range(len(network.layers), 0, -1):
            if not network.layers[end - 1].darknet_tensors():  # type: ignore[operator]
                continue
            with torch.device("meta"):
                first = Darknet(network.sections[: 1 + end])
            try:
                load_weights(first, path)
                return Source(_loaded(first), (), f"{path} ({end} layers)")
            except WeightsError:
                continue
        raise whole from None


def _loaded(network: Darknet) -> dict[str, Tensor]:
    """All but the numbers of layers with dontload=1, which a file does not have."""
    return {name: tensor for name, tensor in network.state_dict().items() if not tensor.is_meta}


def _torchvision_source(path: Path, settings: Settings) -> Source:
    """A detector's checkpoint, or a ResNet's or VGG-16's of ImageNet."""
    if settings.cfg or not settings.model.startswith(("ssd", "retinanet")):
        raise WeightsError(f"{path}: {settings.cfg or settings.model} has Darknet's weights, not a {path.suffix} file")
    state = read_state_dict(path)
    if "conv1.weight" in state:
        return Source({f"backbone.body.{name}": tensor for name, tensor in state.items()}, (), str(path))
    if "features.0.weight" in state:
        return Source(dict(_vgg_names(state)), (), str(path))
    network = find(settings.model).build()
    load_torchvision(network, path)
    return Source(network.state_dict(), network.class_names, str(path))


def _vgg_names(state: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    """VGG's convolutions under SSD's names: the first ten stay, the three of the fifth stage are in `extra`."""
    fifth = {"24": "1", "26": "3", "28": "5"}
    found = []
    for name, tensor in state.items():
        group, _, rest = name.partition(".")
        number, _, kind = rest.partition(".")
        if group == "features":
            place = f"extra.0.{fifth[number]}" if number in fifth else f"features.{number}"
            found.append((f"backbone.{place}.{kind}", tensor))
    return found


def take(network: DetectionModel, source: Source, backbone: str | None = None) -> str:
    """Fills a network as far as the numbers fit. Of the head, what says where something is comes along; what says
    which class it is does so for classes of the same name, and starts at 0 for the others.

    Args:
        network: which is filled.
        source: where from.
        backbone: name of the model, to take its backbone only.

    Returns:
        A sentence about what was taken.

    Raises:
        WeightsError: hardly anything fits.
    """
    heads = _head_rows(network, source) if source.class_names and not source.same_classes else {}
    offered = {n: t for n, t in source.tensors.items() if backbone is None or _in_backbone(backbone, n)}
    state, taken, partly = network.state_dict(), 0, 0
    with torch.no_grad():
        for name, tensor in state.items():
            given = offered.get(name)
            if given is None:
                continue
            if name in heads and given.shape[1:] == tensor.shape[1:]:
                rows, blank = heads[name]
                if len(rows) == len(tensor) and int(rows.max()) < len(given):
                    known = (rows >= 0).view(-1, *[1] * (tensor.dim() - 1))
                    unknown = tensor if blank is None else torch.full_like(tensor, blank)
                    tensor.copy_(torch.where(known, given[rows.clamp(min=0)], unknown))
                    partly += 1
            elif given.shape == tensor.shape:
                tensor.copy_(given)
                taken += 1
    if 2 * (taken + partly) < len(offered) or not taken:
        raise WeightsError(
            f"{source.name}: only {taken} of its {len(offered)} tensors fit the network: is it of another model?"
        )
    kept = f", the head in part ({partly} tensors)" if partly else ""
    return f"starts with {taken} of {len(state)} tensors of {source.name}{kept}"


def _in_backbone(model: str, name: str) -> bool:
    if model.startswith("retinanet"):
        return name.startswith("backbone.body.")
    if model.startswith("ssd"):
        return name.startswith(("backbone.features.", "backbone.extra.0."))
    if model not in _BACKBONES:
        raise WeightsError(f"train: backbone_only is for the models of pydet, not for {model!r}")
    return int(name.split(".")[1]) < _BACKBONES[model]


def _head_rows(network: DetectionModel, source: Source) -> dict[str, tuple[Tensor, float | None]]:
    """For the tensors whose rows depend on the classes: which row of the source each row is, -1 for none, and what
    those begin with (None: with the random numbers that they have)."""
    classes = places_of(network.class_names, source.class_names)
    old = len(source.class_names)
    found: dict[str, tuple[Tensor, float | None]] = {}

    def add(prefix: str, rows: list[int], blank: float | None) -> None:
        for kind in ("weight", "bias"):
            found[f"{prefix}.{kind}"] = torch.tensor(rows), blank

    if isinstance(network, Darknet):
        for head in network.heads:
            producer = f"layers.{head.sources[0]}"
            if isinstance(head, Grid):
                cells = head.side**2
                others = range(cells * old, cells * old + cells * head.num * 5)
                rows = [cell * old + c if c >= 0 else -1 for cell in range(cells) for c in classes]
                add(f"{producer}.linear", [*rows, *others], 0.0)
            else:
                box = list(range(5))
                each = [[*box, *(5 + c if c >= 0 else -1 for c in classes)] for _ in range(len(head.anchors))]  # type: ignore[arg-type]
                add(f"{producer}.conv", _by_anchor(each, 5 + old), 0.0)
    elif isinstance(network, SSD):
        for level, conv in enumerate(network.head.classification_head.module_list):
            anchors = conv.out_channels // len(network.class_names)  # type: ignore[operator]
            rows = _by_anchor([classes] * anchors, old)
            add(f"head.classification_head.module_list.{level}", rows, 0.0)
    elif isinstance(network, RetinaNet):
        # Its own first numbers say that nearly everything is background, which is where focal loss must start.
        add("head.classification_head.cls_logits", _by_anchor([classes] * ANCHORS_A_CELL, old), None)
    return found


def _by_anchor(each: Sequence[Sequence[int]], stride: int) -> list[int]:
    return [anchor * stride + row if row >= 0 else -1 for anchor, rows in enumerate(each) for row in rows]
