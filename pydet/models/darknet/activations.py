"""Darknet's activations by the names that a cfg calls them.

May work in place: each is applied to a tensor that its layer has just made. None is a lambda, which cannot be pickled.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from pydet.models.darknet.cfg import Section
from pydet.models.packed import SLOPES


def _linear(x: Tensor) -> Tensor:
    return x


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu_(x, SLOPES["leaky"])


def _ramp(x: Tensor) -> Tensor:
    return F.relu(x) + 0.1 * x


def _selu(x: Tensor) -> Tensor:
    return 1.0507 * F.elu(x, 1.6732)  # fewer digits than torch's


def _relie(x: Tensor) -> Tensor:
    return F.leaky_relu_(x, SLOPES["relie"])


def _loggy(x: Tensor) -> Tensor:
    return 2 * torch.sigmoid(x) - 1


def _plse(x: Tensor) -> Tensor:
    return (0.125 * x + 0.5).clamp(0, 1) + 0.01 * (x - x.clamp(-4, 4))


def _hardtan(x: Tensor) -> Tensor:
    return F.hardtanh_(x)


def _lhtan(x: Tensor) -> Tensor:
    inside = x.clamp(0, 1)
    return inside + 0.001 * (x - inside)


def _stair(x: Tensor) -> Tensor:
    floor = x.floor()
    return (x / 2).floor() + (x - floor) * (floor % 2)  # level, then a slope, by turns


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": _linear,
    "leaky": _leaky,
    "logistic": torch.sigmoid_,
    "relu": F.relu_,
    "elu": F.elu_,
    "hardtan": _hardtan,
    "lhtan": _lhtan,
    "loggy": _loggy,
    "plse": _plse,
    "ramp": _ramp,
    "relie": _relie,
    "selu": _selu,
    "stair": _stair,
    "tanh": torch.tanh_,
}


def activation_of(section: Section, default: str) -> tuple[str, Callable[[Tensor], Tensor]]:
    """The name and the function."""
    name = section.text("activation", default)
    if name not in ACTIVATIONS:
        raise section.error(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name[:40]!r}")
    return name, ACTIVATIONS[name]
