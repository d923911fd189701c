"""Triton's nms where its loops go around more than once: tiles of one box, few launches, in the interpreter."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from pydet import reference

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.mark.skipif(INTERPRETED, reason="starts this process")
def test_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "2 passed, 1 skipped" in process.stdout


@pytest.mark.skipif(not INTERPRETED, reason="runs in the process that test_interpreter starts")
@pytest.mark.parametrize("launches", [1, 2])
def test_more_tiles_than_are_compared_at_a_time(monkeypatch: pytest.MonkeyPatch, launches: int) -> None:
    """132 boxes in a row, the last of which form a chain over the 128th; no launch but the last may decide them all."""
    from pydet.triton_kernels import nms

    monkeypatch.setattr(nms, "TILE", 1)
    monkeypatch.setattr(nms, "LAUNCHES", launches)
    left = torch.cat([torch.arange(124) * 40.0, 124 * 40.0 + torch.arange(8) * 5])
    boxes = torch.stack([left, torch.zeros(132), left + 20, torch.full((132,), 20.0)], dim=1)
    scores = torch.arange(132.0)  # the chain is decided from its far end on
    kept = nms.nms(boxes, scores, 0.5)
    assert torch.equal(kept, reference.nms(boxes, scores, 0.5))
    assert len(kept) == 124 + 4
