"""Checkpoints: safetensors files that say themselves what network they belong to. Nothing in them is ever run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pydet.files import check_readable, whole_file
from pydet.models.darknet.cfg import Section, format_cfg, parse_cfg
from pydet.models.darknet.network import Darknet
from pydet.models.darknet.weights import FUSED, WeightsError, is_header
from pydet.models.detection import DetectionModel
from pydet.models.registry import MODELS, Definition, TorchvisionDefinition
from pydet.models.torchvision import check_tensors
from pydet.wordtree import WordTree

# One entry that holds all of it as JSON: safetensors writes several in random order, and a file made twice from the
# same network is to have the same bytes.
METADATA_KEY = "pydet"
FORMAT = 1
MAX_OPTION = 10_000  # channels, or pixels of a side


def save_checkpoint(
    network: DetectionModel,
    path: str | os.PathLike[str],
    dtype: torch.dtype = torch.float32,
    sources: Mapping[str, str] | None = None,
) -> None:
    """Writes a network that has not been fused; the file appears under its name only when it is complete.

    Args:
        dtype: Of the convolutions' weights: torch.float32, or torch.float16 for half the size. Everything else, which
            is small and where rounding would be felt, stays float32.
        sources: What it was made from, such as {"yolov3-tiny.weights": "sha256:..."}, for the record.
    """
    if network.fused:
        raise WeightsError(f"{path}: {FUSED}")
    if dtype not in (torch.float16, torch.float32):
        raise ValueError(f"save_checkpoint: dtype must be torch.float16 or torch.float32, got {dtype}")
    tensors = {}
    for name, tensor in network.state_dict().items():
        kept = tensor.detach().cpu().to(dtype if tensor.dim() > 1 else torch.float32).contiguous()
        if not kept.isfinite().all() and tensor.isfinite().all():
            raise WeightsError(f"{path}: {name} has numbers that {dtype} cannot hold; save as torch.float32")
        tensors[name] = kept
    metadata: dict[str, Any] = {"format": FORMAT}
    metadata |= {"cfg": format_cfg(network.sections)} if isinstance(network, Darknet) else {"model": network.name}
    if network.options:
        metadata["options"] = dict(network.options)
    metadata["class_names"] = network.class_names
    if isinstance(network, Darknet):
        metadata["weights_header"] = network.weights_header
        if network.tree is not None:
            metadata["tree"] = network.tree.text()
    metadata["sources"] = dict(sources or {})
    with whole_file(path, durable=True) as temporary:
        temporary.write_bytes(save(tensors, metadata={METADATA_KEY: json.dumps(metadata, ensure_ascii=False)}))


def load_checkpoint(
    path: str | os.PathLike[str],
    sections: Sequence[Section] | None = None,
    image_size: tuple[int, int] | None = None,
    class_names: Sequence[str] | None = None,
    batch_norm: str = "cuda",
) -> DetectionModel:
    """The network of a checkpoint, in float32 on the CPU.

    Args:
        sections: Of another cfg for the same weights, such as one with other masks; None for the checkpoint's own.
        image_size, class_names, batch_norm: As for `Darknet`; None for the checkpoint's own.
    """
    metadata, tensors = _read(path)
    try:
        network = _network(path, metadata, sections, image_size, class_names, batch_norm)
    except ValueError as error:
        if class_names is not None or sections is not None or os.fspath(path) in str(error):
            raise
        raise WeightsError(f"{os.fspath(path)}: {error}") from None  # class names, say, that are not one for each class
    check_tensors(path, tensors, network.state_dict(), "the model" if "model" in metadata else "the cfg")
    network.load_state_dict({name: _restored(tensor) for name, tensor in tensors.items()}, assign=True)
    if isinstance(network, Darknet):
        network.weights_header = tuple(metadata["weights_header"])
    return network


def _network(
    path: str | os.PathLike[str],
    metadata: dict[str, Any],
    sections: Sequence[Section] | None,
    image_size: tuple[int, int] | None,
    class_names: Sequence[str] | None,
    batch_norm: str,
) -> DetectionModel:
    """Without memory for its numbers."""
    names = metadata["class_names"] if class_names is None else class_names
    tree = WordTree.parse(metadata["tree"], f"{path} (its tree)") if "tree" in metadata else None
    with torch.device("meta"):
        if "model" in metadata:
            return _build(path, metadata, names, image_size)
        if sections is not None:
            return Darknet(sections, image_size, class_names, batch_norm, tree)
        return Darknet(parse_cfg(metadata["cfg"], source=f"{path} (its cfg)"), image_size, names, batch_norm, tree)


def _build(
    path: str | os.PathLike[str], metadata: dict[str, Any], names: Sequence[str], image_size: tuple[int, int] | None
) -> DetectionModel:
    definition, options = _definition(path, metadata["model"]), metadata.get("options", {})
    if not options:
        return definition.build(names, image_size)
    if not isinstance(options, dict) or not all(isinstance(n, int) and 0 <= n <= MAX_OPTION for n in options.values()):
        raise WeightsError(f"{path}: options must be small numbers by name")
    if not isinstance(definition, TorchvisionDefinition):
        raise WeightsError(f"{path}: {definition.name} has no options, got {', '.join(options)}")
    try:
        return definition.build(names, image_size, **options)
    except (TypeError, RuntimeError) as error:
        raise WeightsError(f"{path}: options that {definition.name} does not have: {error}") from None


def _definition(path: str | os.PathLike[str], name: object) -> Definition:
    if name not in MODELS:
        raise WeightsError(f"{path}: for the model {str(name)[:40]!r}, which this version of pydet does not know")
    return MODELS[str(name)]


def _restored(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    check_readable(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except (SafetensorError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: not a safetensors file, or a damaged one: {error}") from error
    if not isinstance(metadata, dict) or not _says_its_network(metadata):
        raise WeightsError(f"{path}: a safetensors file, but not one of pydet: it does not say what network it is for")
    if metadata.get("format") != FORMAT:
        raise WeightsError(f"{path}: format {metadata.get('format')}; this version of pydet reads format {FORMAT}")
    return metadata, tensors


def _says_its_network(metadata: dict[str, Any]) -> bool:
    """Whether all that a network is made from is there and of its kind: a file may come from a stranger."""
    kinds: dict[str, type] = {"class_names": list}
    kinds |= {"model": str} if "model" in metadata else {"cfg": str, "weights_header": list}
    kinds |= {"tree": str} if "tree" in metadata else {}
    if any(not isinstance(metadata.get(key), kind) for key, kind in kinds.items()):
        return False
    named = all(isinstance(name, str) for name in metadata["class_names"])
    return named and ("model" in metadata or is_header(metadata["weights_header"]))
