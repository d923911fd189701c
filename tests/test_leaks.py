"""6,000 calls of every operator do not fill the memory; `make leaks` makes 100,000, with gradients and errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from leaks import LEAK, called, growth
from op_cases import OP_CASES, OpCase

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def grown() -> dict[str, float]:
    """Bytes a call, in a new process: the memory of this one, which many tests have used, moves by itself."""
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, __file__], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", OP_CASES, ids=[case.name for case in OP_CASES])
def test_operators_keep_no_memory(case: OpCase, grown: dict[str, float]) -> None:
    assert grown[case.name] < LEAK


def test_a_leak_is_found(grown: dict[str, float]) -> None:
    assert grown["planted"] > 80 + LEAK


def least_growth(case: OpCase) -> float:
    """Of three measurements, unless the first is good: a leak is in all of them, what else moves memory is not."""
    first = growth(called(case), 6000)
    return first if first < LEAK else min(growth(called(case), 6000) for _ in range(2))


if __name__ == "__main__":  # in the process that `grown` starts
    torch.set_num_threads(1)
    kept: list[torch.Tensor] = []
    found = {"planted": growth(lambda: kept.append(torch.empty(20)), 2000)}
    print(json.dumps(found | {case.name: least_growth(case) for case in OP_CASES}))
