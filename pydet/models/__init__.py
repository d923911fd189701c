"""The detectors. `load` gives one that is ready for pictures; `MODELS` lists the definitions by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from pydet.files import is_there
from pydet.models.checkpoint import load_checkpoint, save_checkpoint
from pydet.models.darknet import CfgError, ClassNamesError, Darknet, WeightsError, load_weights, read_cfg, save_weights
from pydet.models.detection import DetectionModel
from pydet.models.precision import dtype_of, round_weights
from pydet.models.registry import (
    ASSETS,
    MODELS,
    DarknetDefinition,
    Definition,
    TorchvisionDefinition,
    find,
    like,
    read_lines,
)
from pydet.models.retinanet import RetinaNet
from pydet.models.ssd import SSD
from pydet.models.torchvision import load_torchvision
from pydet.models.yolov3 import yolov3, yolov3_spp, yolov3_tiny

__all__ = [
    "MODELS",
    "SSD",
    "CfgError",
    "Darknet",
    "Definition",
    "DetectionModel",
    "RetinaNet",
    "WeightsError",
    "coco_names",
    "load",
    "load_checkpoint",
    "load_torchvision",
    "load_weights",
    "read_cfg",
    "save_checkpoint",
    "save_weights",
    "yolov3",
    "yolov3_spp",
    "yolov3_tiny",
]


DEFAULT = "yolov3-tiny"  # whose weights come with pydet


def load(
    model: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    cfg: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    image_size: int | tuple[int, int] | None = None,
    class_names: Sequence[str] | str | os.PathLike[str] | None = None,
    batch_norm: str = "cuda",
    fuse: bool = True,
    precision: str = "f32",
) -> DetectionModel:
    """A network with its weights, in evaluation mode.

    Args:
        model: One of `MODELS`. None: YOLOv3-tiny, or whatever the `cfg`, or a checkpoint as `weights`, says it is for.
        weights: A Darknet `.weights` file, torchvision's `.pth` of SSD or RetinaNet, or a `.safetensors` checkpoint;
            None for those that come with pydet.
        cfg: A Darknet cfg: other classes, anchors, masks, sizes.
        image_size: The side of a square, or (height, width), that pictures are brought to; None for the published one.
        class_names: The names, or a file with one on each line. None: the checkpoint's, or COCO's, or numbers.
        batch_norm: "cuda", or "cpu" for a network that was trained with Darknet's CPU build.
        fuse: Fold batch normalisation for speed; such a network can neither be trained nor saved.
        precision: What convolutions compute in: "f32", "bf16" or "fp16"; boxes are float32 always. Half is faster
            where the device has instructions for it, and an error where it has none. "auto": bf16 on a CPU that has
            it, for those official weights whose AP has been measured to stay within .002 (YOLOv3-tiny's), else f32.
            What it does to other weights is to be measured: `pydet evaluate`.

    Raises:
        ValueError: A model, precision or file ending that there is not, weights that do not come with pydet, a size
            that the network cannot take (CfgError), names that are not one for each class (ClassNamesError), or
            weights that are damaged or of another network (WeightsError).
        OSError: A file is not there or cannot be read.
    """
    named, model = model, find(DEFAULT if model is None else model).name
    own = cfg is not None or (weights is not None and Path(weights).suffix.lower() != ".weights")
    dtype = dtype_of(precision, device, None if own else model)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if size is not None and not (
        isinstance(size, (tuple, list)) and len(size) == 2 and all(isinstance(n, int) for n in size)
    ):
        raise ValueError(f"load: image_size must be a number of pixels or (height, width), got {image_size!r}")
    names = _read_names(class_names)
    if cfg is not None and weights is None:
        raise ValueError(f"load: cfg={os.fspath(cfg)!r} needs weights=...: a .weights or .safetensors file")
    if weights is None:
        weights = _embedded(model)
    _check_official(Path(weights))
    try:
        network = _network(model, weights, cfg, size, names, batch_norm)
        if own and named is not None and named not in like(network):
            what = " or ".join(like(network)) or "a network that has no name"
            raise WeightsError(f"{os.fspath(weights if cfg is None else cfg)}: for {what}, not for {named}")
    except ClassNamesError as error:
        source = f"{os.fspath(class_names)}: " if isinstance(class_names, (str, os.PathLike)) else ""
        raise ClassNamesError(f"{source}{error}") from None
    if names is None and isinstance(network, Darknet) and network.num_classes == 80:
        network.class_names = coco_names() if network.class_names[0] == "class 0" else network.class_names
    network.eval().requires_grad_(False)
    if fuse:
        network.fuse()
    round_weights(network, dtype)
    return network.to(device, dtype)


def coco_names() -> list[str]:
    """The 80 classes of COCO, in Darknet's order and words."""
    return read_lines(ASSETS / "coco.names")


def _network(
    model: str,
    weights: str | os.PathLike[str],
    cfg: str | os.PathLike[str] | None,
    size: tuple[int, int] | None,
    names: Sequence[str] | None,
    batch_norm: str,
) -> DetectionModel:
    """By the ending of the weights' file."""
    suffix = Path(weights).suffix.lower()
    if suffix == ".safetensors":
        return load_checkpoint(weights, None if cfg is None else read_cfg(cfg), size, names, batch_norm)
    if suffix == ".weights":
        return _from_darknet(model, weights, cfg, size, names, batch_norm)
    if suffix in (".pth", ".pt"):
        definition = find(model)
        if not isinstance(definition, TorchvisionDefinition) or cfg is not None:
            raise ValueError(f"load: {os.fspath(weights)}: {model} has Darknet's weights, not a {suffix} file")
        network = definition.build(names, size)
        load_torchvision(network, weights)
        return network
    raise ValueError(f"load: weights must be a .weights, .pth or .safetensors file, got {os.fspath(weights)!r}")


def _from_darknet(
    model: str,
    weights: str | os.PathLike[str],
    cfg: str | os.PathLike[str] | None,
    size: tuple[int, int] | None,
    names: Sequence[str] | None,
    batch_norm: str,
) -> Darknet:
    with torch.device("meta"):  # the weights' own memory is used: nothing is allocated for a file that does not fit
        if cfg is not None:
            network = Darknet(read_cfg(cfg), size, names, batch_norm)
        else:
            definition = find(model)
            if not isinstance(definition, DarknetDefinition):
                raise ValueError(f"load: {os.fspath(weights)}: {model} has torchvision's weights, not a .weights file")
            network = definition.build(names, size, batch_norm)
    load_weights(network, weights)
    for name, tensor in network.state_dict().items():
        if tensor.is_meta:
            raise WeightsError(f"{os.fspath(weights)}: {name} is not in it: its layer has dontload=1 in the cfg")
    return network


def _embedded(model: str) -> Path:
    """Path of the checkpoint that comes with pydet; an error that says where to get the weights of others."""
    weights = find(model).weights
    path = ASSETS / f"{model}.safetensors"
    if not path.exists():
        where = "; nobody is known to publish any" if weights is None else f". Their author offers {weights}"
        advice = (
            ""
            if weights is None
            else (f"; download it and pass weights={weights.file!r} (on the command line: --weights {weights.file})")
        )
        raise ValueError(f"load: the weights of {model} do not come with pydet{where}{advice}")
    return path


def _check_official(weights: Path) -> None:
    """Where an official file of that name is to be had, if it is not there."""
    offered = next((d.weights for d in MODELS.values() if d.weights and d.weights.file == weights.name), None)
    if offered is not None and not is_there(weights):
        raise FileNotFoundError(f"{weights}: no such file; its author offers {offered}")


def _read_names(names: Sequence[str] | str | os.PathLike[str] | None) -> list[str] | None:
    if isinstance(names, (str, os.PathLike)):
        lines = read_lines(Path(names))
        if not lines:  # a definition for no classes would say nothing of this file
            raise ClassNamesError(f"{os.fspath(names)}: no class names in it")
        return lines
    wrong = [name for name in names or () if not isinstance(name, str)]
    if wrong:
        raise ClassNamesError(f"load: class_names must be strings, got {wrong[0]!r}")
    return None if names is None else list(names)
