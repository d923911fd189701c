"""What a network is made of, as a table: layers, shapes, numbers, operations."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pydet.info import aligned
from pydet.models.darknet import Darknet
from pydet.models.darknet.base import Layer
from pydet.models.darknet.connected import Local
from pydet.models.detection import DetectionModel
from pydet.models.registry import Definition

MULTIPLYING = (nn.Conv2d, nn.Linear, Local)


@dataclass(frozen=True)
class Row:
    """One layer at work.

    Attributes:
        shape: of its output for one picture.
        parameters: numbers that are stored with it, statistics of batch normalisation included.
        flops: multiplications and additions of its convolutions and matrix products.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    flops: int


def summary(definition: Definition) -> str:
    """The table of a definition at its published size; nothing is allocated for its weights."""
    network, rows = at_published_size(definition)
    height, width = definition.image_size
    table = [("layer", "kind", "output", "numbers", "MFLOP")]
    for row in rows:
        shape = " x ".join(map(str, row.shape))
        numbers, flops = (f"{n:,}" if n else "" for n in (row.parameters, round(row.flops / 1e6)))
        table.append((row.name, row.kind, shape, numbers, flops))
    trained = sum(p.numel() for p in network.parameters())
    stored = _stored(network)
    constants = f" ({stored:,} numbers with the constants of batch normalisation)" if stored > trained else ""
    total = (
        f"{definition.name}: {definition.paper}\n"
        f"input 3 x {height} x {width}, {len(network.class_names):,} labels, {trained:,} parameters{constants}, "
        f"{sum(row.flops for row in rows) / 1e9:,.2f} GFLOP (multiplications and additions) a picture"
    )
    return aligned(table) + "\n\n" + total


def at_published_size(definition: Definition) -> tuple[DetectionModel, list[Row]]:
    """The network of a definition and its layers at work; nothing is allocated for its weights."""
    with torch.device("meta"):
        network = definition.build().eval()
        return network, layers_of(network, torch.zeros(1, 3, *definition.image_size))


def layers_of(network: DetectionModel, x: Tensor) -> list[Row]:
    """A row for each layer of a Darknet, or for each module without modules of another network, as they come."""
    rows: list[Row] = []

    def note(name: str, module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            rows.append(_row(name, module, output))

    with contextlib.ExitStack() as hooks:
        for name, module in network.named_modules():
            if _is_layer(network, module):
                hooks.enter_context(module.register_forward_hook(functools.partial(note, name)))
        network.forward_heads(x)
    return rows


def _is_layer(network: DetectionModel, module: nn.Module) -> bool:
    if isinstance(network, Darknet):
        return isinstance(module, Layer)
    return not list(module.children()) and not isinstance(module, (nn.ReLU, nn.Identity))


def _row(name: str, module: nn.Module, output: Tensor) -> Row:
    kind = module.section.name if isinstance(module, Layer) else type(module).__name__
    flops = sum(_flops(part, output) for part in module.modules() if isinstance(part, MULTIPLYING))
    return Row(name, kind, tuple(output.shape[1:]), _stored(module), flops)


def _stored(module: nn.Module) -> int:
    return sum(t.numel() for key, t in module.state_dict().items() if not key.endswith("num_batches_tracked"))


def _flops(module: nn.Module, output: Tensor) -> int:
    weight = module.get_parameter("weight")
    if isinstance(module, nn.Conv2d):
        return 2 * output[0].numel() * weight[0].numel()
    return 2 * weight.numel()
