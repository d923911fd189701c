"""Autograd for losses whose forward writes the gradient in the same pass over the logits, where somebody wants it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pydet import reference
from pydet.ops import _autograd, _gradients
from pydet.ops._backend import reference_of


def _function(name: str) -> Callable[..., Tensor]:
    """loss = op(inputs, ...); backward multiplies the gradient that forward wrote, once.

    It is multiplied in place, since no second copy of it fits into the caches: a second backward through a kept graph
    computes it again, from the inputs. So do half precision, where it must not be rounded before it is multiplied (loss
    scaling of mixed precision), a backward that is itself differentiated, and torch.func's transforms, the next of
    which would find no gradient of what forward wrote.
    """

    def forward(ctx: Any, inputs: Tensor, targets: Tensor, weight: Tensor | None, *options: Any) -> Tensor:
        ctx.options, ctx.gradient = options, None
        ctx.save_for_backward(inputs, targets, weight)
        arguments = _arguments(inputs, targets, weight, options)
        with _autograd.below():
            if inputs.dtype in (torch.float16, torch.bfloat16) or torch._C._are_functorch_transforms_active():
                return getattr(torch.ops.pydet, name)(*arguments)
            loss, ctx.gradient = getattr(torch.ops.pydet, f"_{name}_with_gradient")(*arguments)
        return loss

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, targets, weight = ctx.saved_tensors  # once: torch.utils.checkpoint gives them only once
        none = (None,) * len(ctx.options)
        arguments = _arguments(inputs, targets, weight, ctx.options)
        gradient, ctx.gradient = ctx.gradient, None
        others: list[Tensor | None] = [None, None]
        if any(ctx.needs_input_grad[1:3]):  # soft labels or weights: rare, left to PyTorch
            others = of_others(ctx, inputs, (targets, weight), grad)
        if not ctx.needs_input_grad[0]:
            return None, *others, *none
        if gradient is None or torch.is_grad_enabled():
            return getattr(torch.ops.pydet, f"_{name}_backward")(grad, *arguments), *others, *none
        factor = grad[..., None] if 0 < grad.dim() < gradient.dim() else grad
        if type(gradient) is not Tensor or _is_batch(grad):
            # Out of place: what was traced may run twice, and a batch of gradients does not fit into one.
            gradient = gradient * factor
        elif not _is_one(grad):
            gradient.mul_(factor)
        return gradient, *others, *none

    def of_others(ctx: Any, inputs: Tensor, others: tuple[Tensor, Tensor | None], grad: Tensor) -> list[Tensor | None]:
        needed = ctx.needs_input_grad[1:3]
        leaves = [t for t, n in zip(others, needed, strict=True) if t is not None and n]

        def loss(*wanted: Tensor) -> Tensor:
            given = iter(wanted)
            targets = next(given) if needed[0] else others[0]
            weight = next(given) if needed[1] else others[1]
            return getattr(reference, name)(*_arguments(inputs, targets, weight, ctx.options))

        found = iter(_gradients.of_reference(loss, leaves, grad))
        return [next(found) if n else None for n in needed]

    return _autograd.function(name, forward, backward)


def _is_batch(grad: Tensor) -> bool:
    """Whether it is several, of torch.func.vmap or of torch.autograd.grad(is_grads_batched=True)."""
    return torch._C._functorch.is_batchedtensor(grad) or torch._C._functorch.is_legacy_batchedtensor(grad)


def _is_one(grad: Tensor) -> bool:
    """Whether it is 1 throughout, as of loss.backward() or loss.sum().backward(). A GPU is not asked: it would wait."""
    single = grad.device.type == "cpu" and grad.numel() > 0 and not any(grad.stride())
    return single and grad.as_strided((), ()).item() == 1


def _arguments(inputs: Tensor, targets: Tensor, weight: Tensor | None, options: tuple[Any, ...]) -> tuple[Any, ...]:
    """In the order of the schemas: `weight`, where there is one, stands before the reduction."""
    return inputs, targets, *(option if option is not _WEIGHT else weight for option in options)


_WEIGHT = object()
"""Stands for the weight among the options, so that the tensor itself is saved as one."""


def register(name: str, defaults: tuple[Any, ...], weight_at: int | None = None) -> None:
    """Gives `pydet::<name>` its gradient. `defaults` are those of the options behind inputs and targets."""
    apply = _function(name)

    def differentiable(inputs: Tensor, targets: Tensor, *options: Any) -> Tensor:
        options = options + defaults[len(options) :]  # the dispatcher leaves out what equals the defaults
        if (plain := reference_of(name, inputs.device.type)) is not None:
            return plain(inputs, targets, *options)  # PyTorch differentiates it
        weight = None if weight_at is None else options[weight_at]
        if weight_at is not None:
            options = (*options[:weight_at], _WEIGHT, *options[weight_at + 1 :])
        return apply(inputs, targets, weight, *options)

    _autograd.register_kernel(name, differentiable)
    _autograd.register(f"_{name}_backward", _double_backward(name), _save_all)


def _save_all(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.places = [i for i, value in enumerate(inputs) if isinstance(value, Tensor)]
    ctx.values = [None if isinstance(value, Tensor) else value for value in inputs]
    ctx.save_for_backward(*(inputs[i] for i in ctx.places))


def _double_backward(name: str) -> Callable[..., Any]:
    """The gradient of the gradient, by PyTorch from the reference."""

    def double_backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        def backward(*tensors: Tensor) -> Tensor:
            values = list(ctx.values)
            for i, tensor in zip(ctx.places, tensors, strict=True):
                values[i] = tensor
            grad, inputs, *others = values
            return _gradients.of_reference(lambda x: getattr(reference, name)(x, *others), [inputs], grad)[0]

        found = dict(zip(ctx.places, _gradients.of_reference(backward, ctx.saved_tensors, upstream), strict=True))
        return tuple(found[i] if needed else None for i, needed in enumerate(ctx.needs_input_grad))

    return double_backward
