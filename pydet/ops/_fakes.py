"""Shapes and dtypes of the operators' results, which `torch.compile` and `torch.export` ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

F = TypeVar("F", bound=Callable[..., object])


def register_fake(name: str) -> Callable[[F], F]:
    """`torch.library.register_fake`, called from this file only, of tensors that are all on one device.

    torch looks for its caller among all modules that are loaded, which takes a millisecond for each file that calls it.
    And it runs a fake where any one tensor is on device "meta", whose results, on the device of the others, nobody
    would ever write.
    """

    def register(function: F) -> F:
        def on_one_device(*args: Any) -> object:
            places = {i: value.device for i, value in enumerate(args) if isinstance(value, Tensor)}
            if len(set(places.values())) > 1:
                _raise_devices(name.rpartition(":")[2], places)
            return function(*args)

        torch.library.register_fake(name, on_one_device)
        return function

    return register


def _raise_devices(op: str, places: dict[int, torch.device]) -> None:
    arguments = getattr(torch.ops.pydet, op).default._schema.arguments
    names = " and ".join(arguments[i].name for i in places)
    raise RuntimeError(f"{op}: {names} must be on one device, got {' and '.join(map(str, places.values()))}")
