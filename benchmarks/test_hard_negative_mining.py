"""hard_negative_mining beside the two sorts of torchvision's SSD.compute_loss, no function of its own there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pydet import ops, reference


def torchvisions_sorts(loss: Tensor, positive: Tensor) -> Tensor:
    wanted = 3 * positive.sum(1, keepdim=True)
    negative_loss = loss.clone()
    negative_loss[positive] = -torch.inf
    order = negative_loss.sort(1, descending=True)[1]
    return order.sort(1)[1] < wanted


@pytest.mark.parametrize(("images", "anchors"), [(32, 8732), (8, 120_000)])
def test_hard_negative_mining(race: Callable[..., Any], images: int, anchors: int) -> None:
    g = torch.Generator().manual_seed(0)
    loss = torch.rand(images, anchors, generator=g).log().neg()
    positive = torch.rand(images, anchors, generator=g) < 0.005
    contenders = {
        "pydet": lambda: ops.hard_negative_mining(loss, positive),
        "torchvision's sorts": lambda: torchvisions_sorts(loss, positive),
        "reference": lambda: reference.hard_negative_mining(loss, positive),
    }
    race(contenders)
