"""Compiles every csrc/*.cpp for other processors and systems: is anything of x86 or Linux unguarded?

By zig's clang, which brings the headers of each (`pip install pydet[lint]`). The headers of torch are those of this
Python's: what they need is the same everywhere. Before that, a file with an instruction of x86 must be refused.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from check_abi import target_version

ROOT = Path(__file__).parent.parent.resolve()
TARGETS = ("aarch64-linux-gnu.2.28", "aarch64-macos.11.0")
FLAGS = ["-std=c++17", "-O0", "-fvisibility=hidden", target_version()]
FLAGS += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-parameter"]
ONLY_X86 = "#include <immintrin.h>\n__m256 twice(__m256 x) { return _mm256_add_ps(x, x); }\n"


def includes() -> list[str]:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        sys.exit("check_portable: torch is not installed")
    return [f"-I{ROOT / 'csrc'}", "-isystem", str(Path(spec.origin).parent / "include")]


def refused(target: str, folder: Path, file: Path) -> str:
    """What the compiler says of a file that it refuses."""
    command = [sys.executable, "-m", "ziglang", "c++", "-target", target, *FLAGS, *includes()]
    command += ["-c", str(file), "-o", str(folder / f"{file.stem}.o")]
    cache = os.environ | {"ZIG_GLOBAL_CACHE_DIR": str(folder)}
    result = subprocess.run(command, capture_output=True, text=True, env=cache)
    return (result.stderr or f"{file}: exit status {result.returncode}") if result.returncode else ""


def main() -> None:
    if importlib.util.find_spec("ziglang") is None:
        sys.exit("check_portable: zig is not installed: pip install pydet[lint]")
    files = sorted((ROOT / "csrc").glob("*.cpp"))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        planted = Path(folder, "only_x86.cpp")
        planted.write_text(ONLY_X86)
        for target in TARGETS:
            if "immintrin.h" not in refused(target, Path(folder), planted):
                sys.exit(f"check_portable: {target} takes an instruction of AVX")
            if errors := [said for said in pool.map(functools.partial(refused, target, Path(folder)), files) if said]:
                sys.exit("\n".join(errors) + f"\ncheck_portable: {target} refuses {len(errors)} of {len(files)} files")
            print(f"{target}: {len(files)} files", flush=True)


if __name__ == "__main__":
    main()
