"""Autograd for losses whose forward writes the gradient in the same pass over the logits, where somebody wants it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pydet import reference
from pydet.ops._backend import reference_of

_libraries: list[torch.library.Library] = []


class _GradientInForward(torch.autograd.Function):
    """loss = op(inputs, ...); backward multiplies the gradient that forward wrote, once.

    It is multiplied in place, since no second copy of it fits into the caches: a second backward through a kept graph
    computes it again, from the inputs. So do half precision, where it must not be rounded before it is multiplied (loss
    scaling of mixed precision), and a backward that is itself differentiated.
    """

    @staticmethod
    def forward(ctx: Any, name: str, inputs: Tensor, targets: Tensor, weight: Tensor | None, *options: Any) -> Tensor:
        ctx.name, ctx.options, ctx.gradient = name, options, None
        ctx.save_for_backward(inputs, targets, weight)
        arguments = _arguments(inputs, targets, weight, options)
        with torch._C._AutoDispatchBelowAutograd():
            if inputs.dtype in (torch.float16, torch.bfloat16):
                return getattr(torch.ops.pydet, name)(*arguments)
            loss, ctx.gradient = getattr(torch.ops.pydet, f"_{name}_with_gradient")(*arguments)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, targets, weight = ctx.saved_tensors
        none = (None,) * len(ctx.options)
        gradient, ctx.gradient = ctx.gradient, None
        others: list[Tensor | None] = [None, None]
        if any(ctx.needs_input_grad[2:4]):  # soft labels or weights: rare, left to PyTorch
            others = _gradients_by_reference(ctx, grad)
        if not ctx.needs_input_grad[1]:
            return None, None, *others, *none
        if gradient is None or torch.is_grad_enabled():
            arguments = _arguments(inputs, targets, weight, ctx.options)
            gradient = getattr(torch.ops.pydet, f"_{ctx.name}_backward")(grad, *arguments)
        elif type(gradient) is not Tensor or not _is_one(grad):
            factor = grad[..., None] if 0 < grad.dim() < gradient.dim() else grad
            # Traced tensors are multiplied out of place: what was traced may run twice.
            gradient = gradient.mul_(factor) if type(gradient) is Tensor else gradient * factor
        return None, gradient, *others, *none


def _is_one(grad: Tensor) -> bool:
    """Whether it is 1 throughout, as of loss.backward() or loss.sum().backward(). A GPU is not asked: it would wait."""
    single = grad.device.type == "cpu" and grad.numel() > 0 and not any(grad.stride())
    return single and grad.as_strided((), ()).item() == 1


def _arguments(inputs: Tensor, targets: Tensor, weight: Tensor | None, options: tuple[Any, ...]) -> tuple[Any, ...]:
    """In the order of the schemas: `weight`, where there is one, stands before the reduction."""
    return inputs, targets, *(option if option is not _WEIGHT else weight for option in options)


_WEIGHT = object()
"""Stands for the weight among the options, so that the tensor itself is saved as one."""


def _gradients_by_reference(ctx: Any, grad: Tensor) -> list[Tensor | None]:
    inputs, targets, weight = ctx.saved_tensors
    with torch.enable_grad():
        wanted = [t if needed else None for t, needed in zip((targets, weight), ctx.needs_input_grad[2:4], strict=True)]
        loss = getattr(reference, ctx.name)(*_arguments(inputs, targets, weight, ctx.options))
        leaves = [t for t in wanted if t is not None]
        found = iter(torch.autograd.grad(loss, leaves, grad, create_graph=True))
    return [next(found) if t is not None else None for t in wanted]


def register(name: str, defaults: tuple[Any, ...], weight_at: int | None = None) -> None:
    """Gives `pydet::<name>` its gradient. `defaults` are those of the options behind inputs and targets."""
    library = torch.library.Library("pydet", "IMPL")
    _libraries.append(library)  # its registrations live as long as it does
    operator = getattr(torch.ops.pydet, name).default

    def autograd(keyset: Any, inputs: Tensor, targets: Tensor, *options: Any) -> Tensor:
        options = options + defaults[len(options) :]  # the dispatcher leaves out what equals the defaults
        weight = None if weight_at is None else options[weight_at]
        wanted = any(t is not None and t.requires_grad for t in (inputs, targets, weight))
        if not (wanted and torch.is_grad_enabled()):
            with torch._C._AutoDispatchBelowAutograd():
                return operator.redispatch(keyset & torch._C._after_autograd_keyset, inputs, targets, *options)
        if (plain := reference_of(name, inputs.device.type)) is not None:
            return plain(inputs, targets, *options)  # PyTorch differentiates it
        if weight_at is not None:
            options = (*options[:weight_at], _WEIGHT, *options[weight_at + 1 :])
        return _GradientInForward.apply(name, inputs, targets, weight, *options)

    library.impl(name, autograd, "Autograd", with_keyset=True)
    backward_name = f"pydet::_{name}_backward"
    torch.library.register_autograd(backward_name, _double_backward(name), setup_context=_save_all)


def _save_all(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.places = [i for i, value in enumerate(inputs) if isinstance(value, Tensor)]
    ctx.values = [None if isinstance(value, Tensor) else value for value in inputs]
    ctx.save_for_backward(*(inputs[i] for i in ctx.places))


def _double_backward(name: str) -> Callable[..., Any]:
    """The gradient of the gradient, by PyTorch from the reference."""

    def double_backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        values = list(ctx.values)
        for i, tensor in zip(ctx.places, ctx.saved_tensors, strict=True):
            values[i] = tensor.detach().requires_grad_(tensor.is_floating_point())
        grad, inputs = values[:2]
        with torch.enable_grad():
            loss = getattr(reference, name)(*values[1:])
            (gradient,) = torch.autograd.grad(loss, inputs, grad.to(loss.dtype), create_graph=True)
        leaves = [i for i in ctx.places if ctx.needs_input_grad[i]]
        found = torch.autograd.grad(gradient, [values[i] for i in leaves], upstream, allow_unused=True)
        return tuple(found[leaves.index(i)] if i in leaves else None for i in range(len(values)))

    return double_backward
