"""Every operator gives the same results at every instruction set that this machine has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from op_cases import OP_CASES, OpCase

HERE = Path(__file__).parent
LEVELS = ("baseline", "avx2", "avx512")
# Computes each case at each size and dtype and saves it; the level is chosen when the library is loaded.
SCRIPT = """
import sys, torch
from op_cases import OP_CASES
from pydet._library import cpu_level
results = {
    (case.name, size, str(dtype)): case.function(*case.inputs(size, dtype=dtype))
    for case in OP_CASES for size in case.sizes for dtype in case.dtypes
}
torch.save((cpu_level(), results), sys.argv[1])
"""


def run_python(level: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYDET_CPU_LEVEL": level, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=HERE, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Level that was really used -> its results."""
    found = {}
    for level in LEVELS:
        path = tmp_path_factory.mktemp("levels") / f"{level}.pt"
        process = run_python(level, "-c", SCRIPT, str(path))
        assert process.returncode == 0, process.stderr
        used, values = torch.load(path)
        found[used] = values
    return found


@pytest.mark.parametrize("level", LEVELS[1:])
@pytest.mark.parametrize("case", OP_CASES, ids=[case.name for case in OP_CASES])
def test_levels_agree(results: dict[str, Any], case: OpCase, level: str) -> None:
    if level not in results:
        pytest.skip(f"this machine has no {level}")
    rtol, atol = case.tolerance or (0, 0)
    compared = 0
    for key, expected in results["baseline"].items():
        if key[0] == case.name:
            torch.testing.assert_close(results[level][key], expected, rtol=rtol, atol=atol, equal_nan=True)
            compared += 1
    assert compared == len(case.sizes) * len(case.dtypes)


@pytest.mark.parametrize("case", OP_CASES, ids=[case.name for case in OP_CASES])
def test_avx2_and_avx512_are_the_same_bits(results: dict[str, Any], case: OpCase) -> None:
    """Where arithmetic asks for fused multiply-adds only the baseline, which has none, differs, in the last digits."""
    if not {"avx2", "avx512"} <= set(results):
        pytest.skip("this machine has not both")
    for key, expected in results["avx2"].items():
        if key[0] == case.name:
            torch.testing.assert_close(results["avx512"][key], expected, rtol=0, atol=0, equal_nan=True)


def test_baseline_can_be_forced(results: dict[str, Any]) -> None:
    assert "baseline" in results


def test_unknown_level_says_what_there_is() -> None:
    process = run_python("sse9", "-c", "from pydet._library import cpu_level; cpu_level()")
    assert process.returncode != 0
    assert "PYDET_CPU_LEVEL must be baseline, avx2 or avx512, got sse9" in process.stderr
