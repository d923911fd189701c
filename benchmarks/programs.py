"""The table of `make programs`: programs that others wrote, as they are and on pydet's operators.

python benchmarks/programs.py FILE, where `pytest benchmarks/test_dropin.py --results FILE` has put its races.
"""

from __future__ import annotations

import sys
from pathlib import Path

import results
import test_dropin

from pydet.info import aligned


def table(path: Path) -> str:
    """A row for each program: milliseconds on its own operators and on pydet's.

    A race takes no time where the results differ by more than rounding, so that each of them is of equal ones.

    Raises:
        ValueError: a program did not run.
    """
    races = results.read(path)[-1]["races"]
    missing = [name for name in vars(test_dropin) if name.startswith("test_") and name not in races]
    if missing:
        raise ValueError(f"these did not run: {', '.join(missing)}")
    rows = [("program", "ms", "with pydet", "times", "equal")]
    for name, race in races.items():
        seconds = dict(race["seconds"])
        ours = seconds.pop("pydet")
        (theirs,) = seconds.values()
        rows.append(
            (name[5:].replace("_", " "), f"{1e3 * theirs:.2f}", f"{1e3 * ours:.2f}", f"{theirs / ours:.1f}", "yes")
        )
    return aligned(rows)


if __name__ == "__main__":
    print(table(Path(sys.argv[1])))
