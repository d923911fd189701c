"""Gradients as torch.func takes them, of higher order, through checkpoints; and what has none says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_cases import OP_CASES, OpCase
from op_checks import outputs
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pydet import ops

DIFFERENTIABLE = [pytest.param(case, id=case.name) for case in OP_CASES if case.gradients]
FOCAL = [pytest.param(case, id=case.name) for case in OP_CASES if case.name.endswith("focal_loss")]
Loss = Callable[..., Tensor]


def inputs(case: OpCase) -> tuple[list[Any], list[Tensor]]:
    """Arguments, and those of them that have a gradient."""
    args = list(case.inputs(3, dtype=torch.float64))
    return args, [args[i] for i in case.gradients]


def loss_of(case: OpCase, function: Callable[..., Any], args: list[Any]) -> Loss:
    """A number that is not linear in the results, as a function of the tensors that have a gradient."""

    def loss(*tensors: Tensor) -> Tensor:
        given = dict(zip(case.gradients, tensors, strict=True))
        results = outputs(function(*(given.get(i, arg) for i, arg in enumerate(args))))
        return torch.stack([(r**2).sum() for r in results if r.is_floating_point()]).sum()

    return loss


def gradients(loss: Loss, tensors: list[Tensor], order: int) -> list[tuple[Tensor, ...]]:
    """Of the loss, of the sum of squares of these, and so on, by plain autograd."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    value, found = loss(*leaves), []
    for _ in range(order):
        found.append(torch.autograd.grad(value, leaves, create_graph=True))
        value = torch.stack([(g**2).sum() for g in found[-1]]).sum()
    return found


def assert_near(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("case", DIFFERENTIABLE)
def test_torch_func(case: OpCase) -> None:
    args, tensors = inputs(case)
    all_of_them = tuple(range(len(tensors)))
    ours = loss_of(case, case.function, args)
    first, second = gradients(loss_of(case, case.reference, args), tensors, 2)

    def squares(*given: Tensor) -> Tensor:
        return torch.stack([(g**2).sum() for g in torch.func.grad(ours, all_of_them)(*given)]).sum()

    assert_near(torch.func.grad(ours, all_of_them)(*tensors), first)
    assert_near(torch.func.vjp(ours, *tensors)[1](torch.ones((), dtype=torch.float64)), first)
    assert_near(torch.func.grad(squares, all_of_them)(*tensors), second)
    if case.vmap:
        batch = [torch.stack([t, t]) for t in tensors]
        assert_near(
            torch.func.vmap(torch.func.grad(ours, all_of_them))(*batch), tuple(torch.stack([g] * 2) for g in first)
        )


@pytest.mark.parametrize("case", DIFFERENTIABLE)
def test_third_gradient(case: OpCase) -> None:
    """A part of it would be easy to lose, silently."""
    args, tensors = inputs(case)
    ours, theirs = (gradients(loss_of(case, f, args), tensors, 3) for f in (case.function, case.reference))
    torch.testing.assert_close(ours[2], theirs[2], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("case", DIFFERENTIABLE)
def test_second_gradient_of_the_reference_backend(case: OpCase) -> None:
    args, tensors = inputs(case)
    expected = gradients(loss_of(case, case.reference, args), tensors, 2)
    with ops.set_backend("reference"):
        assert_near(gradients(loss_of(case, case.function, args), tensors, 2), expected)


@pytest.mark.parametrize("case", DIFFERENTIABLE)
def test_forward_mode_is_refused(case: OpCase) -> None:
    """Not 0. In hessian it is the gradient that forward mode goes through."""
    args, tensors = inputs(case)
    loss = loss_of(case, case.function, args)
    ones = tuple(torch.ones_like(t) for t in tensors)
    with pytest.raises(NotImplementedError, match=f"^{case.name}: forward-mode derivatives .* are not implemented"):
        torch.func.jvp(loss, tuple(tensors), ones)
    with (
        torch.autograd.forward_ad.dual_level(),
        pytest.raises(NotImplementedError, match=f"^{case.name}: forward-mode"),
    ):
        loss(*map(torch.autograd.forward_ad.make_dual, tensors, ones))
    with pytest.raises(NotImplementedError, match="forward-mode derivatives"):
        torch.func.jvp(torch.func.grad(loss), tuple(tensors), ones)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("case", DIFFERENTIABLE)
def test_checkpoint(case: OpCase, reentrant: bool) -> None:
    """What is saved is computed again, and may be asked for only once."""
    args, tensors = inputs(case)
    loss = loss_of(case, case.function, args)
    leaves = [t.clone().requires_grad_() for t in tensors]
    checkpoint(loss, *leaves, use_reentrant=reentrant).backward()
    assert_near(tuple(leaf.grad for leaf in leaves), gradients(loss, tensors, 1)[0])


@pytest.mark.parametrize("case", FOCAL)
def test_batch_of_gradients(case: OpCase) -> None:
    """They do not fit into the one that forward wrote."""
    args, _ = inputs(case)
    logits = args[0].requires_grad_()
    weights = torch.rand(
        3, *case.function(*args).shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )

    def one_by_one(loss: Tensor) -> Tensor:
        return torch.stack([torch.autograd.grad(loss, logits, weight, retain_graph=True)[0] for weight in weights])

    def by_autograd(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, logits, weights, is_grads_batched=True)[0]

    def by_vmap(loss: Tensor) -> Tensor:
        return torch.func.vmap(lambda weight: torch.autograd.grad(loss, logits, weight)[0])(weights)

    expected = one_by_one(case.function(*args))
    for batch in (by_autograd, by_vmap):
        assert_near(batch(case.function(*args)), expected)


@pytest.mark.parametrize("name", ["nms", "batched_nms", "soft_nms", "anchor_kmeans", "tree_predict", "match_anchors"])
def test_no_gradient(name: str) -> None:
    """PyTorch says so at backward, where what asks for a gradient and gets none would be left out in silence."""
    case = next(c for c in OP_CASES if c.name == name)
    args = [a.requires_grad_() if i in case.floating else a for i, a in enumerate(case.inputs(7))]
    assert not any(result.requires_grad for result in outputs(case.function(*args)))
