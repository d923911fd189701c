"""C++ that belongs to the tests: compiled by the machine's compiler, kept until a source of it changes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parent / "csrc"
# As in setup.py: what decides about rounding must be the same.
FLAGS = ["-std=c++17", "-O2", "-fPIC", "-shared", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]


def compile_cpp(folder: Path, output: str, sources: list[Path], flags: list[str]) -> Path:
    """Shared library `output` in `folder` from the sources, which may include files of csrc/ and tests/."""
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        pytest.skip(f"no C++ compiler: {compiler} was not found")
    command = [compiler, *FLAGS, f"-I{CSRC}", *map(str, sources), *flags]
    included = {*CSRC.rglob("*.*"), *HERE.rglob("*.[hc]*")}
    read = {path for path in included | set(sources) if path.suffix in (".h", ".cuh", ".cpp")}
    contents = hashlib.sha256(" ".join(command).encode())
    for path in sorted(read):
        contents.update(path.read_bytes())
    library, stamp = folder / output, folder / f"{output}.built-from"
    if not (library.exists() and stamp.exists() and stamp.read_text() == contents.hexdigest()):
        # Linked under another name and moved: a run beside this one never loads half a file.
        partial = folder / f"{output}.{os.getpid()}"
        subprocess.run([*command, "-o", str(partial)], check=True)
        partial.replace(library)
        stamp.write_text(contents.hexdigest())
    return library
