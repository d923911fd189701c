"""Pages that are mapped anew for large maps, in processes of their own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives large memory back at once")

MEASURE = """
import resource, torch, pydet
def pages():  # of one tensor; a small one that settles in between may cost others theirs once
    counts = [resource.getrusage(resource.RUSAGE_SELF).ru_minflt]
    for _ in range(8):
        torch.ones(10 << 20)  # 40 MiB
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    return min(after - before for before, after in zip(counts, counts[1:]))
pages()
"""


def run(code: str) -> list[float]:
    result = subprocess.run([sys.executable, "-c", MEASURE + code], capture_output=True, text=True, check=True)
    return [float(word) for word in result.stdout.split()]


def test_memory_is_mapped_once() -> None:
    before, after = run("print(pages()); pydet.keep_freed_memory(); pages(); print(pages())")
    assert before > 1000  # 10,240 of 4 KiB, or fewer large ones
    assert after < 10


def test_it_is_given_back_at_the_end() -> None:
    within, still, after = run(
        "from pathlib import Path\n"
        "def resident():\n    return int(Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize()\n"
        "before = resident()\n"
        "one = pydet.keep_freed_memory()\n"
        "with pydet.keep_freed_memory():\n"
        "    tensors = [torch.ones(10 << 20) for _ in range(8)]\n"
        "    del tensors\n"
        "    print(resident() - before)\n"
        "print(resident() - before)\n"  # the outer one still holds
        "one.__exit__(None, None, None)\n"
        "print(resident() - before)\n"
    )
    assert within > 300e6
    assert still > 300e6
    assert after < 30e6
