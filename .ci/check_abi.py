"""Fails when a built library needs more of its surroundings than LibTorch's stable ABI at its oldest supported version.

    python .ci/check_abi.py [pydet/_C.so pydet/_C_cuda.so]

Allowed are the system's own libraries (their symbols carry a version: GLIBC_..., GLIBCXX_..., CXXABI_..., GCC_...) and
the C functions that torch's stable headers declare when they are compiled for TORCH_TARGET_VERSION as setup.py does:
that list is taken from the preprocessor, so torch's own version guards decide. What only a CUDA build of torch has is
allowed in _C_cuda.so alone. Nothing may be exported: the libraries register themselves with torch when they are loaded.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
STABLE_HEADERS = ("library", "ops", "tensor", "accelerator")
SYSTEM_SYMBOL = re.compile(r"@+(GLIBC|GLIBCXX|CXXABI|GCC)_")
# Weak: used where they are there. Hooks of the toolchain, and what torch has had since 2.13 (csrc/torch_errors.h).
WEAK = {"_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable", "__gmon_start__", "__cxa_finalize"}
WEAK |= {"torch_exception_get_what_without_backtrace"}
LIBRARIES = re.compile(r"lib(torch|torch_cpu|stdc\+\+|gcc_s|c|m|dl|rt|pthread)\.so|ld-linux")


def run(*command: str, text: str | None = None) -> str:
    return subprocess.run(command, input=text, check=True, capture_output=True, text=True).stdout


def target_version() -> str:
    """How a compiler is told of the oldest torch: as setup.py does it, where that version stands."""
    oldest = re.search(r"OLDEST_TORCH = \((\d+), (\d+)\)", (ROOT / "setup.py").read_text())
    assert oldest is not None
    return f"-DTORCH_TARGET_VERSION=0x{int(oldest[1]):02x}{int(oldest[2]):02x}000000000000"


def stable_functions(cuda: bool) -> set[str]:
    """Names of the C functions of the stable ABI, as declared by the torch of this environment."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        sys.exit("check_abi: torch is not installed, and its headers say what is allowed")
    defines = [target_version()]
    if cuda:
        defines.append("-DUSE_CUDA")
    includes = "".join(f"#include <torch/csrc/stable/{name}.h>\n" for name in STABLE_HEADERS)
    command = [*shlex.split(os.environ.get("CXX", "c++")), "-std=c++17", "-E", "-P", "-x", "c++", "-"]
    text = run(*command, *defines, "-isystem", str(Path(spec.origin).parent / "include"), text=includes)
    # What AOTI_TORCH_EXPORT becomes, a type, the name.
    return set(re.findall(r'__attribute__\(\(__visibility__\("default"\)\)\)\s+[\w\s*]+?(\w+)\(', text))


def complaints(library: Path) -> list[str]:
    """What is wrong with one library, a sentence each."""
    allowed = stable_functions(cuda="_cuda" in library.name)
    found = []
    for line in run("nm", "-D", "--undefined-only", str(library)).splitlines():
        kind, symbol = line.split()[-2:]
        if SYSTEM_SYMBOL.search(symbol) or symbol in allowed or (kind == "w" and symbol in WEAK):
            continue
        python = "the Python API" if re.match(r"_?Py", symbol) else "neither torch's stable ABI nor the system's"
        found.append(f"uses {run('c++filt', symbol).strip()}, which is {python}")
    for line in run("nm", "-D", "--defined-only", str(library)).splitlines():
        found.append(f"exports {run('c++filt', line.split()[-1]).strip()}; nothing has to be visible")
    for name in re.findall(r"\(NEEDED\).*\[(.+)\]", run("readelf", "-d", "-W", str(library))):
        if not LIBRARIES.match(name):
            found.append(f"needs the library {name}")
    return found


def main() -> None:
    built = [ROOT / "pydet" / "_C.so", ROOT / "pydet" / "_C_cuda.so"]
    libraries = [Path(arg) for arg in sys.argv[1:]] or [path for path in built if path.exists()]
    if not libraries:
        sys.exit("check_abi: nothing is built; run make test or pip install -e . first")
    failed = False
    for library in libraries:
        found = complaints(library)
        failed |= bool(found)
        print("\n".join(f"{library.name} {sentence}" for sentence in found) or f"{library.name}: stable ABI only")
    sys.exit(failed)


if __name__ == "__main__":
    main()
