"""soft_nms beside the reference; mmcv, whose function it is, has no wheels for current versions of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_cases import clustered_boxes
from peers import peer

from pydet import ops, reference


def close(a: Any, b: Any) -> bool:
    return torch.equal(a[1], b[1]) and torch.allclose(a[0], b[0], rtol=1e-4)


@pytest.mark.parametrize("method", ["linear", "gaussian"])
@pytest.mark.parametrize("n", [100, 1000])
def test_soft_nms(race: Callable[..., Any], n: int, method: str) -> None:
    g = torch.Generator().manual_seed(0)
    boxes, scores = clustered_boxes(n, g), torch.rand(n, generator=g)
    contenders = {
        "pydet": lambda: ops.soft_nms(boxes, scores, method=method),
        "reference": lambda: reference.soft_nms(boxes, scores, method=method),
    }
    if mmcv := peer("mmcv"):
        contenders["mmcv"] = lambda: mmcv.ops.soft_nms(boxes, scores, method=method)
    race(contenders, equal=close)
