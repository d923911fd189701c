"""The detectors. `load` gives one that is ready for pictures; `MODELS` lists the definitions by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pydet.models.checkpoint import load_checkpoint, save_checkpoint
from pydet.models.darknet import CfgError, Darknet, Section, WeightsError, load_weights, read_cfg, save_weights
from pydet.models.yolov3 import yolov3, yolov3_spp, yolov3_tiny

__all__ = [
    "MODELS",
    "CfgError",
    "Darknet",
    "WeightsError",
    "coco_names",
    "load",
    "load_checkpoint",
    "load_weights",
    "read_cfg",
    "save_checkpoint",
    "save_weights",
    "yolov3",
    "yolov3_spp",
    "yolov3_tiny",
]

ASSETS = Path(__file__).parent.parent / "assets"


@dataclass(frozen=True)
class Definition:
    """A published network: its sections, and where its weights are."""

    sections: Callable[..., list[Section]]
    weights_file: str
    weights_bytes: int

    @property
    def page(self) -> str:
        return "https://pjreddie.com/darknet/yolo/"


MODELS = {
    "yolov3": Definition(yolov3, "yolov3.weights", 248_007_048),
    "yolov3-spp": Definition(yolov3_spp, "yolov3-spp.weights", 252_209_544),
    "yolov3-tiny": Definition(yolov3_tiny, "yolov3-tiny.weights", 35_434_956),
}


def load(
    model: str = "yolov3-tiny",
    weights: str | os.PathLike[str] | None = None,
    cfg: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    image_size: int | tuple[int, int] | None = None,
    class_names: Sequence[str] | str | os.PathLike[str] | None = None,
    batch_norm: str = "cuda",
    fuse: bool = True,
) -> Darknet:
    """A network with its weights, in evaluation mode.

    Args:
        model: One of `MODELS`. A `cfg`, or a checkpoint as `weights`, says itself what network it is.
        weights: A Darknet `.weights` file or a `.safetensors` checkpoint; None for those that come with pydet.
        cfg: A Darknet cfg: other classes, anchors, masks, sizes.
        image_size: The side of a square, or (height, width), that pictures are letterboxed to.
        class_names: The names, or a file with one on each line. None: the checkpoint's, or COCO's for 80 classes, or
            numbers.
        batch_norm: "cuda", or "cpu" for a network that was trained with Darknet's CPU build.
        fuse: Fold batch normalisation for speed; such a network can neither be trained nor saved.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    names = _read_names(class_names)
    if cfg is not None and weights is None:
        raise ValueError(f"load: cfg={os.fspath(cfg)!r} needs weights=...: a .weights or .safetensors file")
    if weights is None:
        weights = _embedded(model)
    suffix = Path(weights).suffix.lower()
    if suffix == ".safetensors":
        network = load_checkpoint(weights, None if cfg is None else read_cfg(cfg), size, names, batch_norm)
    elif suffix == ".weights":
        sections = read_cfg(cfg) if cfg is not None else _definition(model, names)
        with torch.device("meta"):  # the weights' own memory is used: nothing is allocated for a file that does not fit
            network = Darknet(sections, size, names, batch_norm)
        load_weights(network, weights)
        _check_complete(network, weights)
    else:
        raise ValueError(f"load: weights must be a .weights or .safetensors file, got {os.fspath(weights)!r}")
    if names is None and network.num_classes == 80 and network.class_names[0] == "class 0":
        network.class_names = coco_names()
    network.eval().requires_grad_(False)
    return (network.fuse() if fuse else network).to(device)


def coco_names() -> list[str]:
    """The 80 classes of COCO, in Darknet's order and words."""
    return (ASSETS / "coco.names").read_text(encoding="utf-8").split("\n")[:80]


def _find(model: str) -> Definition:
    if model not in MODELS:
        raise ValueError(f"load: unknown model {model!r}; known ones are {', '.join(sorted(MODELS))}")
    return MODELS[model]


def _definition(model: str, names: Sequence[str] | None) -> list[Section]:
    definition = _find(model)
    return definition.sections() if names is None else definition.sections(num_classes=len(names))


def _embedded(model: str) -> Path:
    """Path of the checkpoint that comes with pydet; an error that says where to get the weights of others."""
    definition = _find(model)
    path = ASSETS / f"{model}.safetensors"
    if not path.exists():
        raise ValueError(
            f"load: the weights of {model} do not come with pydet. Their author offers {definition.weights_file} "
            f"({definition.weights_bytes:,} bytes) at {definition.page}; download it and pass "
            f"weights='{definition.weights_file}' (on the command line: --weights {definition.weights_file})"
        )
    return path


def _read_names(names: Sequence[str] | str | os.PathLike[str] | None) -> list[str] | None:
    if names is None:
        return None
    if isinstance(names, (str, os.PathLike)):
        try:
            lines = Path(names).read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{os.fspath(names)}: not a text file of class names: {error}") from error
        return [line.strip() for line in lines if line.strip()]
    return list(names)


def _check_complete(network: Darknet, weights: str | os.PathLike[str]) -> None:
    for name, tensor in network.state_dict().items():
        if tensor.is_meta:
            raise WeightsError(f"{os.fspath(weights)}: {name} is not in it: its layer has dontload=1 in the cfg")
