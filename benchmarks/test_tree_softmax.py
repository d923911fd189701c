"""tree_softmax of YOLO9000's head beside a softmax a group, and beside what computes less: a copy, one flat softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_cases import random_tree
from torch import Tensor

from pydet import ops, reference

NODES = 9418


def close(a: Any, b: Any) -> bool:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    return True


def yolo9000_logits(layout: str, generator: torch.Generator) -> Tensor:
    """[1, 3, 17, 17, N] of a head at 544 x 544: a view of its map, or rows."""
    head = torch.randn(1, 3, 5 + NODES, 17, 17, generator=generator)[:, :, 5:].movedim(2, -1)
    return head if layout == "map" else head.contiguous()


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward_and_backward"])
@pytest.mark.parametrize("layout", [pytest.param("rows", marks=pytest.mark.long), "map"])
def test_tree_softmax(race: Callable[..., Any], layout: str, backward: bool) -> None:
    g = torch.Generator().manual_seed(0)
    parents, logits = random_tree(NODES, g), yolo9000_logits(layout, g)
    upstream = torch.empty_like(logits).normal_(generator=g)
    logits.requires_grad_(backward)

    def run(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        return lambda: torch.autograd.grad(function(), logits, upstream)[0] if backward else function()

    contenders = {
        "pydet": run(lambda: ops.tree_softmax(logits, parents)),
        "reference": run(lambda: reference.tree_softmax(logits, parents)),
    }
    yardsticks = {"one softmax of all": run(lambda: logits.softmax(-1)), "a clone": run(lambda: logits.clone())}
    # Logits and result; then result, gradient and its result.
    race(contenders, close, yardsticks=yardsticks, moved=logits.nbytes * (5 if backward else 2))
