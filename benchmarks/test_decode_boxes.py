"""decode_boxes beside torchvision's BoxCoder and the reference, forward and with the gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_cases import random_boxes
from peers import peer
from torch import Tensor

from pydet import ops, reference

WEIGHTS = [10.0, 10.0, 5.0, 5.0]


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize(("n", "classes"), [(1000, 1), (120_000, 1), (1000, 91)])
def test_decode_boxes(race: Callable[..., Any], n: int, classes: int, backward: bool) -> None:
    g = torch.Generator().manual_seed(0)
    codes, boxes = torch.randn(n, 4 * classes, generator=g).requires_grad_(backward), random_boxes(n, g)
    weight = torch.rand(codes.shape, generator=g)

    def contender(decode: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], Tensor]:
        if not backward:
            return lambda: decode(codes, boxes)
        return lambda: torch.autograd.grad(decode(codes, boxes), codes, weight)[0]

    contenders = {
        "pydet": contender(lambda c, b: ops.decode_boxes(c, b, WEIGHTS)),
        "reference": contender(lambda c, b: reference.decode_boxes(c, b, WEIGHTS)),
    }
    if peer("torchvision"):
        from torchvision.models.detection._utils import BoxCoder

        contenders["torchvision"] = contender(BoxCoder(tuple(WEIGHTS)).decode_single)
    # Codes and boxes in, boxes out; then the gradient of the boxes in, codes and boxes again, that of the codes out.
    forward = 2 * codes.nbytes + boxes.nbytes
    race(contenders, close, moved=forward * 2 + codes.nbytes if backward else forward)
