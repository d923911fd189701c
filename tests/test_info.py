"""`pydet info` says what is really used."""

from __future__ import annotations

import platform

import torch

import pydet
from pydet import _library
from pydet.info import aligned, info


def test_versions_libraries_and_backends() -> None:
    text = info()
    lines = dict(line.split(maxsplit=1) for line in text.splitlines() if line)
    assert lines["pydet"].startswith(pydet.__version__)
    assert lines["torch"] == torch.__version__
    assert lines["python"].startswith(platform.python_version())
    assert f"_C.so, instruction set {pydet.ops.backend_of('nms')[1]}" in text
    for name in pydet.ops.OPERATORS:
        backend, why = pydet.ops.backend_of(name)
        assert lines[name].startswith(f"{backend} ({why})")


def test_a_forced_backend_shows() -> None:
    before = info()
    with pydet.ops.set_backend("reference"):
        assert info().count("reference (set_backend)") == 2 * len(pydet.ops.OPERATORS)
    assert info() == before


def test_why_there_is_no_cuda() -> None:
    if not _library.CUDA_LIBRARY.exists():
        assert "not loaded: this build has none: " in info()
    elif torch.version.cuda is None:
        assert f"not loaded: torch {torch.__version__} is a build without CUDA" in info()
    if not torch.cuda.is_available():
        assert "CUDA devices" in info()
        assert "none" in info()


def test_aligned() -> None:
    assert aligned([("a", "bb", "c"), ("aaa", "b", "")]) == "a    bb  c\naaa  b"
