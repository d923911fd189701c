"""tree_predict and tree_probabilities of YOLO9000's predictions beside the definitions and a copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_cases import random_tree

from pydet import ops, reference

NODES = 9418


def same(a: Any, b: Any) -> bool:
    pairs = zip(a, b, strict=True) if isinstance(a, tuple) else [(a, b)]
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("rule", ["absolute", "darknet"])
def test_tree_predict(race: Callable[..., Any], rule: str) -> None:
    g = torch.Generator().manual_seed(0)
    parents = random_tree(NODES, g)
    conditional = ops.tree_softmax(3 * torch.randn(100, NODES, generator=g), parents)
    contenders = {
        "pydet": lambda: ops.tree_predict(conditional, parents, 0.1, rule),
        "reference": lambda: reference.tree_predict(conditional, parents, 0.1, rule),
    }
    race(contenders, same)


@pytest.mark.parametrize("layout", ["rows", "map"])
def test_tree_probabilities(race: Callable[..., Any], layout: str) -> None:
    g = torch.Generator().manual_seed(0)
    parents = random_tree(NODES, g)
    head = ops.tree_softmax(torch.randn(1, 3, NODES, 17, 17, generator=g).movedim(2, -1), parents)
    conditional = head if layout == "map" else head.contiguous()

    contenders = {
        "pydet": lambda: ops.tree_probabilities(conditional, parents),
        "reference": lambda: reference.tree_probabilities(conditional, parents),
    }
    race(contenders, same, yardsticks={"a clone": conditional.clone}, moved=2 * conditional.nbytes)
