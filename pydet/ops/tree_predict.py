from __future__ import annotations

import torch
from torch import Tensor

from pydet import _library, reference  # noqa: F401  (_library defines torch.ops.pydet)
from pydet.ops import _autograd, _gradients
from pydet.ops._fakes import register_fake


def tree_probabilities(conditional: Tensor, parents: Tensor) -> Tensor:
    """Absolute probability of every node of a WordTree: the product of P(node | parent) along its path from the root.

    YOLO9000, section 4. The probabilities of the children of a node add up to its own. With a map of classes to nodes
    (Darknet's `map=`) the score of a class is `objectness[..., None] * tree_probabilities(...)[..., map]`.

    Args:
        conditional: [..., N] of up to 8 dimensions, floating, as `tree_softmax` gives it; read as it lies. It is not
            changed, so calling this twice does not compound.
        parents: [N] integers, the tree as in `tree_softmax`. On a GPU the values are not checked; a node whose parent
            does not come before it counts as a root.

    Returns:
        [..., N], lying in memory like `conditional`; float64 where that is, else float32 (half precision can't hold the
        probability of a deep node). Differentiable, twice.

    Raises:
        RuntimeError: a shape, dtype, device or value that is none of the above; the message names it.
    """
    return torch.ops.pydet.tree_probabilities(conditional, parents)


def tree_predict(
    conditional: Tensor, parents: Tensor, threshold: float = 0.5, rule: str = "absolute"
) -> tuple[Tensor, Tensor]:
    """The class of each position: down the tree to the most probable child for as long as that is confident.

    YOLO9000, section 4. The walk starts at the most probable root, which is the answer if nothing is confident, and
    ends at a leaf, or at the node whose most probable child is not confident any more. Only the groups on its way are
    read. By rule "absolute" a child is confident if its absolute probability exceeds the threshold. By rule "darknet"
    that is multiplied with what the parent was confident by, as in Darknet's hierarchy_top_prediction: a product of
    probabilities that are products already, which stops earlier. Networks trained with Darknet are meant for it; their
    score is the objectness.

    Args:
        conditional: [..., N] of up to 8 dimensions with N >= 1, floating, as `tree_softmax` gives it; read as it lies.
        parents: [N] integers, the tree as in `tree_softmax`. On a GPU the values are not checked; what does not belong
            to a tree is not walked to.
        threshold: a child is confident above it; it is rounded to the dtype of the arithmetic. Below 0 every walk ends
            at a leaf.
        rule: "absolute" or "darknet".

    Returns:
        nodes int64 [...] and their absolute probabilities [...], float64 where `conditional` is, else float32. Of
        equally probable children the first is taken, and NaN only at the root, where there is nothing else. Neither
        has a gradient: `tree_probabilities` has.

    Raises:
        RuntimeError: a shape, dtype, device or value that is none of the above; the message names it.
    """
    return torch.ops.pydet.tree_predict(conditional.detach(), parents, threshold, rule)


def _check_nodes(op: str, conditional: Tensor, parents: Tensor) -> None:
    torch._check(
        conditional.size(-1) == parents.size(0),
        lambda: f"{op}: conditional must be [..., N] with N as in parents, got {list(conditional.shape)}",
    )


@register_fake("pydet::tree_probabilities")
def _tree_probabilities_fake(conditional: Tensor, parents: Tensor) -> Tensor:
    _check_nodes("tree_probabilities", conditional, parents)
    return torch.empty_like(conditional, dtype=reference.result_dtype(conditional))


@register_fake("pydet::_tree_probabilities_backward")
def _tree_probabilities_backward_fake(grad: Tensor, conditional: Tensor, absolute: Tensor, parents: Tensor) -> Tensor:
    return torch.empty_like(absolute)


@register_fake("pydet::tree_predict")
def _tree_predict_fake(
    conditional: Tensor, parents: Tensor, threshold: float = 0.5, rule: str = "absolute"
) -> tuple[Tensor, Tensor]:
    _check_nodes("tree_predict", conditional, parents)
    shape = conditional.shape[:-1]
    probabilities = conditional.new_empty(shape, dtype=reference.result_dtype(conditional))
    return conditional.new_empty(shape, dtype=torch.int64), probabilities


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(inputs[0], output, inputs[1])


def _backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    conditional, absolute, parents = ctx.saved_tensors
    if _gradients.has_kernel("_tree_probabilities_backward", "tree_probabilities", grad):
        gradient = torch.ops.pydet._tree_probabilities_backward(grad, conditional, absolute, parents)
    else:
        (gradient,) = _gradients.of_reference(
            lambda leaf: reference.tree_probabilities(leaf, parents), [conditional], grad
        )
    return gradient.to(conditional.dtype), None


def _second_setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    grad, conditional, _, parents = inputs
    ctx.save_for_backward(grad, conditional, parents)


def _second_backward(ctx, upstream: Tensor):  # type: ignore[no-untyped-def]
    """By the reference. What depends on the absolute probabilities is part of what depends on the conditional ones."""
    grad, conditional, parents = ctx.saved_tensors
    of_grad, of_conditional = _gradients.of_gradient(
        lambda leaf: reference.tree_probabilities(leaf, parents), (grad, conditional), (upstream,)
    )
    return of_grad, of_conditional, None, None


_autograd.register("tree_probabilities", _backward, _setup_context)
_autograd.register("_tree_probabilities_backward", _second_backward, _second_setup_context)
