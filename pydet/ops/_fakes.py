"""Shapes and dtypes of the operators' results, which `torch.compile` and `torch.export` ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

F = TypeVar("F", bound=Callable[..., object])


def register_fake(name: str) -> Callable[[F], F]:
    """`torch.library.register_fake`, called from this file only.

    torch looks for its caller among all modules that are loaded, which takes a millisecond for each file that calls it.
    """

    def register(function: F) -> F:
        torch.library.register_fake(name, function)
        return function

    return register
