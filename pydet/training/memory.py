"""Memory that is freed stays in the process while it trains on the CPU."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's mallopt: from how much on free memory is given back, and an allocation is mapped by itself."""
LARGEST_OF_ITS_OWN = 32 << 20
"""What glibc's thresholds rise to by themselves; the first of them to twice as much."""


@contextlib.contextmanager
def freed_memory_kept(device: torch.device) -> Iterator[None]:
    """On the CPU: the maps of one update get the memory of those of the update before.

    As glibc does it by itself, whatever has more than 32 MiB comes from the system and goes back at once; the 60,000
    pages that are so mapped and cleared in an update of YOLOv3-tiny with 8 pictures took a fifth of its time.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" and device.type == "cpu" else None
    if library is None or not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):  # musl has neither
        yield
        return
    library.mallopt(M_MMAP_THRESHOLD, 1 << 30)
    library.mallopt(M_TRIM_THRESHOLD, -1)  # never
    try:
        yield
    finally:
        library.mallopt(M_MMAP_THRESHOLD, LARGEST_OF_ITS_OWN)
        library.mallopt(M_TRIM_THRESHOLD, 2 * LARGEST_OF_ITS_OWN)
        library.malloc_trim(0)
