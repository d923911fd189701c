"""Builds the CPU library with a sanitizer and runs the tests on it; a report fails the run.

    python .ci/sanitize.py address [arguments of pytest]    AddressSanitizer and UndefinedBehaviorSanitizer
    python .ci/sanitize.py thread [arguments of pytest]     ThreadSanitizer

Before that, faults planted in an operator (tests/sanitized/planted_faults.cpp) must be reported. All that is built lies
in build/sanitize-address/ or build/sanitize-thread/. Needs gcc or clang with the sanitizers' runtimes.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent.resolve()
TESTS = ROOT / "tests"
sys.path.insert(0, str(TESTS))
from check_abi import target_version  # noqa: E402
from compile_cpp import compile_cpp  # noqa: E402
from sanitizers import ADDRESS, SMALL, THREAD, sanitized_environment  # noqa: E402

FLAGS = {"address": ADDRESS, "thread": THREAD}
# What the report of each fault says; "none" is the operator without one.
FAULTS = {
    "address": {"read_beyond": "heap-buffer-overflow", "overflow": "signed integer overflow"},
    "thread": {"race": "data race"},
}
# Tests of something else than the C++: they start nvcc, Triton or builds, which crash under a runtime that is loaded
# before all else; they measure memory, of which a sanitizer keeps much; or they use sanitizers themselves.
ELSEWHERE = (
    "tests/test_build.py",
    "tests/test_build_checks.py",
    "tests/test_triton.py",
    "tests/test_triton_nms.py",
    "tests/test_leaks.py",
    "tests/test_memory.py",
    "tests/test_cuda_on_cpu.py::test_sanitizers",
    "tests/test_benchmark_results.py::test_extra_memory_is_what_is_neither_input_nor_result",
)
CALL = """
import sys, torch
torch.ops.load_library(sys.argv[1])
value = 2**31 - 1 if sys.argv[2] == "overflow" else 0
torch.ops.pydet_planted.planted(torch.full((1000,), value, dtype=torch.int32), sys.argv[2])
"""


def build(kind: str, folder: Path) -> None:
    """The package, as it is installed, in `folder`."""
    flags = shlex.join([*SMALL, *FLAGS[kind]])
    environment = {**os.environ, "FORCE_CUDA": "0", "CXXFLAGS": flags, "LDFLAGS": flags}
    command = [sys.executable, "setup.py", "--quiet", "build_py", f"--build-lib={folder}"]
    command += ["build_ext", f"--build-lib={folder}", f"--build-temp={folder / 'objects'}"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def environment_of(kind: str, folder: Path) -> dict[str, str]:
    environment = sanitized_environment(kind)
    if environment is None:
        sys.exit(f"sanitize: this compiler has no runtime for -fsanitize={kind}")
    if kind == "thread":
        threads = compile_cpp(folder, "threads.so", TESTS / "sanitized" / "threads.cpp", [*SMALL, *THREAD])
        environment["LD_PRELOAD"] += f":{threads}"
        environment["OMP_NUM_THREADS"] = "1"  # the rest of torch: see threads.cpp
    return environment


def check_that_faults_are_found(kind: str, folder: Path, environment: dict[str, str]) -> None:
    installed = Path(torch.__file__).parent
    flags = [target_version(), f"-isystem{installed / 'include'}"]
    flags += [f"-L{installed / 'lib'}", "-ltorch_cpu", *SMALL, *FLAGS[kind]]
    library = compile_cpp(folder, "planted_faults.so", TESTS / "sanitized" / "planted_faults.cpp", flags)
    for fault, report in {"none": "", **FAULTS[kind]}.items():
        command = [sys.executable, "-c", CALL, str(library), fault]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        found = report in done.stderr if report else done.returncode == 0
        if not found or (report and done.returncode == 0):
            sys.exit(f"sanitize: planted fault {fault!r}: '{report}' was not reported:\n{done.stdout}{done.stderr}")
        print(f"sanitize: planted fault {fault!r}: {report or 'nothing is reported'}", flush=True)


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in FLAGS:
        sys.exit(__doc__)
    kind, arguments = sys.argv[1], sys.argv[2:]
    folder = ROOT / "build" / f"sanitize-{kind}"
    build(kind, folder)
    environment = environment_of(kind, folder)
    check_that_faults_are_found(kind, folder, environment)
    environment["PYTHONPATH"] = str(folder)
    elsewhere = [f"--deselect={test}" for test in ELSEWHERE]
    command = [f"{sys.exec_prefix}/bin/pytest", *elsewhere, *arguments]  # not `python -m`, which looks here first
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
