"""hard_negative_mining beyond what every operator shares: choices by hand, ties, NaN, torchvision's sorts, messages."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pydet import reference
from pydet.ops import hard_negative_mining

NAN, INF = math.nan, math.inf


def chosen(loss: list[float], positive: list[int], ratio: float = 3.0) -> list[int]:
    """Indices of the negatives taken of one image whose positives are at these indices."""
    flags = torch.zeros(len(loss), dtype=torch.bool)
    flags[positive] = True
    return hard_negative_mining(torch.tensor(loss), flags, ratio).nonzero()[:, 0].tolist()


def sorted_twice(loss: Tensor, positive: Tensor, ratio: int) -> Tensor:
    """As in torchvision's SSD.compute_loss, with stable sorts so that ties are decided."""
    negative_loss = loss.masked_fill(positive, -INF)
    order = negative_loss.sort(dim=1, descending=True, stable=True).indices
    return order.sort(dim=1).indices < ratio * positive.sum(1, keepdim=True)


def test_by_hand() -> None:
    loss = [0.5, 3.0, 0.1, 2.0, 9.0, 4.0, 0.2, 1.0]
    assert chosen(loss, [4]) == [1, 3, 5]
    assert chosen(loss, [4], 1) == [5]
    assert chosen(loss, [1, 4], 2) == [0, 3, 5, 7]
    assert chosen(loss, [1, 4]) == [0, 2, 3, 5, 6, 7]
    assert chosen(loss, [1, 4], 100) == [0, 2, 3, 5, 6, 7]  # never a positive, however many are wanted
    assert chosen(loss, []) == []
    assert chosen(loss, list(range(8))) == []
    assert chosen(loss, [4], 0) == []


def test_ratio_is_a_most() -> None:
    assert len(chosen([float(i) for i in range(20)], [0, 1, 2], 1.5)) == 4
    assert len(chosen([float(i) for i in range(20)], [0, 1, 2], 0.3)) == 0


def test_equal_losses_by_lowest_index() -> None:
    assert chosen([1.0, 2, 1, 1, 2, 1], [1]) == [0, 2, 4]
    assert chosen([1.0] * 10, [0, 5], 2) == [1, 2, 3, 4]
    assert chosen([-0.0, 0.0, -0.0, 0.0, 5], [4], 2) == [0, 1]
    assert chosen([0.0] * 5, [4]) == [0, 1, 2]


def test_nan_and_infinite_losses() -> None:
    loss = [1.0, NAN, -INF, INF, -5.0, -NAN, 0.0]
    assert chosen(loss, [6], 1) == [1]
    assert chosen(loss, [6], 2) == [1, 5]
    assert chosen(loss, [6], 3) == [1, 3, 5]
    assert chosen(loss, [6], 5) == [0, 1, 3, 4, 5]
    assert chosen(loss, [6], 6) == [0, 1, 2, 3, 4, 5]
    assert chosen([-INF, -INF, -INF], [1], 1) == [0]
    assert chosen([NAN, 1.0, 2.0], [0], 1) == [2]  # the loss of a positive does not matter


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("anchors", [1, 2, 100, 8732])
def test_torchvisions_two_sorts(anchors: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(anchors)
    for spread in (0.01, 1.0, 1e4):
        loss = (torch.rand(6, anchors, generator=generator).log().neg() * spread).to(dtype)
        positive = torch.rand(6, anchors, generator=generator) < 0.05
        if positive.all(1).any() or (4 * positive.sum(1) > anchors).any():
            positive[:] = False  # there torchvision takes positives
        assert torch.equal(hard_negative_mining(loss, positive), sorted_twice(loss, positive, 3))


@pytest.mark.parametrize("seed", range(30))
def test_random_against_the_definition(seed: int) -> None:
    """All bit patterns, few values, equal digits: each pass of the selection decides in some of them."""
    generator = torch.Generator().manual_seed(seed)
    anchors = int(torch.randint(1, 3000, (), generator=generator))
    bits = torch.randint(-(2**31), 2**31, (3, anchors), generator=generator)
    for pattern in (bits, bits & 0x7FF, bits & 0x3FF800, bits & ~0x1FFFFF, bits & 0x7F800000, bits & 1):
        loss = pattern.to(torch.int32).view(torch.float32)
        positive = torch.rand(3, anchors, generator=generator) < [0.02, 0.2, 0.6][seed % 3]
        for values in (loss, loss.double(), loss.bfloat16()):
            ours = hard_negative_mining(values, positive, 2.5)
            assert torch.equal(ours, reference.hard_negative_mining(values, positive, 2.5))
            assert not (ours & positive).any()


def test_batch_is_a_loop_and_any_leading_dimensions() -> None:
    generator = torch.Generator().manual_seed(0)
    loss, positive = torch.rand(2, 3, 500, generator=generator), torch.rand(2, 3, 500, generator=generator) < 0.1
    result = hard_negative_mining(loss, positive)
    for i in range(2):
        for j in range(3):
            assert torch.equal(result[i, j], hard_negative_mining(loss[i, j], positive[i, j]))
    assert hard_negative_mining(torch.zeros(0, 5), torch.zeros(0, 5, dtype=torch.bool)).shape == (0, 5)


def test_the_loss_of_ssd() -> None:
    """The documented use, gradient included: only what was taken has one."""
    loss = torch.tensor([[0.5, 3.0, 0.1, 2.0, 9.0, 4.0]], requires_grad=True)
    positive = torch.tensor([[0, 0, 1, 0, 0, 0]]).bool()
    selected = hard_negative_mining(loss, positive, 2)
    assert not selected.requires_grad
    total = loss[positive | selected].sum() / max(1, int(positive.sum()))
    assert total.item() == pytest.approx(0.1 + 9 + 4)
    total.backward()
    assert loss.grad is not None
    assert loss.grad.tolist() == [[0, 0, 1, 0, 1, 1]]


ONE, NONE = torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((ONE.long(), NONE), "hard_negative_mining: loss must be a floating tensor, got Long"),
        ((ONE[0, 0], NONE[0, 0]), "hard_negative_mining: loss must be [..., A], got []"),
        ((ONE, NONE.long()), "hard_negative_mining: positive must be a bool tensor, got Long"),
        ((ONE, NONE[:1]), "hard_negative_mining: positive must have the shape [2, 3] of loss, got [1, 3]"),
        ((ONE, NONE, -1), "hard_negative_mining: ratio must be finite and not negative, got -1"),
        ((ONE, NONE, NAN), "hard_negative_mining: ratio must be finite and not negative, got nan"),
        ((ONE, NONE, INF), "hard_negative_mining: ratio must be finite and not negative, got inf"),
    ],
)
def test_messages(args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RuntimeError) as error:
        hard_negative_mining(*args)
    assert message in str(error.value)
