"""C++ of this project under the compiler's sanitizers: the flags, and the environment of a process that loads it."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

# Not what AddressSanitizer finds as well and takes as long again to compile.
ADDRESS = ["-fsanitize=address,undefined", "-fno-sanitize=null,vptr,object-size", "-fno-sanitize-recover=all"]
THREAD = ["-fsanitize=thread"]
SMALL = ["-g1", "-O1"]  # lines in the reports; what is compiled with more takes minutes
RUNTIMES = {"address": ("libasan.so", "libubsan.so"), "thread": ("libtsan.so",)}


def sanitized_environment(kind: str) -> dict[str, str] | None:
    """Of a process in which such code runs: the runtimes must be loaded before all else. None where there are none."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))[-1]
    runtimes = []
    for library in RUNTIMES[kind]:
        found = subprocess.run([compiler, f"-print-file-name={library}"], capture_output=True, text=True, check=False)
        runtimes.append(found.stdout.strip())
    if not all(Path(path).is_absolute() for path in runtimes):
        return None
    # Python leaks on purpose. A report ends the process, so that no test passes beside it.
    options = {
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1",
    }
    return {**os.environ, **options, "LD_PRELOAD": ":".join(runtimes)}
