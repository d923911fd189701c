"""Finds and loads the compiled libraries, and says what to do when that fails."""

from __future__ import annotations

import os
from pathlib import Path

import torch

_FOLDER = Path(__file__).parent
CPU_LIBRARY = _FOLDER / "_C.so"
CUDA_LIBRARY = _FOLDER / "_C_cuda.so"
BUILD_RECORD = _FOLDER / "_build.txt"


def _load(path: Path) -> None:
    try:
        torch.ops.load_library(str(path))
    except OSError as error:  # the loader's own reason (a symbol, a missing file) is what helps
        raise ImportError(
            f"pydet: {path.name} could not be loaded under torch {torch.__version__}: {error}. "
            "pydet needs torch >= 2.10; rebuild it here with: pip install --force-reinstall --no-deps pydet"
        ) from error


def _load_cpu() -> None:
    if not CPU_LIBRARY.exists():
        raise ImportError(
            f"pydet: {CPU_LIBRARY} does not exist, so the operators were never built; "
            "install the package (pip install . or pip install -e .) instead of importing it from a source folder"
        )
    _load(CPU_LIBRARY)


def _left_out_because() -> str:
    """What setup.py wrote down when it left CUDA out."""
    choices = BUILD_RECORD.read_text(encoding="utf-8").splitlines() if BUILD_RECORD.exists() else []
    return next((line for line in choices if line.startswith("CPU library only")), "pydet was built without nvcc")


def _load_cuda() -> str | None:
    """Loads the CUDA library where it can serve; otherwise the reason why not."""
    if not CUDA_LIBRARY.exists():
        return f"this build has none: {_left_out_because()}"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA"
    _load(CUDA_LIBRARY)
    return None


_load_cpu()
CUDA_MISSING_BECAUSE: str | None = _load_cuda()
"""None when _C_cuda.so is loaded, else why it is not."""

if hasattr(os, "register_at_fork"):
    # OpenMP's threads do not come along into a forked child, which would wait for them for ever. So it computes in its
    # one thread, as a worker of torch's DataLoader does. A child that is spawned starts anew and has them all.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def cpu_level() -> str:
    """Instruction set that the CPU kernels use: "baseline", "avx2" or "avx512" (PYDET_CPU_LEVEL can lower it)."""
    return ("baseline", "avx2", "avx512")[torch.ops.pydet._cpu_level()]
