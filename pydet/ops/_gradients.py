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
from pydet.ops import _autograd, _backend

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

    _autograd.register(name, gradient, setup_context)


def register_second(backward: str, name: str = "") -> None:
    """Gives a backward operator its own gradient. `name`: the operator that it serves, where it is not told."""
    names = _argument_names(backward)[3:]

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.options = dict(zip(names, inputs[3:], strict=True))
        ctx.shapes = [gradient.shape for gradient in output]
        ctx.save_for_backward(*inputs[:3])

    def gradient(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        op = ctx.options.get("op", name)
        options = {option: ctx.options[option] for option in _argument_names(op)[2:]}
        function = functools.partial(getattr(reference, op), **options)
        return *of_gradient(function, ctx.saved_tensors, grads, ctx.shapes), *(None,) * len(names)

    _autograd.register(backward, gradient, setup_context)


@functools.cache
def _argument_names(name: str) -> tuple[str, ...]:
    return tuple(argument.name for argument in getattr(torch.ops.pydet, name).default._schema.arguments)


def has_kernel(backward: str, name: str, tensor: Tensor) -> bool:
    """Whether operator `backward` serves the gradient of `name` on the tensor's device."""
    if _backend.backend_of(name)[0] == "reference":
        return False
    return tensor.device.type != "cuda" or torch._C._dispatch_has_kernel_for_dispatch_key(f"pydet::{backward}", "CUDA")


def of_reference(function: Callable[..., Any], tensors: Sequence[Tensor], grad: Any) -> tuple[Tensor, ...]:
    """Gradients of function(*tensors) with respect to each of the tensors, zero for integer ones; differentiable."""
    floating = [i for i, t in enumerate(tensors) if t.is_floating_point()]

    def of_floating(*some: Tensor) -> Any:
        given = dict(zip(floating, some, strict=True))
        return function(*(given.get(i, t) for i, t in enumerate(tensors)))

    # Not torch.autograd.grad of detached leaves: their gradients have none, and torch.func allows no new leaves.
    result, pull = torch.func.vjp(of_floating, *(tensors[i] for i in floating))[:2]
    found = dict(zip(floating, pull(_of_dtype(grad, result)), strict=True))
    return tuple(found[i] if i in found else torch.zeros_like(t) for i, t in enumerate(tensors))


def of_gradient(
    function: Callable[..., Any],
    saved: Sequence[Tensor],
    grads: Sequence[Tensor],
    shapes: Sequence[torch.Size] | None = None,
) -> tuple[Tensor, ...]:
    """The gradient of a backward operator (gradient, *tensors) -> gradients of function(*tensors), of these shapes
    where the tensors are of fewer dimensions.
    """

    def backward(gradient: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        if shapes is not None:
            tensors = tuple(t.expand(shape) for t, shape in zip(tensors, shapes, strict=True))
        return of_reference(function, tensors, gradient)

    return of_reference(backward, saved, tuple(grads))


def _of_dtype(grads: Any, results: Any) -> Any:
    if isinstance(results, Tensor):
        return grads.to(results.dtype)
    return tuple(g.to(r.dtype) for g, r in zip(grads, results, strict=True))
