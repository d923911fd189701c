"""Does an operator keep memory? `python tests/leaks.py` calls each 100,000 times on small inputs and prints, in bytes a
call, how the memory of the process grew between the later tenths of them.

A tensor that a call forgets is at least 64 bytes; allocators and caches grow at first and then stand still.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from op_cases import OP_CASES, OpCase
from op_checks import gradients, outputs

LEAK = 16.0  # bytes a call: less than any object or tensor
TENTHS = 10
CALLS = 100_000


def resident() -> int:
    """Bytes that the process has in memory, less what its allocator only keeps."""
    with contextlib.suppress(AttributeError, OSError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth(call: Callable[[], object], calls: int) -> float:
    """Bytes a call: the slope of a line through the memory after each tenth, by Theil and Sen, who mind no jump."""
    tenth = max(calls // TENTHS, 1)
    memory = []
    for _ in range(TENTHS):
        for _ in range(tenth):
            call()
        memory.append(resident())
    late = memory[2:]
    slopes = [(late[j] - late[i]) / (j - i) for i in range(len(late)) for j in range(i + 1, len(late))]
    return sorted(slopes)[len(slopes) // 2] / tenth


def called(case: OpCase) -> Callable[[], object]:
    """Forward, on inputs of a few rows."""
    args = case.inputs(next(size for size in case.sizes if size > 1))
    return lambda: outputs(case.function(*args))


def differentiated(case: OpCase) -> Callable[[], object]:
    args = case.inputs(next(size for size in case.sizes if size > 1))
    return lambda: gradients(case, case.function, args)


def refused(case: OpCase) -> Callable[[], object]:
    """An error is thrown through the C++ code."""
    args = tuple(arg.to(torch.complex64) if i in case.floating else arg for i, arg in enumerate(case.inputs(2)))

    def call() -> None:
        try:
            case.function(*args)
        except (RuntimeError, ValueError, TypeError):
            return
        raise AssertionError(f"{case.name} takes complex numbers")

    return call


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--only", default="", help="operators whose name has this in it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ways = {"forward": called, "gradient": differentiated, "error": refused}
    print(f"{'bytes a call':28}" + "".join(f"{way:>10}" for way in ways) + f"{'calls':>12}{'s':>8}", flush=True)
    leaking = []
    for case in OP_CASES:
        if options.only not in case.name:
            continue
        began, line = time.monotonic(), f"{case.name:28}"
        for way, make in ways.items():
            if way == "gradient" and not case.gradients:
                line += f"{'-':>10}"
                continue
            calls = options.calls if way == "forward" else options.calls // 10
            slope = growth(make(case), calls)
            line += f"{slope:10.2f}"
            leaking += [f"{case.name} {way}"] if slope > LEAK else []
        print(f"{line}{options.calls:12,}{time.monotonic() - began:8.1f}", flush=True)
    print(f"leaks: {', '.join(leaking) or 'none'}")
    return int(bool(leaking))


if __name__ == "__main__":
    sys.exit(main())
