"""torch.func.vmap of operators whose tensors may have any leading dimensions: the mapped one becomes the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def in_front(tensors: Sequence[Tensor], in_dims: Sequence[int | None], size: int) -> list[Tensor]:
    """Tensors whose first dimension is the mapped one; those without it are repeated, without a copy."""
    pairs = zip(tensors, in_dims, strict=False)  # in_dims may go on, for arguments that are no tensors
    return [t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0) for t, dim in pairs]


def register(name: str, tensors: int = 2, adapt: Callable[[list[Tensor]], list[Tensor]] = list) -> None:
    """Gives `pydet::<name>`, (tensors, options) -> one or more tensors with the same leading dimensions, its vmap rule.

    `adapt` makes tensors of one another's leading dimensions, where they may have different ones.
    """
    operator = getattr(torch.ops.pydet, name)

    def mapped(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        moved = adapt(in_front(args[:tensors], in_dims, info.batch_size))
        result = operator(*moved, *args[tensors:])
        return result, (0,) * len(result) if isinstance(result, tuple) else 0

    torch.library.register_vmap(f"pydet::{name}", mapped)


def shared_by_rows(tensors: list[Tensor]) -> list[Tensor]:
    """The last one has boxes [V, N, 4] for [V, ..., N, 4 * K] of the others: they are repeated for all of these."""
    *others, boxes = tensors
    missing = others[0].dim() - boxes.dim()
    boxes = boxes.reshape(boxes.shape[0], *(1,) * missing, *boxes.shape[1:])
    return [*others, boxes.expand(*others[0].shape[:-1], boxes.shape[-1])]


def register_loss(name: str) -> None:
    """The same for (tensor, tensor, options) -> a loss for each row, or reduced; a loss that is reduced by the operator
    would count the mapped dimension too.
    """
    operator = getattr(torch.ops.pydet, name)

    def mapped(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        options, reduction = _not_reduced(name, args)
        loss = operator(*in_front(args[:2], in_dims, info.batch_size), *options[2:])
        if reduction == "none":
            return loss, 0
        loss = loss.reshape(info.batch_size, -1)
        total = loss.sum(dim=1)
        return total / max(loss.shape[1], 1) if reduction == "mean" else total, 0

    torch.library.register_vmap(f"pydet::{name}", mapped)


def register_loss_backward(name: str) -> None:
    """The same for (gradient, tensor, tensor, options) -> gradients of both tensors."""
    operator = getattr(torch.ops.pydet, name)

    def mapped(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, tuple[int, int]]:
        options, reduction = _not_reduced(name, args)
        gradient, *tensors = in_front(args[:3], in_dims, info.batch_size)
        if reduction != "none":
            rows = tensors[0].shape[:-1]
            count = max(rows[1:].numel(), 1) if reduction == "mean" else 1
            gradient = (gradient.reshape(-1, *(1,) * (len(rows) - 1)) / count).expand(rows)
        return operator(gradient, *tensors, *options[3:]), (0, 0)

    torch.library.register_vmap(f"pydet::{name}", mapped)


def _not_reduced(name: str, args: tuple[Any, ...]) -> tuple[list[Any], str]:
    """All arguments, those that equal their default too, but reduction="none"; and the reduction that was asked for."""
    schema = getattr(torch.ops.pydet, name).default._schema.arguments
    filled = [*args, *(argument.default_value for argument in schema[len(args) :])]
    place = [argument.name for argument in schema].index("reduction")
    reduction, filled[place] = filled[place], "none"
    return filled, reduction
