"""Autograd of operators on two tensors of boxes: by their compiled backward operator or, where there is none, and for
the gradient of a gradient, by way of the reference.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pydet import reference
from pydet.ops import _backend

_ABSENT = {"fmt": "xyxy", "eps": 0.0, "aligned": False}
"""What a backward operator that serves a family is told of an option that the member has not."""


def register(name: str, backward: str) -> None:
    """Gives `pydet::<name>`, (tensor, tensor, options) -> tensor, its gradient by operator `pydet::<backward>`.

    That is (gradient, tensor, tensor, op, options) -> gradients of both tensors, in the type of the arithmetic and not
    yet summed where a tensor was shared by leading dimensions of the other; `op` is there where it serves several
    operators.
    """
    names = _argument_names(name)[2:]

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.options = dict(zip(names, inputs[2:], strict=True))
        ctx.save_for_backward(*inputs[:2])

    def gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        if has_kernel(backward, name, tensors[0]):
            told = {"op": name, **_ABSENT, **ctx.options}
            options = (told[option] for option in _argument_names(backward)[3:])
            grads = getattr(torch.ops.pydet, backward)(grad, *tensors, *options)
        else:
            grads = of_reference(functools.partial(getattr(reference, name), **ctx.options), tensors, grad)
        needed = zip(grads, tensors, ctx.needs_input_grad, strict=False)
        return *(g.sum_to_size(t.shape).to(t.dtype) if n else None for g, t, n in needed), *(None,) * len(names)

    torch.library.register_autograd(f"pydet::{name}", gradient, setup_context=setup_context)


def register_second(backward: str, name: str = "") -> None:
    """Gives a backward operator its own gradient. `name`: the operator that it serves, where it is not told."""
    names = _argument_names(backward)[3:]

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.options = dict(zip(names, inputs[3:], strict=True))
        ctx.shapes = [gradient.shape for gradient in output]
        ctx.save_for_backward(*inputs[:3])

    def gradient(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        op = ctx.options.get("op", name)
        options = {option: ctx.options[option] for option in _argument_names(op)[2:]}
        function = functools.partial(getattr(reference, op), **options)
        return *_of_gradient(function, ctx.saved_tensors, ctx.shapes, grads), *(None,) * len(names)

    torch.library.register_autograd(f"pydet::{backward}", gradient, setup_context=setup_context)


@functools.cache
def _argument_names(name: str) -> tuple[str, ...]:
    return tuple(argument.name for argument in getattr(torch.ops.pydet, name).default._schema.arguments)


def has_kernel(backward: str, name: str, tensor: Tensor) -> bool:
    """Whether operator `backward` serves the gradient of `name` on the tensor's device."""
    if _backend.backend_of(name)[0] == "reference":
        return False
    return tensor.device.type != "cuda" or torch._C._dispatch_has_kernel_for_dispatch_key(f"pydet::{backward}", "CUDA")


def of_reference(function: Callable[..., Tensor], tensors: Sequence[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
    """Gradients of function(*tensors) with respect to each of the tensors, zero for integer ones."""
    leaves = [t.detach().requires_grad_(t.is_floating_point()) for t in tensors]
    with torch.enable_grad():
        result = function(*leaves)
    found = iter(torch.autograd.grad(result, [t for t in leaves if t.requires_grad], grad))
    return tuple(next(found) if t.requires_grad else torch.zeros_like(t) for t in leaves)


def _of_gradient(
    function: Callable[..., Tensor],
    saved: Sequence[Tensor],
    shapes: Sequence[torch.Size],
    grads: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    """The gradient of a backward operator (gradient, tensor, tensor) -> gradients of these shapes."""
    leaves = [t.detach().requires_grad_(t.is_floating_point()) for t in saved]
    with torch.enable_grad():
        tensors = [t.expand(shape) for t, shape in zip(leaves[1:], shapes, strict=True)]
        wanted = [t for t in tensors if t.requires_grad]
        result = function(*tensors)
        derived = torch.autograd.grad(result, wanted, leaves[0].to(result.dtype), create_graph=True)
        floating = [g for g, t in zip(grads, tensors, strict=True) if t.requires_grad]
        pairs: list[Any] = [(f, g.to(f.dtype)) for f, g in zip(derived, floating, strict=True) if g is not None]
    if not pairs:
        return (None,) * len(leaves)
    outputs, weights = zip(*pairs, strict=True)
    inputs = [t for t in leaves if t.requires_grad]
    found = iter(torch.autograd.grad(outputs, inputs, weights, allow_unused=True))
    return tuple(next(found) if t.requires_grad else None for t in leaves)
