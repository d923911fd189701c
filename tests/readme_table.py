"""The README's operator table, from the registry: `python tests/readme_table.py` puts it in its place."""

from __future__ import annotations

from pathlib import Path

from op_cases import OP_CASES

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- operators: made by tests/readme_table.py -->\n", "<!-- end of operators -->"


def operator_table() -> str:
    rows = ["| operator | what it does | as in | CPU | CUDA | Triton |", "|---|---|---|---|---|---|"]
    for case in sorted(OP_CASES, key=lambda case: case.name):
        has = ["csrc/{}.cpp", "csrc/cuda/{}.cu", "triton_kernels/{}.py"]
        marks = ["yes" if (ROOT / path.format(case.name)).is_file() else "" for path in has]
        rows.append(f"| `{case.name}` | {case.summary} | {case.source} | {' | '.join(marks)} |")
    return "\n".join(rows) + "\n"


def with_table(readme: str) -> str:
    before, rest = readme.split(BEGIN)
    return before + BEGIN + operator_table() + END + rest.split(END)[1]


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")
