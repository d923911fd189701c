"""Races: the same work by several libraries in one run, correctness first, interleaved, medians, ratios."""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from report import readable

from pydet import _library

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))  # op_cases: one registry for tests and benchmarks

SAMPLE_SECONDS = 0.0005
"""Calls are repeated until a sample takes this long, well above the clock's resolution."""

Contenders = dict[str, Callable[[], Any]]
_results: list[tuple[str, dict[str, float]]] = []


def peer(name: str) -> Any | None:
    """A library to compare with, or None where it is not installed."""
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def _seconds(function: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def _race(contenders: Contenders, budget: float) -> dict[str, float]:
    calls = {name: max(1, int(SAMPLE_SECONDS / _seconds(function, 1))) for name, function in contenders.items()}
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    stop = time.perf_counter() + budget
    while time.perf_counter() < stop or len(samples["pydet"]) < 5:
        for name, function in contenders.items():
            samples[name].append(_seconds(function, calls[name]))
    return {name: statistics.median(values) for name, values in samples.items()}


@pytest.fixture
def race(request: pytest.FixtureRequest, benchmark: Any) -> Callable[..., dict[str, float]]:
    """race({"pydet": f, "torchvision": g}, equal): asserts equal(g(), f()), then times both in turn.

    `also` holds seconds that another process measured. Returns the median seconds of each.
    pytest-benchmark records pydet's own time, with the ratios as extra_info.
    """

    def run(
        contenders: Contenders,
        equal: Callable[[Any, Any], bool] = torch.equal,
        budget: float = 1.0,
        also: dict[str, float] | None = None,
    ) -> dict[str, float]:
        expected = contenders["pydet"]()
        for name, function in contenders.items():
            assert equal(function(), expected), f"{name} and pydet differ: no time is taken"
        medians = _race(contenders, budget) | (also or {})
        benchmark.extra_info.update(
            threads=torch.get_num_threads(),
            ratios={name: medians[name] / medians["pydet"] for name in medians if name != "pydet"},
        )
        benchmark.pedantic(contenders["pydet"], rounds=5, iterations=1)
        _results.append((request.node.name, medians))
        return medians

    return run


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", metavar="FILE", help="write the races as JSON, for benchmarks/report.py")


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--results")
    if path and _results and session.testsfailed == 0:  # no number when the tests are red
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
        libraries = ("torch", "torchvision", "opencv-python-headless", "numpy")
        Path(path).write_text(
            json.dumps(
                {
                    "date": datetime.date.today().isoformat(),
                    "commit": commit.stdout.strip(),
                    "cpu": _cpu_name(),
                    "cpu_level": _library.cpu_level(),
                    "threads": torch.get_num_threads(),
                    "versions": {name: _version(name) for name in libraries},
                    "median_seconds": dict(_results),
                },
                indent=1,
            )
            + "\n"
        )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _results:
        return
    terminalreporter.section("races: median of interleaved samples; x is time over pydet's")
    terminalreporter.line(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name, medians in _results:
        ours = medians["pydet"]
        others = [f"{peer} {readable(s)} ({s / ours:.1f}x)" for peer, s in medians.items() if peer != "pydet"]
        terminalreporter.line(f"{name:60s} pydet {readable(ours):>9s}   " + "   ".join(others))
