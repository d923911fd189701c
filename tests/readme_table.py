"""The README's operator table, from the registry: `python tests/readme_table.py` puts it in its place."""

from __future__ import annotations

import re
from pathlib import Path

from op_cases import OP_CASES, OpCase

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- operators: made by tests/readme_table.py -->\n", "<!-- end of operators -->"


def has(case: OpCase, path: str) -> bool:
    """Whether there is such a file and it speaks of the operator: one of a family need not serve all of it."""
    file = ROOT / path.format(case.stem)
    return file.is_file() and re.search(rf"\b{case.name}\b", file.read_text(encoding="utf-8")) is not None


def operator_table() -> str:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "csrc" / "cuda").glob("*.cu"))
    on_cuda = set(re.findall(r'm\.impl\("(\w+)"', sources))  # batched_nms has no file of its own
    rows = ["| operator | what it does | as in | CPU | CUDA | Triton |", "|---|---|---|---|---|---|"]
    for case in sorted(OP_CASES, key=lambda case: case.name):
        served = has(case, "csrc/{}.cpp"), case.name in on_cuda, has(case, "triton_kernels/{}.py")
        marks = ["yes" if kernel else "" for kernel in served]
        rows.append(f"| `{case.name}` | {case.summary} | {case.source} | {' | '.join(marks)} |")
    return "\n".join(rows) + "\n"


def with_table(readme: str) -> str:
    before, rest = readme.split(BEGIN)
    return before + BEGIN + operator_table() + END + rest.split(END)[1]


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")
