"""A GPU and a build without CUDA: Triton serves, else the reference with one warning; `pydet info` says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from op_cases import OP_CASES

from pydet.ops._backend import _triton_operator

CORE = ("box_iou", "match_anchors", "nms", "yolo_decode")
WITH_TRITON = [case.name for case in OP_CASES if _triton_operator(case.name) is not None]
WITHOUT = [case.name for case in OP_CASES if case.name not in WITH_TRITON]


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    script = Path(__file__).parent / "backend_without_nvcc.py"
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    process = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return json.loads(process.stdout)


def test_triton_serves_where_it_has_a_kernel(report: dict[str, Any]) -> None:
    pytest.importorskip("triton")
    assert set(CORE) <= set(WITH_TRITON)
    for name in WITH_TRITON:
        assert report["backends"][name][0] == "triton"
        assert report["warnings"][name] == []


def test_the_reference_serves_the_rest_and_warns_once(report: dict[str, Any]) -> None:
    for name in WITHOUT:
        backend, why = report["backends"][name]
        assert backend == "reference"
        assert report["warnings"][name] == [f"pydet: {name} runs as the slow PyTorch reference on CUDA: {why}"]


def test_info_says_what_serves_and_why(report: dict[str, Any]) -> None:
    lines = {line.split()[0]: line for line in report["info"].splitlines() if line}
    for name, (backend, why) in report["backends"].items():
        assert why
        assert lines[name].endswith(f"{backend} ({why})")


def test_compiled_cannot_be_forced(report: dict[str, Any]) -> None:
    assert report["compiled"].startswith("set_backend: no compiled CUDA kernel here for anchor_kmeans, batched_nms")
    assert report["compiled"].endswith("see pydet info")
