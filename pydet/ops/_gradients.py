"""Gradients by way of the reference: where no kernel serves them, and for the gradient of a gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pydet.ops import _backend


def has_kernel(backward: str, name: str, tensor: Tensor) -> bool:
    """Whether operator `backward` serves the gradient of `name` on the tensor's device."""
    if _backend.backend_of(name)[0] == "reference":
        return False
    return tensor.device.type != "cuda" or torch._C._dispatch_has_kernel_for_dispatch_key(f"pydet::{backward}", "CUDA")


def of_reference(function: Callable[..., Tensor], boxes: Sequence[Tensor], gradient: Tensor) -> tuple[Tensor, ...]:
    """Gradients of function(*boxes) with respect to each of the boxes, zero for integer ones."""
    leaves = [b.detach().requires_grad_(b.is_floating_point()) for b in boxes]
    with torch.enable_grad():
        result = function(*leaves)
    found = iter(torch.autograd.grad(result, [b for b in leaves if b.requires_grad], gradient))
    return tuple(next(found) if b.requires_grad else torch.zeros_like(b) for b in leaves)


def of_gradient(
    function: Callable[..., Tensor], boxes: Sequence[Tensor], gradient: Tensor, grads: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """The gradient of a backward operator (gradient, *boxes) -> gradients of the boxes, as (gradient, *boxes)."""
    leaves = [t.detach().requires_grad_(t.is_floating_point()) for t in (gradient, *boxes)]
    with torch.enable_grad():
        wanted = [b for b in leaves[1:] if b.requires_grad]
        first = torch.autograd.grad(function(*leaves[1:]), wanted, leaves[0], create_graph=True)
        floating = [g for g, b in zip(grads, boxes, strict=True) if b.is_floating_point()]
        pairs: list[Any] = [(f, g.to(f.dtype)) for f, g in zip(first, floating, strict=True) if g is not None]
    if not pairs:
        return (None,) * len(leaves)
    outputs, weights = zip(*pairs, strict=True)
    inputs = [t for t in leaves if t.requires_grad]
    found = iter(torch.autograd.grad(outputs, inputs, weights, allow_unused=True))
    return tuple(next(found) if t.requires_grad else None for t in leaves)
