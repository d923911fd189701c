"""tree_softmax beyond what all operators share: fractions by hand, layouts, saturation, gradients, Darknet, errors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from op_cases import random_tree
from torch import Tensor

from pydet import ops, reference
from pydet.ops import tree_softmax

DATA = Path(__file__).parent / "data"
INF, NAN = math.inf, math.nan
# Roots 0 and 1; 2, 3 and 4 are children of 1, and 5 the only child of 3.
PARENTS = torch.tensor([-1, -1, 1, 1, 1, 3])


def logits_of(*ratios: float) -> Tensor:
    return torch.tensor(ratios).log()


def gradient_of(function: Any, logits: Tensor, parents: Tensor, upstream: Tensor) -> Tensor:
    leaf = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(leaf, parents), leaf, upstream)
    return gradient


def test_by_hand() -> None:
    probabilities = tree_softmax(logits_of(1, 3, 1, 2, 5, 0.01), PARENTS)
    torch.testing.assert_close(probabilities, torch.tensor([1 / 4, 3 / 4, 1 / 8, 2 / 8, 5 / 8, 1]))


@pytest.mark.parametrize("nodes", [1, 2, 15, 16, 17, 63, 64, 65, 1000])
def test_without_branches_it_is_softmax(nodes: int) -> None:
    logits = torch.randn(37, nodes, generator=torch.Generator().manual_seed(nodes)) * 10
    roots = torch.full((nodes,), -1)
    torch.testing.assert_close(tree_softmax(logits, roots), logits.softmax(-1), rtol=1e-5, atol=1e-9)


def test_groups_add_up_to_one_and_an_only_child_is_certain() -> None:
    generator = torch.Generator().manual_seed(0)
    parents = random_tree(500, generator)
    probabilities = tree_softmax(torch.randn(40, 500, generator=generator) * 30, parents)
    siblings, sizes = torch.unique_consecutive(parents, return_inverse=True, return_counts=True)[1:]
    sums = torch.zeros(40, len(sizes)).index_add(1, siblings, probabilities)
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=1e-6, atol=0)
    assert (sizes == 1).any()
    assert (probabilities[:, (sizes == 1)[siblings]] == 1).all()


def layouts(nodes: int, generator: torch.Generator) -> list[Tensor]:
    """Views of [..., nodes] that lie in every way: rows, maps, channels last, crops, repeated, in no order."""
    head = torch.randn(2, 3, 5 + nodes, 4, 9, generator=generator)
    rows = torch.randn(2, 3, 4, 9, nodes, generator=generator)
    last = torch.randn(2, 3 * (5 + nodes), 4, 9, generator=generator).contiguous(memory_format=torch.channels_last)
    return [
        rows,
        rows[0, 0, 0, 0],
        rows[:, 1, ::2, 3:],
        rows.permute(3, 1, 0, 2, 4),
        head[:, :, 5:].movedim(2, -1),
        head[:1, :, 5:, 2].movedim(2, -1),
        head[:, :, 5:, 1:3, 2:8].movedim(2, -1),
        head[:, :, 5:].permute(4, 0, 3, 1, 2),
        head[:, :, 5:, :1, :1].movedim(2, -1),
        head[:, :, 5 : 5 + 2 * nodes : 1][..., ::3].movedim(2, -1),
        last.unflatten(1, (3, 5 + nodes))[:, :, 5:].movedim(2, -1),
        rows[0, 0, :, :1].expand(4, 50, nodes),
        rows[:, :, :, :0],
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_every_layout_is_read_and_written_as_it_lies(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    parents = random_tree(150, generator)
    for view in layouts(150, generator):
        logits = view.to(dtype)
        if 0 not in view.stride():
            logits = torch.empty_strided(view.shape, view.stride(), dtype=dtype).copy_(view)
        result = tree_softmax(logits, parents)
        assert result.stride() == torch.empty_like(logits).stride()
        assert torch.equal(result, tree_softmax(logits.contiguous(), parents))
        for upstream in layouts(150, generator):
            if upstream.shape == logits.shape:
                ours = torch.ops.pydet._tree_softmax_backward(upstream, result, parents)
                assert ours.stride() == result.stride()
                dense = upstream.contiguous(), result.contiguous()
                assert torch.equal(ours, torch.ops.pydet._tree_softmax_backward(*dense, parents))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_saturated_infinite_and_nan_as_in_softmax(dtype: torch.dtype) -> None:
    groups = [
        [1e4, -1e4, 0],
        [-INF, 0, 1],
        [-INF] * 3,
        [INF, 0, 1],
        [NAN, 0, 1],
        [0, 1, NAN],
        [-200, -190, -INF],
        [0] * 3,
    ]
    parents = torch.tensor([-1] * 3 + [parent for parent in range(len(groups) - 1) for _ in range(3)])
    logits = torch.tensor(groups, dtype=dtype).flatten()
    expected = torch.tensor(groups, dtype=dtype).double().softmax(-1).flatten()
    for copies in (logits, logits.expand(20, -1), logits[:, None].expand(-1, 20).contiguous().T):
        result = tree_softmax(copies, parents).double().reshape(-1, len(parents))
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(result[0], expected, rtol=2 * eps, atol=1e-8, equal_nan=True)
        torch.testing.assert_close(result, result[:1].expand_as(result), rtol=0, atol=0, equal_nan=True)


def test_against_float64() -> None:
    """A difference of logits rounds by up to 2^-24 of itself, which is less than -log p; the rest takes some ulps."""
    generator = torch.Generator().manual_seed(2)
    parents = random_tree(700, generator)
    logits = torch.randn(50, 700, generator=generator) * 10
    exact = reference.tree_softmax(logits.double(), parents)
    likely = exact > 1e-37
    error = (tree_softmax(logits, parents).double() - exact).abs()[likely] / exact[likely]
    assert (error <= 2.0**-24 * (6 - exact[likely].log())).all()
    upstream = torch.randn(50, 700, generator=generator)
    slope = gradient_of(reference.tree_softmax, logits.double(), parents, upstream.double())
    ours = gradient_of(tree_softmax, logits, parents, upstream)
    torch.testing.assert_close(ours.double(), slope, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_a_group_adds_up_to_nothing() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(30, 6, generator=generator)
    slope = gradient_of(tree_softmax, logits, PARENTS, torch.randn(30, 6, generator=generator))
    for group in slope.split([2, 3, 1], dim=1):
        assert group.sum(1).abs().max() < 1e-6
    assert not slope[:, 5].any()
    assert slope[:, :5].all()
    assert not gradient_of(tree_softmax, logits, PARENTS, torch.tensor(1.0).expand(30, 6)).abs().gt(1e-6).any()


def test_gradcheck_once_and_twice_and_by_reference() -> None:
    generator = torch.Generator().manual_seed(4)
    parents = random_tree(23, generator)
    logits = torch.randn(3, 23, dtype=torch.float64, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(tree_softmax, (logits, parents))
    assert torch.autograd.gradgradcheck(tree_softmax, (logits, parents))
    upstream = torch.randn(3, 23, dtype=torch.float64, generator=generator)
    slope = gradient_of(tree_softmax, logits.detach(), parents, upstream)
    with ops.set_backend("reference"):
        torch.testing.assert_close(gradient_of(tree_softmax, logits.detach(), parents, upstream), slope)
    compiled = torch.compile(tree_softmax, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradient_of(compiled, logits.detach(), parents, upstream), slope)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradient_in_half_precision(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(5)
    logits, upstream = torch.randn(2, 9, 6, generator=generator).to(dtype)
    slope = gradient_of(tree_softmax, logits, PARENTS, upstream)
    assert slope.dtype == dtype
    expected = gradient_of(reference.tree_softmax, logits.double(), PARENTS, upstream.double())
    torch.testing.assert_close(slope.double(), expected, rtol=0, atol=4 * torch.finfo(dtype).eps)


def test_parents_of_any_integer_type() -> None:
    logits = torch.randn(4, 6)
    expected = tree_softmax(logits, PARENTS)
    for dtype in (torch.int8, torch.int16, torch.int32):
        assert torch.equal(tree_softmax(logits, PARENTS.to(dtype)), expected)


def test_darknets_region_layer() -> None:
    """The class probabilities of a [region] layer with a tree, recorded from the real Darknet."""
    with np.load(DATA / "unit_tree.npz", allow_pickle=False) as recording:
        logits, output = (torch.from_numpy(recording[name]).view(2, 5 + 13, 3, 4) for name in ("o4", "o5"))
        parents = torch.tensor([int(line.split()[1]) for line in str(recording["tree"]).splitlines()])
    result = tree_softmax(logits[:, 5:].movedim(1, -1), parents).movedim(-1, 1)
    torch.testing.assert_close(result, output[:, 5:], rtol=1e-6, atol=1e-7)


def test_the_tree_of_yolo9000() -> None:
    path = Path("/usr/share/darknet/data/9k.tree")
    if not path.exists():
        pytest.skip("needs Debian's darknet package for its tree, which is not installed")
    parents = torch.tensor([int(line.split()[1]) for line in path.read_text().splitlines()])
    sizes = torch.unique_consecutive(parents, return_counts=True)[1]
    facts = len(parents), len(sizes), int(sizes[0]), int(sizes.max()), int((sizes == 1).sum())
    assert facts == (9418, 1846, 4, 149, 46)
    probabilities = tree_softmax(torch.randn(3, 9418), parents)
    torch.testing.assert_close(probabilities.sum(1), torch.full((3,), 1846.0), rtol=1e-6, atol=0)


ONE = torch.zeros(2, 6)


@pytest.mark.parametrize(
    ("logits", "parents", "message"),
    [
        (ONE.long(), PARENTS, "tree_softmax: logits must be a floating tensor, got Long"),
        (ONE, PARENTS.float(), "tree_softmax: parents must be an integer tensor, got Float"),
        (ONE, PARENTS[None], "tree_softmax: parents must be [N] with N <= 2147483647, got [1, 6]"),
        (ONE[:, :5], PARENTS, "tree_softmax: logits must be [..., N] with N = 6 as in parents, got [2, 5]"),
        (torch.tensor(0.0), PARENTS, "tree_softmax: logits must be [..., N] with N = 6 as in parents, got []"),
        (ONE.view(1, 1, 1, 1, 1, 1, 1, 2, 6), PARENTS, "logits must have at most 8 dimensions, got [1, 1, 1, 1, 1, 1"),
        (ONE, [-1, -1, 1, 3, 1, 3], "parents must be -1 for a root, else a node before its child, got 3 at node 3"),
        (ONE, [-1, -1, 4, 4, 2, 3], "parents must be -1 for a root, else a node before its child, got 4 at node 2"),
        (ONE, [-1, -1, 1, 1, 1, 6], "parents must be -1 for a root, else a node before its child, got 6 at node 5"),
        (ONE, [-1, -2, 1, 1, 1, 3], "parents must be -1 for a root, else a node before its child, got -2 at node 1"),
        (ONE, [0, -1, 1, 1, 1, 3], "parents must be -1 for a root, else a node before its child, got 0 at node 0"),
        (ONE, [-1, -1, 1, 0, 1, 3], "must have siblings side by side, got 1 at node 4 and apart from it at node 2"),
        (ONE, [-1, 0, -1, 1, 1, 3], "must have siblings side by side, got -1 at node 2 and apart from it at node 0"),
    ],
)
def test_messages(logits: Tensor, parents: Tensor | list[int], message: str) -> None:
    with pytest.raises(RuntimeError) as error:
        tree_softmax(logits, torch.as_tensor(parents))
    assert message in str(error.value)
