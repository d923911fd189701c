"""Tests one wheel under several environments and writes what was found to benchmarks/results/wheels.md:

    python .ci/wheel_results.py dist/pydet-0.1.0-py3-none-linux_x86_64.whl .venv/bin/python .venv-bench/bin/python

Each environment has a torch, numpy, pytest and hypothesis. The wheel is unpacked beside it, not installed, and
test_ops.py runs on it. A row of the same Python and torch is replaced, others stay, but only those of the same wheel:
the table begins anew with another one.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "wheels.md"
HEAD = """\
# One wheel under these versions

Rows are written by `.ci/wheel_results.py`: `tests/test_ops.py` on what one wheel holds, without its tests of
torch.compile, export and opcheck, and on the CPU also where torch is a CUDA build. Skipped is what asks for a gradient
or a rule for vmap that the operator does not have.

`{name}`
(sha256 {sha256})

| Python | torch | tests | date |
|---|---|---|---|
"""
LEFT_OUT = "not compile and not export and not opcheck"  # minutes, and of torch rather than of the wheel
DESCRIBE = (
    "import platform, torch, pydet; pydet.ops.nms; print(platform.python_version(), torch.__version__, pydet.__file__)"
)


def row_of(python: str, folder: Path) -> tuple[str, str, bool]:
    """Python and torch of an environment as the key, the row, and whether the tests passed."""
    packages, tests = folder / "packages", folder / "tests"
    start = [python, "-c", f"import sys; sys.path.insert(0, {str(packages)!r}); {DESCRIBE}"]
    version, torch, file = subprocess.run(start, cwd=folder, capture_output=True, text=True, check=True).stdout.split()
    if not file.startswith(str(packages)):
        sys.exit(f"wheel_results: {python} imports pydet from {file}, not from the wheel")
    command = f"import sys, pytest; sys.path.insert(0, {str(packages)!r}); sys.exit(pytest.main(sys.argv[1:]))"
    arguments = ["-q", "-p", "no:cacheprovider", "test_ops.py", "-k", LEFT_OUT]
    run = subprocess.run([python, "-c", command, *arguments], cwd=tests, capture_output=True, text=True)
    summary = run.stdout.strip().splitlines()[-1] if run.stdout.strip() else run.stderr.strip().splitlines()[-1]
    print(f"Python {version}, torch {torch}: {summary}", flush=True)
    found = re.sub(r" in [\d.]+s.*", "", summary) if run.returncode == 0 else f"FAILED: {summary}"
    return f"| {version} | {torch} |", f"| {version} | {torch} | {found} | {date.today()} |", run.returncode == 0


def main(wheel: Path, pythons: list[str]) -> None:
    head = HEAD.format(name=wheel.name, sha256=hashlib.sha256(wheel.read_bytes()).hexdigest())
    before = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
    lines = before.splitlines() if before.startswith(head) else []
    rows = {match[0]: line for line in lines if (match := re.match(r"\| \d[\d.]* \| \d\S* \|", line))}
    all_passed = True
    for python in pythons:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            zipfile.ZipFile(wheel).extractall(folder / "packages")
            shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__", "data"))
            shutil.copy(ROOT / "pyproject.toml", folder / "tests")
            key, row, passed = row_of(python, folder)
            rows[key] = row
            all_passed &= passed
            RESULTS.write_text(head + "\n".join(rows[key] for key in sorted(rows)) + "\n", encoding="utf-8")
    sys.exit(0 if all_passed else 1)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python .ci/wheel_results.py WHEEL PYTHON...")
    main(Path(sys.argv[1]), sys.argv[2:])
