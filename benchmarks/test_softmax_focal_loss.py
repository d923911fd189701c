"""softmax_focal_loss beside the reference, and beside plain cross-entropy, which computes less. mmcv has no wheels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pydet import ops, reference


def close(a: Any, b: Any) -> bool:
    torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-7)
    return True


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward_and_backward"])
def test_softmax_focal(race: Callable[..., Any], backward: bool, gamma: float) -> None:
    g = torch.Generator().manual_seed(0)
    logits = (torch.randn(100_000, 81, generator=g) * 2).requires_grad_(backward)
    targets = torch.randint(81, (100_000,), generator=g)

    def run(function: Callable[..., Any]) -> Any:
        loss = function()
        return torch.autograd.grad(loss, logits)[0] if backward else loss

    contenders = {
        "pydet": lambda: run(lambda: ops.softmax_focal_loss(logits, targets, gamma, 1.0)),
        "reference": lambda: run(lambda: reference.softmax_focal_loss(logits, targets, gamma, 1.0)),
    }
    if gamma == 0:
        contenders["torch cross_entropy"] = lambda: run(lambda: F.cross_entropy(logits, targets))
    # Logits; where it is wanted the gradient, and once more to multiply it.
    race(contenders, close, moved=logits.nbytes * (4 if backward else 1))
