"""How much memory a call takes, whoever allocates it, torch, numpy or a std::vector: the kernel counts the pages."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

PROCESS = Path("/proc/self")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def extra_bytes(function: Callable[[], Any]) -> int | None:
    """The most memory that a call holds at a time, beyond what was there before it and beyond its result.

    Linux with glibc only, elsewhere None. Exact to some 100 kB: the kernel counts pages in batches for each core.
    """
    if not sys.platform.startswith("linux") or not _trim():
        return None
    try:
        (PROCESS / "clear_refs").write_text("5")  # the peak is what is there now (Linux, proc(5))
    except OSError:
        return None
    before = _kilobytes("VmRSS")
    result = function()
    return max((_kilobytes("VmHWM") - before) * 1024 - result_bytes(result), 0)


def keep_freed_memory() -> None:
    """From now on glibc gives nothing back to the system: no result needs new pages.

    Whether it would depends on what was freed before and makes a call up to four times as slow in one process as in the
    next.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def result_bytes(result: Any) -> int:
    """Memory of the tensors and arrays of a result, each once."""
    if isinstance(result, torch.Tensor):
        return result.untyped_storage().nbytes()
    if isinstance(result, np.ndarray):
        return result.nbytes
    if isinstance(result, dict):
        return sum(map(result_bytes, result.values()))
    if isinstance(result, (tuple, list)):
        return sum(map(result_bytes, result))
    return 0


def _trim() -> bool:
    """Gives free memory back to the system: what lies in the heap would be taken again unseen."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return trim is not None


def _kilobytes(field: str) -> int:
    lines = (PROCESS / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
