"""Compiles every csrc/cuda/*.cu for every architecture of setup.py and fails on spills and stack frames: no GPU needed.

    python .ci/check_cuda.py [reports of ptxas]

A spilled register or an array that went to local memory makes a kernel several times slower and nothing else tells.
setup.py keeps the report of ptxas beside each object.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LINE = re.compile(
    r"Compiling entry function '(?P<kernel>\w+)' for '(?P<arch>\w+)'"
    r"|(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
    r"|Used (?P<registers>\d+) registers"
)


def build() -> list[Path]:
    """The reports of a build for all architectures; what is already built for them is not compiled again."""
    environment = {name: value for name, value in os.environ.items() if name != "TORCH_CUDA_ARCH_LIST"}
    environment["FORCE_CUDA"] = "1"
    subprocess.run([sys.executable, "setup.py", "-q", "build_ext"], cwd=ROOT, env=environment, check=True)
    sources = sorted(path.name for path in (ROOT / "csrc" / "cuda").glob("*.cu"))
    reports = [path for name in sources for path in ROOT.glob(f"build/temp*/pydet._C_cuda/csrc_cuda_{name}.o.ptxas")]
    if not reports or len(reports) != len(sources):
        sys.exit(f"check_cuda: {len(sources)} sources but {len(reports)} reports; remove build/ and try again")
    return reports


def check(report: Path) -> list[str]:
    """What is wrong in one report, a sentence each; prints what it has seen."""
    kernel, arch = "?", "?"
    seen: set[tuple[str, str]] = set()
    registers, complaints = 0, []
    for match in LINE.finditer(report.read_text()):
        if match["kernel"]:
            kernel, arch = match["kernel"], match["arch"]
            seen.add((kernel, arch))
        elif match["registers"]:
            registers = max(registers, int(match["registers"]))
        elif any(int(match[name]) for name in ("stack", "stores", "loads")):
            name = subprocess.run(["c++filt", kernel], capture_output=True, text=True, check=False).stdout.strip()
            complaints.append(f"{report.name}: {name} for {arch}: {match[0]}")
    if not seen:
        complaints.append(f"{report.name}: no kernel in this report of ptxas")
    archs = sorted({arch for _, arch in seen}, key=lambda arch: int(arch[3:].rstrip("af")))
    kernels = len({kernel for kernel, _ in seen})
    print(f"{report.name}: {kernels} kernels for {' '.join(archs)}, at most {registers} registers")
    return complaints


def main() -> None:
    complaints = [sentence for report in map(Path, sys.argv[1:] or build()) for sentence in check(Path(report))]
    print("\n".join(complaints) or "no spills, no stack frames")
    sys.exit(bool(complaints))


if __name__ == "__main__":
    main()
