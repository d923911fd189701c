"""set_backend and backend_of; that every operator follows is in test_ops.py."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from pydet import ops
from pydet.ops import _backend


def test_nested_and_restored() -> None:
    with ops.set_backend("reference"):
        with ops.set_backend("compiled"):
            assert ops.backend_of("nms")[0] == "compiled"
        assert ops.backend_of("nms") == ("reference", "set_backend")
    assert ops.backend_of("nms")[0] == "compiled"


def test_names_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="backend must be auto, compiled, triton or reference, got 'fast'"):
        ops.set_backend("fast")
    with pytest.raises(ValueError, match="no operator 'nmz'; there are anchor_kmeans, batched_nms"):
        ops.backend_of("nmz")


def test_what_cannot_be_served_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_backend._fallbacks, "nms", ("reference", "it has no CUDA kernel yet"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with ops.set_backend("reference"):
        with pytest.raises(RuntimeError, match="no compiled CUDA kernel here for nms"):
            ops.set_backend("compiled")
        with pytest.raises(RuntimeError, match="triton is not installed"):
            ops.set_backend("triton")
        assert ops.backend_of("nms") == ("reference", "set_backend")


def test_triton_serves_gradients_too() -> None:
    pytest.importorskip("triton")
    names = [f"pydet::_sigmoid_focal_loss_{part}" for part in ("with_gradient", "backward")]
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    before = [has(name, "CUDA") for name in names]
    with ops.set_backend("triton"):
        assert all(has(name, "CUDA") for name in names)
    assert [has(name, "CUDA") for name in names] == before
