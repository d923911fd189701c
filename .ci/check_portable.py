"""Builds the CPU library for other processors and systems: is anything of x86 or Linux outside its guards?

By zig's clang, which brings the headers and libraries of each (`pip install pydet[lint]`). The headers of torch are
those of this Python's: what they need is the same everywhere. torch's own library is not there, so its symbols stay
open, as they do on macOS. Before that, a file with an instruction of x86 must be refused.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
# zig's name of each, and the flags with which setup.py links there.
TARGETS = {
    "aarch64-linux-gnu.2.28": ["-shared"],
    "aarch64-macos.11.0": ["-shared", "-undefined", "dynamic_lookup"],
}
FLAGS = ["-std=c++17", "-O0", "-fPIC", "-fvisibility=hidden", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
FLAGS += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-parameter"]
ONLY_X86 = "#include <immintrin.h>\n__m256 twice(__m256 x) { return _mm256_add_ps(x, x); }\n"


def includes() -> list[str]:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        sys.exit("check_portable: torch is not installed")
    return [f"-I{ROOT / 'csrc'}", "-isystem", str(Path(spec.origin).parent / "include")]


def zig(target: str, *arguments: str) -> str:
    """What the compiler says where it refuses."""
    command = [sys.executable, "-m", "ziglang", "c++", "-target", target, *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    return (result.stderr or f"exit status {result.returncode}") if result.returncode else ""


def check(target: str, files: list[Path], folder: Path) -> None:
    objects = [str(folder / f"{file.stem}.o") for file in files]
    with ThreadPoolExecutor() as pool:
        jobs = [
            pool.submit(zig, target, *FLAGS, *includes(), "-c", str(file), "-o", built)
            for file, built in zip(files, objects, strict=True)
        ]
    if errors := [said for job in jobs if (said := job.result())]:
        sys.exit("\n".join(errors) + f"\ncheck_portable: {target} refuses {len(errors)} of {len(files)} files")
    library = folder / f"{target}.so"
    if said := zig(target, *TARGETS[target], *objects, "-o", str(library)):
        sys.exit(f"{said}\ncheck_portable: {target} does not link")
    print(f"{target}: {len(files)} files, {library.stat().st_size / 2**20:.1f} MB", flush=True)


def main() -> None:
    if importlib.util.find_spec("ziglang") is None:
        sys.exit("check_portable: zig is not installed: pip install pydet[lint]")
    with tempfile.TemporaryDirectory() as folder:
        planted = Path(folder, "only_x86.cpp")
        planted.write_text(ONLY_X86)
        for target in TARGETS:
            refused = zig(target, *FLAGS, "-c", str(planted), "-o", f"{folder}/planted.o")
            if not refused:
                sys.exit(f"check_portable: {target} takes an instruction of AVX")
            check(target, sorted((ROOT / "csrc").glob("*.cpp")), Path(folder))


if __name__ == "__main__":
    main()
