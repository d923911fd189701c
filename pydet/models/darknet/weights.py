"""Darknet's `.weights` files: a header and then nothing but float32 numbers, layer after layer."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from pydet.files import whole_file
from pydet.models.darknet.base import Layer
from pydet.models.darknet.network import Darknet

FUSED = "batch normalisation has been folded away, which cannot be undone; save before fuse(), or load with fuse=False"
Header = tuple[int, int, int, int]  # major, minor, revision, pictures seen in training


class WeightsError(ValueError):
    """Weights that cannot be read, do not fit the network, or cannot be written."""


def load_weights(network: Darknet, path: str | os.PathLike[str]) -> None:
    """Fills a network from a `.weights` file; its header is kept in `network.weights_header`.

    Darknet takes a file that is too short or too long without a word; here both are errors, raised before anything
    is changed. Layers with `dontload=1` have no numbers in the file.
    """
    if network.fused:
        raise WeightsError(f"{path}: a fused network has no batch normalisation to load; build it anew")
    with Path(path).open("rb") as file:
        header, header_bytes = _read_header(file, path)
        _check_size(network, path, os.fstat(file.fileno()).st_size, header_bytes)
        state = {}
        for index, layer in _stored_layers(network):
            for name, tensor in layer.darknet_tensors().items():
                numbers = np.fromfile(file, "<f4", tensor.numel()).astype(np.float32, copy=False)
                stored = torch.from_numpy(numbers)
                if name == "linear.weight" and _is_transposed(header):
                    stored = stored.view(tensor.shape[1], tensor.shape[0]).T.contiguous()
                state[f"layers.{index}.{name}"] = stored.view(tensor.shape)
                check_numbers(path, f"layer {index} [{layer.section.name}]: {name}", stored)
    # A network without memory of its own (device "meta") takes the tensors as they are.
    network.load_state_dict(state, strict=False, assign=any(tensor.is_meta for tensor in network.parameters()))
    network.weights_header = header


def check_numbers(path: str | os.PathLike[str], name: str, numbers: Tensor) -> None:
    """Raises WeightsError for NaN, infinity or a variance below 0: a network would find nothing, without a word."""
    if not numbers.numel():
        return
    # In the type that the network has: what float64 holds may be too large. torch compares none of 8 bits.
    low, high = (float(bound) for bound in numbers.float().aminmax())  # both are NaN where one number is
    if not math.isfinite(high - low):
        raise WeightsError(f"{os.fspath(path)}: {name} has numbers that are not finite, {low:g} to {high:g}")
    if name.endswith("running_var") and low < 0:
        raise WeightsError(f"{os.fspath(path)}: {name} has variances below 0, {low:g}")


def save_weights(network: Darknet, path: str | os.PathLike[str]) -> None:
    """Writes what `load_weights` reads: a file that was loaded comes out with the same bytes.

    It appears under its name only when it is complete.
    """
    if network.fused:
        raise WeightsError(f"{path}: {FUSED}")
    with whole_file(path, durable=True) as temporary, temporary.open("wb") as file:
        file.write(_header_bytes(network.weights_header))
        for _, layer in _stored_layers(network):
            for name, tensor in layer.darknet_tensors().items():
                turned = name == "linear.weight" and _is_transposed(network.weights_header)
                stored = tensor.detach().T if turned else tensor.detach()
                numbers = stored.cpu().float().contiguous().numpy().astype("<f4", copy=False)
                file.write(numbers.data)  # numpy's tofile says nothing when the disk is full


def _stored_layers(network: Darknet) -> Iterator[tuple[int, Layer]]:
    """The layers that have numbers in the file, with their indices."""
    for index, layer in enumerate(network.layers):
        assert isinstance(layer, Layer)
        if not layer.dontload:
            yield index, layer


def _is_transposed(header: Header) -> bool:
    """Whether connected layers are stored [inputs][outputs], as Darknet's first versions did."""
    return header[0] > 1000 or header[1] > 1000


def _has_64_bit_counter(major: int, minor: int) -> bool:
    return major * 10 + minor >= 2 and major < 1000 and minor < 1000


def _read_header(file: BinaryIO, path: str | os.PathLike[str]) -> tuple[Header, int]:
    """The header and its length: the last number has 8 bytes since version 0.2, 4 before."""
    start = file.read(12)
    if len(start) == 12:
        major, minor, revision = struct.unpack("<iii", start)
        layout = "<Q" if _has_64_bit_counter(major, minor) else "<i"
        rest = file.read(struct.calcsize(layout))
        if len(rest) == struct.calcsize(layout):
            return (major, minor, revision, *struct.unpack(layout, rest)), 12 + len(rest)
    raise WeightsError(f"{path}: not a Darknet weights file: it ends inside of the header of 16 or 20 bytes")


def _header_bytes(header: Header) -> bytes:
    return struct.pack("<iiiQ" if _has_64_bit_counter(*header[:2]) else "<iiii", *header)


def is_header(numbers: Sequence[object]) -> bool:
    """Whether a file can begin with these."""
    try:
        return len(_header_bytes(tuple(numbers))) > 0  # type: ignore[arg-type]
    except (TypeError, struct.error):
        return False


def _check_size(network: Darknet, path: str | os.PathLike[str], size: int, header_bytes: int) -> None:
    """Raises WeightsError unless the file holds exactly the numbers that the network takes."""
    available = (size - header_bytes) / 4
    taken, short, last = 0, "", "the header"
    for index, layer in _stored_layers(network):
        count = sum(tensor.numel() for tensor in layer.darknet_tensors().values())
        if not count:
            continue
        last = f"layer {index} [{layer.section.name}]"
        if not short and taken + count > available:
            short = f"{last} needs {count:,} numbers, {max(available - taken, 0):,.6g} are left"
        taken += count
    if taken == available:
        return
    problem = f"too short: {short}" if short else f"too long: {available - taken:,.6g} numbers are left after {last}"
    raise WeightsError(
        f"{path}: {problem}. The network takes {taken:,} numbers ({header_bytes + 4 * taken:,} bytes), the file has "
        f"{size:,} bytes: is it for another cfg, or incomplete?"
    )
