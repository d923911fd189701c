"""What is installed here and what serves each operator: the text to paste into a bug report."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from pydet import __version__, _library, ops

_PACKAGES = ("numpy", "pillow", "safetensors", "triton", "pycocotools", "faster-coco-eval", "onnx", "onnxruntime")


def info() -> str:
    """Versions, loaded libraries, devices, and the backend of every operator with the reason, as aligned text."""
    facts = [
        ("pydet", f"{__version__} in {Path(__file__).parent}"),
        ("python", f"{platform.python_version()} on {platform.platform()}"),
        ("torch", torch.__version__),
        *((package, _version(package)) for package in _PACKAGES),
        ("CPU library", f"{_library.CPU_LIBRARY.name}, instruction set {_library.cpu_level()}"),
        ("CUDA library", _cuda_library()),
        ("CPU threads", str(torch.get_num_threads())),
        ("CUDA devices", _cuda_devices()),
    ]
    backends = [("operator", "on the CPU", "on CUDA")]
    for name in ops.OPERATORS:
        backends.append(
            (name, "{} ({})".format(*ops.backend_of(name)), "{} ({})".format(*ops.backend_of(name, "cuda")))
        )
    return aligned(facts) + "\n\n" + aligned(backends)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cuda_library() -> str:
    reason = _library.CUDA_MISSING_BECAUSE
    return f"not loaded: {reason}" if reason else _library.CUDA_LIBRARY.name


def _cuda_devices() -> str:
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ", ".join(names) or "none"
