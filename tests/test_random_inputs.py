"""Every operator against its reference on inputs drawn at random: sizes, dtypes, layouts, and odd numbers in any place.

To the last bit or within the tolerance that the registry names.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_cases import OP_CASES, OpCase
from random_inputs import LAYOUTS, ODD_NUMBERS, SEEDS, generator, laid_out
from test_ops import assert_same
from torch import Tensor

CASES = pytest.mark.parametrize("case", OP_CASES, ids=[case.name for case in OP_CASES])
REFUSE_ODD_NUMBERS = {
    "anchor_kmeans": (0,),
    "match_cells": (6,),
    "sigmoid_focal_loss": (1,),
    "softmax_focal_loss": (4,),
    "yolo_decode": (1,),
}
"""Arguments with a rule of their own: anchors and sizes are positive, labels in [0, 1], weights not negative."""


def some_inputs(case: OpCase, data: st.DataObject, dtype: torch.dtype, most: int = 60) -> tuple[Any, ...]:
    size = data.draw(st.integers(case.sizes[0], min(case.sizes[-1] // 2, most)), "size")
    args = case.inputs(size, data.draw(SEEDS, "seed"), dtype)
    return tuple(laid_out(a, data.draw(LAYOUTS, "layout")) if isinstance(a, Tensor) else a for a in args)


@CASES
@given(data=st.data())
def test_equals_reference(case: OpCase, data: st.DataObject) -> None:
    args = some_inputs(case, data, data.draw(st.sampled_from(case.dtypes), "dtype"))
    assert_same(case, case.function(*args), case.reference(*args))


@CASES
@given(data=st.data())
def test_equals_reference_with_odd_numbers(case: OpCase, data: st.DataObject) -> None:
    """Zeros, infinities, NaN and numbers whose products overflow, wherever the operator takes any number."""
    args = some_inputs(case, data, data.draw(st.sampled_from([torch.float32, torch.float64]), "dtype"), most=40)
    for place in case.floating:
        takes_any = place < len(args) and place not in REFUSE_ODD_NUMBERS.get(case.name, ())
        if takes_any and args[place].numel():
            for number in data.draw(st.lists(st.sampled_from(ODD_NUMBERS), max_size=6), "odd"):
                index = data.draw(st.tuples(*(st.integers(0, n - 1) for n in args[place].shape)), "index")
                args[place][index] = number
    assert_same(case, case.function(*args), case.reference(*args))


@pytest.mark.parametrize("case", [c for c in OP_CASES if c.gradients], ids=lambda case: case.name)
@given(data=st.data())
def test_gradients_equal_those_of_the_reference(case: OpCase, data: st.DataObject) -> None:
    """In float64, of a random weighting of all floating results."""
    args = list(some_inputs(case, data, torch.float64, most=30))
    for i in case.gradients:
        args[i].requires_grad_()
    seed = data.draw(SEEDS, "weights")

    def gradients(function: Any) -> tuple[Tensor, ...]:
        results = function(*args)
        g = generator(seed)
        floating = [r for r in (results if isinstance(results, tuple) else (results,)) if r.is_floating_point()]
        total = sum((r * torch.rand(r.shape, generator=g, dtype=torch.float64)).sum() for r in floating)
        return torch.autograd.grad(total, [args[i] for i in case.gradients], allow_unused=True)

    for ours, theirs in zip(gradients(case.function), gradients(case.reference), strict=True):
        torch.testing.assert_close(*(torch.zeros(()) if t is None else t for t in (ours, theirs)), rtol=1e-9, atol=1e-9)
