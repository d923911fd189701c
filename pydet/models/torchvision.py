"""torchvision's checkpoints of SSD and RetinaNet, read without torchvision and without running what is in them."""

from __future__ import annotations

import os
import re
import warnings
from pickle import UnpicklingError

import torch
from torch import Tensor

from pydet.files import check_readable
from pydet.models.darknet.weights import WeightsError, check_numbers
from pydet.models.detection import DetectionModel

# The published RetinaNet was saved before torchvision put a module around each convolution.
_OLD_PYRAMID = re.compile(r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)")
WRAPPER = "module."  # torch's DataParallel and DistributedDataParallel
_OLD_SUBNET = re.compile(r"(head\.\w+\.conv)\.([0246])\.(weight|bias)")


def load_torchvision(network: DetectionModel, path: str | os.PathLike[str]) -> None:
    """Fills an SSD or RetinaNet from a state dict of torchvision (`.pth`).

    Raises:
        WeightsError: it is no such file, or one of another network; nothing is changed then.
    """
    state = read_state_dict(path)
    tensors = _renamed(state)
    check_tensors(path, tensors, network.state_dict(), "the model")
    network.load_state_dict(tensors, strict=False)


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The names and tensors of a `.pth` file; nothing in it is ever run.

    Raises:
        WeightsError: there is something else in it.
    """
    check_readable(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the version of a pickle that is refused below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what is damaged may raise anything there
        raise WeightsError(f"{os.fspath(path)}: {_reason(error)}") from None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise WeightsError(f"{os.fspath(path)}: must be a state dict, names and tensors, as torchvision publishes")
    # A network that was trained with several GPUs may have been saved with what its copies were kept together by.
    wrapped = all(str(name).startswith(WRAPPER) for name in state)
    return {str(name).removeprefix(WRAPPER) if wrapped else str(name): tensor for name, tensor in state.items()}


def _reason(error: Exception) -> str:
    """Why torch refuses a file. Its own words advise to let it run the code that it found."""
    code = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, UnpicklingError) else None
    if code is not None:
        return f"not a checkpoint of tensors only: to load it would run {code[1]}, which was not done"
    words = str(error).rpartition("WeightsUnpickler error: ")[2] or type(error).__name__
    sentence = re.split(r"\.?\s*\n|\.\s", words.strip())[0]
    return f"not a checkpoint of PyTorch, or a damaged one: {sentence}"


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    if not any(_OLD_PYRAMID.fullmatch(name) for name in state):
        return state
    tensors = {}
    for name, tensor in state.items():
        new = _OLD_PYRAMID.sub(r"\1.0.\2", name)
        if match := _OLD_SUBNET.fullmatch(name):  # convolutions and ReLUs in turn became one module each
            new = f"{match[1]}.{int(match[2]) // 2}.0.{match[3]}"
        tensors[new] = tensor
    return tensors


def check_tensors(
    path: str | os.PathLike[str], tensors: dict[str, Tensor], wanted: dict[str, Tensor], network: str
) -> None:
    """Raises WeightsError for the first tensor that is missing, left over, of another shape or not of good numbers."""
    # How many batches a batch normalisation has seen is for training only; frozen ones do not count.
    counter = "num_batches_tracked"
    for name in wanted:
        if name not in tensors and not name.endswith(counter):
            raise WeightsError(f"{os.fspath(path)}: {name} is missing; {network} is for another network")
    for name, tensor in tensors.items():
        counts = name.endswith(counter)
        if name not in wanted:
            if counts:
                continue
            raise WeightsError(f"{os.fspath(path)}: {name} does not belong to the network of {network}")
        if tensor.is_nested:  # which has no shape
            raise WeightsError(f"{os.fspath(path)}: {name} must be dense and of floating point, got a nested tensor")
        if tensor.shape != wanted[name].shape:
            needed = list(wanted[name].shape)
            raise WeightsError(f"{os.fspath(path)}: {name} has shape {list(tensor.shape)}, {network} needs {needed}")
        if tensor.layout != torch.strided or tensor.is_meta or not (tensor.is_floating_point() or counts):
            kind = "no numbers" if tensor.is_meta else f"{tensor.layout} {tensor.dtype}"
            raise WeightsError(f"{os.fspath(path)}: {name} must be dense and of floating point, got {kind}")
        if tensor.is_floating_point():
            check_numbers(path, name, tensor)
