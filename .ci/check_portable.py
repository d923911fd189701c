"""Compiles every csrc/*.cpp for processors other than this one, without code: is anything of x86 outside its guards?

With g++ for 64-bit ARM (`apt-get install g++-aarch64-linux-gnu`), which is skipped where it is missing. The headers of
torch are those of this Python's: what they need is the same on every processor.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMPILERS = ("aarch64-linux-gnu-g++",)
FLAGS = ["-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-parameter"]
FLAGS += ["-fvisibility=hidden", "-DTORCH_TARGET_VERSION=0x020a000000000000"]


def includes() -> list[str]:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        sys.exit("check_portable: torch is not installed")
    return [f"-I{ROOT / 'csrc'}", "-isystem", str(Path(spec.origin).parent / "include")]


def compile_all(compiler: str, files: list[Path]) -> list[str]:
    """What the compiler says of each file that it refuses."""

    def refused(file: Path) -> str:
        command = [compiler, *FLAGS, *includes(), str(file)]
        result = subprocess.run(command, capture_output=True, text=True)
        return result.stderr if result.returncode else ""

    with ThreadPoolExecutor() as pool:
        return [errors for errors in pool.map(refused, files) if errors]


def main(files: list[Path]) -> None:
    compilers = [compiler for compiler in COMPILERS if shutil.which(compiler)]
    if not compilers:
        print(f"none of {', '.join(COMPILERS)} is here: skipped")
    for compiler in compilers:
        if errors := compile_all(compiler, files):
            sys.exit("\n".join(errors) + f"\ncheck_portable: {compiler} refuses {len(errors)} of {len(files)} files")
        print(f"{compiler}: {len(files)} files")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or sorted((ROOT / "csrc").glob("*.cpp")))
