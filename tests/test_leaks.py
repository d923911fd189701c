"""6,000 calls of every operator do not fill the memory; `make leaks` makes 100,000, with gradients and errors."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch
from leaks import LEAK, called, growth
from op_cases import OP_CASES, OpCase

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("case", OP_CASES, ids=[case.name for case in OP_CASES])
def test_operators_keep_no_memory(case: OpCase) -> None:
    assert growth(called(case), 6000) < LEAK


def test_a_leak_is_found() -> None:
    kept: list[torch.Tensor] = []
    assert growth(lambda: kept.append(torch.empty(20)), 2000) > 80 + LEAK
