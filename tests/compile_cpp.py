"""C++ that belongs to the tests: compiled by the machine's compiler, kept until a file that it includes changes."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parent / "csrc"
# As in setup.py: what decides about rounding must be the same.
FLAGS = ["-std=c++17", "-O2", "-fPIC", "-shared", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]


def _contents(command: list[str], read: list[Path]) -> str:
    contents = hashlib.sha256(shlex.join(command).encode())
    for path in read:
        contents.update(path.read_bytes() if path.exists() else b"gone")
    return contents.hexdigest()


def compile_cpp(folder: Path, output: str, source: Path, flags: list[str]) -> Path:
    """Shared library `output` in `folder` from `source`, which may include files of csrc/ and tests/."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"no C++ compiler: {compiler[0]} was not found")
    command = [*compiler, *FLAGS, f"-I{CSRC}", "-xc++", str(source), "-xnone", *flags]  # -x: a .cu too
    library, stamp = folder / output, folder / f"{output}.built-from"
    if library.exists() and stamp.exists():
        built_from, *read = stamp.read_text().splitlines()
        if built_from == _contents(command, [Path(name) for name in read]):
            return library
    # Linked under another name and moved: a run beside this one never loads half a file.
    partial, depends = folder / f"{output}.{os.getpid()}", folder / f"{output}.{os.getpid()}.d"
    into = ["-MMD", "-MF", str(depends), "-o", str(partial)]
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # that of a sanitizer
    done = subprocess.run([*command, *into], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{source.name} does not compile:\n{done.stderr}"
    read = re.split(r"(?<!\\)\s+", depends.read_text().replace("\\\n", " ").split(": ", 1)[1].strip())
    depends.unlink()
    partial.replace(library)
    stamp.write_text("\n".join([_contents(command, [Path(name) for name in read]), *read]))
    return library
