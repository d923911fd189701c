from __future__ import annotations

import torch
from torch import Tensor

from pydet import _library  # noqa: F401  (defines torch.ops.pydet)
from pydet.ops import _autograd, _gradients
from pydet.ops._fakes import register_fake


def tree_softmax(logits: Tensor, parents: Tensor) -> Tensor:
    """Softmax inside each group of siblings of a WordTree (YOLO9000, section 4): P(node | parent) of every node.

    The tree is its `parents` alone, the second column of Darknet's .tree files: siblings stand side by side, so that a
    group is a run of equal parents, and the roots, whose parent is -1, are the first one. A group of one has the
    probability 1.

    Args:
        logits: [..., N] of up to 8 dimensions, floating. It is read as it lies, and the result lies in the same way: a
            head [B, A, 5 + N, H, W] as `head[:, :, 5:].movedim(2, -1)` costs no copy, nor do rows of it.
        parents: [N] integers: -1 for a root, else the index of the parent, which comes before its children. On a GPU
            the values are not checked, since that would wait for the device: what follows another parent than the node
            before it starts a new group.

    Returns:
        [..., N] of the dtype of `logits`, computed in float32 at least. As in torch.softmax, a NaN or an infinite logit
        makes its group NaN, and -inf has the probability 0. Differentiable, twice.

    Raises:
        RuntimeError: a shape, dtype, device or value that is none of the above; the message names it.
    """
    return torch.ops.pydet.tree_softmax(logits, parents)


@register_fake("pydet::tree_softmax")
def _tree_softmax_fake(logits: Tensor, parents: Tensor) -> Tensor:
    torch._check(
        logits.size(-1) == parents.size(0),
        lambda: f"tree_softmax: logits must be [..., N] with N as in parents, got {list(logits.shape)}",
    )
    return torch.empty_like(logits)


@register_fake("pydet::_tree_softmax_backward")
def _tree_softmax_backward_fake(grad: Tensor, probabilities: Tensor, parents: Tensor) -> Tensor:
    return torch.empty_like(probabilities)


def _sum_of_siblings(values: Tensor, parents: Tensor) -> Tensor:
    """[..., N] -> [..., N], the sum over its group in place of each value."""
    starts = parents.long().diff(prepend=parents.new_full((1,), -2, dtype=torch.int64)) != 0
    group = starts.cumsum(0) - 1
    return torch.zeros_like(values).index_add(-1, group, values).index_select(-1, group)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(output, inputs[1])


def _backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    probabilities, parents = ctx.saved_tensors
    if _gradients.has_kernel("_tree_softmax_backward", "tree_softmax", grad):
        return torch.ops.pydet._tree_softmax_backward(grad, probabilities, parents), None
    return probabilities * (grad - _sum_of_siblings(probabilities * grad, parents)), None


def _save_inputs(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _backward_backward(ctx, upstream: Tensor):  # type: ignore[no-untyped-def]
    """Of p * (g - sum of p * g): `mean` and `other` are the sums over the group of p times either gradient."""
    grad, probabilities, parents = ctx.saved_tensors
    mean, other = (_sum_of_siblings(probabilities * g, parents) for g in (grad, upstream))
    return probabilities * (upstream - other), upstream * (grad - mean) - other * grad, None


_autograd.register("tree_softmax", _backward, _setup_context)
_autograd.register("_tree_softmax_backward", _backward_backward, _save_inputs)
