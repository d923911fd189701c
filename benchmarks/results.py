"""The file of results: a run for each machine and form of the benchmarks, the newest last."""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import machine
from race import Ratio, Result

Run = dict[str, Any]

DEFAULT = Path(__file__).parent / "results" / f"cpu-{platform.machine()}.json"


def run_of(races: Mapping[str, Result], form: str, copy_bandwidth: float | None) -> Run:
    """What one session found: form is "full" or "short"."""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": machine.commit(),
        "form": form,
        **machine.description(),
        "versions": machine.versions(),
        "copy_bandwidth": copy_bandwidth,
        "races": {name: asdict(result) for name, result in races.items()},
    }


def read(path: Path) -> list[Run]:
    runs: list[Run] = json.loads(path.read_text(encoding="utf-8"))
    return runs


def add(path: Path, run: Run) -> None:
    """Writes a run into the file, in the place of what the same machine had found in the same form."""
    runs = [old for old in (read(path) if path.exists() else []) if _place(old) != _place(run)]
    path.write_text(json.dumps([*runs, _rounded(run)], indent=1) + "\n", encoding="utf-8")


def shown(runs: list[Run]) -> Run:
    """The run that README and plot show: the newest full one."""
    return [run for run in runs if run["form"] == "full"][-1]


def result(record: Mapping[str, Any]) -> Result:
    """A race as it was written."""
    found = Result(**record)
    if found.ratio is not None:
        found.ratio = Ratio(**record["ratio"])
    return found


def _place(run: Run) -> tuple[Any, ...]:
    return tuple(run[key] for key in ("form", "cpu", "cpu_level", "threads"))


def _rounded(value: Any) -> Any:
    """Four digits are more than a time is good for."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return value
