"""Races: the same work by several libraries in one run, correctness first, interleaved, medians, ratios, memory.

pytest benchmarks                       times everything at the number of threads that torch chooses
pytest benchmarks --short               the quick form: one thread, its CPU time, pydet and its yardsticks only
pytest benchmarks --compare [FILE]      fails where pydet became slower than FILE says (see gate.py)
pytest benchmarks --results FILE        writes what was found, if all tests passed
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gate
import machine
import pytest
import report
import results
import torch
from bandwidth import COPY, copy_bandwidth, copy_of
from claims import claims_of
from memory import extra_bytes, keep_freed_memory
from peers import peer  # noqa: F401  (benchmarks import it from here)
from race import Contenders, Ratio, Result, medians, ratio, sample

SHORT_BUDGET = 0.15
_races: dict[str, Result] = {}
_baseline = pytest.StashKey[gate.Baseline]()


@pytest.fixture
def race(request: pytest.FixtureRequest, benchmark: Any) -> Callable[..., Result]:
    """race({"pydet": f, "torchvision": g}, equal): asserts equal(g(), f()), then times both in turn.

    `yardsticks` are no contenders: other work of the same size, whose result is not looked at. The gate divides by the
    time of "reference", which is a contender, or of the first of them. `moved`: how many bytes the operator must read
    and write, where it is limited by memory; a copy of as many joins the race. `also` holds seconds that another
    process measured. `again`, `rest`: see race.sample(). pytest-benchmark records pydet's own time; extra_info has all.
    """
    short = request.config.getoption("--short")

    def run(
        contenders: Contenders,
        equal: Callable[[Any, Any], bool] = torch.equal,
        budget: float = 1.0,
        also: dict[str, float] | None = None,
        *,
        yardsticks: Contenders | None = None,
        moved: int | None = None,
        again: bool = False,
        rest: float = 0.0,
    ) -> Result:
        others = dict(yardsticks or {})
        if short:
            contenders = {name: f for name, f in contenders.items() if name in ("pydet", "reference")}
            others, budget = dict(list(others.items())[:1]), SHORT_BUDGET
        elif moved is not None:
            others[COPY] = copy_of(moved)
        expected = contenders["pydet"]()
        for name, function in contenders.items():
            assert equal(function(), expected), f"{name} and pydet differ: no time is taken"
        yardstick = next(
            (name for name in ("reference", *(yardsticks or {})) if name in {**contenders, **others}), None
        )
        if short and yardstick is None:
            pytest.fail("race: nothing to hold pydet's time to: add the reference, a yardstick or pytest.mark.long")
        # One thread shares the machine's noise with its yardstick; its CPU time leaves out who else was served.
        samples = sample(contenders | others, budget, time.thread_time if short else time.perf_counter, again, rest)
        found = Result(medians(samples) | (also or {}), yardstick, moved=moved)
        if yardstick is not None:
            found.ratio = ratio(samples["pydet"], samples[yardstick])
        if not short:
            found.extra_bytes = {name: extra_bytes(function) for name, function in contenders.items()}
        _record(request, benchmark, found, contenders["pydet"], rounds=1 if short else 5)
        _compare(request, found)
        return found

    return run


def _record(request: pytest.FixtureRequest, benchmark: Any, found: Result, ours: Any, rounds: int) -> None:
    assert request.node.name not in _races, f"two races are called {request.node.name}"
    _races[request.node.name] = found
    benchmark.extra_info.update(
        threads=torch.get_num_threads(),
        ratios={name: s / found.seconds["pydet"] for name, s in found.seconds.items() if name != "pydet"},
        extra_bytes=found.extra_bytes,
        moved=found.moved,
    )
    benchmark.pedantic(ours, rounds=rounds, iterations=1)


def _compare(request: pytest.FixtureRequest, found: Result) -> None:
    held = request.config.stash.get(_baseline, None)
    then = held.ratio_of(request.node.name, found.yardstick) if held else None
    if held and then and found.ratio:
        wrong = gate.verdict(then, held.factor, found.ratio, lambda: _ratio_in_new_process(request.node))
        if wrong:
            pytest.fail(f"{request.node.name}: {wrong} (yardstick: {found.yardstick})", pytrace=False)


def _ratio_in_new_process(item: pytest.Item) -> Ratio:
    """The same race again, where memory lies elsewhere: that alone makes a kernel faster or slower."""
    test = f"{item.path}::{item.nodeid.split('::', 1)[1]}"
    form = ["--short"] if item.config.getoption("--short") else []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test, *form, "--results", str(path)]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        assert path.exists(), f"the second try of {item.name} failed:\n{child.stdout}{child.stderr}"
        found = results.result(results.read(path)[-1]["races"][item.name]).ratio
    assert found is not None
    return found


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", metavar="FILE", type=Path, help="write the races as JSON, for benchmarks/report.py")
    parser.addoption("--compare", nargs="?", const=results.DEFAULT, type=Path, metavar="FILE", help="fail where slower")
    parser.addoption("--short", action="store_true", help="pydet and its yardsticks on one thread, without long races")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--short"):
        torch.set_num_threads(1)
        keep_freed_memory()
    if path := config.getoption("--compare"):
        if not path.is_file() and path != results.DEFAULT:
            raise pytest.UsageError(f"--compare: {path} is not a file of results")
        runs = results.read(path) if path.is_file() else []  # a processor architecture that nothing is committed for
        config.stash[_baseline] = gate.baseline(runs, _form(config), machine.description())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--short"):
        left_out = [item for item in items if item.get_closest_marker("long") or "race" not in item.fixturenames]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


def _form(config: pytest.Config) -> str:
    return "short" if config.getoption("--short") else "full"


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--results")
    if path and _races and session.testsfailed == 0:  # no number when the tests are red
        form = _form(session.config)
        results.add(path, results.run_of(_races, form, copy_bandwidth() if form == "full" else None))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not _races:
        return
    line = terminalreporter.line
    terminalreporter.section("races: medians of interleaved samples; x is time over pydet's; MB is extra memory")
    line(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {machine.cpu_name()}")
    for name, found in _races.items():
        line(report.race_line(name, found))
    if not config.getoption("--short") and (found_claims := claims_of(_races)):
        terminalreporter.section("must show")
        for claim in found_claims:
            line(str(claim))
    if held := config.stash.get(_baseline, None):
        terminalreporter.section("gate")
        line(held.why)
        if held.run and (new := [n for n, r in _races.items() if held.ratio_of(n, r.yardstick) is None]):
            line(f"not compared, having no yardstick or not standing in the file: {', '.join(new)}")
