"""The gate on speed, on synthetic samples: it finds a slowdown and is silent on noise. No real clock is looked at."""

from __future__ import annotations

import functools
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gate
import pytest
import race
import results
from race import Ratio

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
HERE = {"cpu": "Fast 9000", "cpu_level": "avx2", "threads": 4}


class Machine:
    """A clock that only the functions of this machine move.

    For `busy` of the time somebody else is served too, some milliseconds on end, and everything takes three times as
    long; besides, no two calls take the same time.
    """

    def __init__(self, seed: int, busy: float) -> None:
        self.now, self.busy, self.random = 0.0, busy, random.Random(seed)
        self.slow, self.until = False, 0.0

    def clock(self) -> float:
        return self.now

    def function(self, seconds: float) -> Callable[[], None]:
        def call() -> None:
            while self.now >= self.until:
                self.slow = self.random.random() < self.busy
                self.until += self.random.expovariate(1 / 0.004)
            self.now += seconds * self.random.lognormvariate(0, 0.05) * (3 if self.slow else 1)

        return call

    def ratio(self, ours: float, yardstick: float) -> Ratio:
        contenders = {"pydet": self.function(ours), "reference": self.function(yardstick)}
        samples = race.sample(contenders, 0.25, self.clock)
        return race.ratio(samples["pydet"], samples["reference"])


def test_samples_are_taken_in_turn_and_long_enough() -> None:
    machine, order = Machine(0, 0.0), []

    def logged(name: str, seconds: float) -> Callable[[], None]:
        function = machine.function(seconds)
        return lambda: (order.append(name), function())[1]

    samples = race.sample({"pydet": logged("a", 2e-6), "other": logged("b", 0.01)}, 0.5, machine.clock)
    assert race.medians(samples) == {"pydet": pytest.approx(2e-6, rel=0.1), "other": pytest.approx(0.01, rel=0.1)}
    assert len(samples["pydet"]) == len(samples["other"]) >= 40
    runs = [(name, len(list(group))) for name, group in itertools.groupby(order)]
    timed = runs[-20:]  # 2 µs are repeated to fill a millisecond, with one call before it that is not timed
    assert [name for name, _ in timed] == ["a", "b"] * 10
    assert all(450 <= count <= 550 if name == "a" else count == 1 for name, count in timed)


def test_a_contender_rests_before_each_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short one is called once more: it takes long for its threads to wake."""
    machine, order = Machine(0, 0.0), []
    monkeypatch.setattr(race.time, "sleep", order.append)
    seconds = {"pydet": 0.4, "other": 0.02}
    contenders = {name: lambda name=name: order.append(name) or machine.function(seconds[name])() for name in seconds}
    race.sample(contenders, 0.1, machine.clock, rest=0.06)
    first = len(contenders)  # finds how many calls make a sample
    assert order[first:] == [0.06, "pydet", 0.06, "other", "other"] * (race.LEAST_ROUNDS - 1)


def test_at_least_five_rounds_whatever_the_budget() -> None:
    machine = Machine(0, 0.0)
    samples = race.sample({"pydet": machine.function(1.0)}, 0.1, machine.clock)
    assert len(samples["pydet"]) == race.LEAST_ROUNDS


def test_ratio_of_neighbours_and_of_the_fastest() -> None:
    found = race.ratio([2.0, 4.0, 3.0], [1.0, 4.0, 2.0])  # ratios 2, 1, 1.5; fastest 2 and 1
    assert found == Ratio(neighbours=1.5, fastest=2.0)


BUSY = [0.0, 0.1, 0.3, 0.6]
"""Share of the time in which the machine serves somebody else too."""


@pytest.mark.parametrize("busy", BUSY)
@pytest.mark.parametrize("form", ["full", "short"])
def test_noise_alone_is_no_regression(busy: float, form: str) -> None:
    for seed in range(200):
        measure = functools.partial(Machine(seed, busy).ratio, 1e-4, 1e-2)
        assert gate.verdict(Ratio(0.01, 0.01), gate.FACTORS[form], measure(), measure) is None, seed


@pytest.mark.parametrize("busy", BUSY)
@pytest.mark.parametrize(("form", "slower"), [("full", 1.35), ("short", 1.7)])
def test_a_planted_slowdown_is_found(busy: float, form: str, slower: float) -> None:
    found = 0
    for seed in range(100):
        measure = functools.partial(Machine(seed, busy).ratio, slower * 1e-4, 1e-2)
        found += gate.verdict(Ratio(0.01, 0.01), gate.FACTORS[form], measure(), measure) is not None
    assert found >= (98 if busy < 0.5 else 80)


def test_a_suspicion_is_measured_again_and_both_ratios_count() -> None:
    then, slow, quick = Ratio(1.0, 1.0), Ratio(2.0, 2.0), Ratio(1.0, 1.0)
    again = iter([slow, quick])
    assert gate.verdict(then, 1.2, slow, lambda: next(again)) is None
    assert list(again) == []
    assert gate.verdict(then, 1.2, Ratio(2.0, 1.1), lambda: slow) is None
    assert gate.verdict(then, 1.2, Ratio(1.1, 2.0), lambda: slow) is None
    wrong = gate.verdict(then, 1.2, slow, lambda: slow)
    assert wrong == "slower than committed: 2.00, 2.00, 2.00 times the ratio to the yardstick, allowed is 1.2"


def a_run(**changes: object) -> results.Run:
    races = {"test_a": {"seconds": {"pydet": 1e-3, "reference": 1e-2}, "yardstick": "reference"}}
    races["test_a"]["ratio"] = {"neighbours": 0.1, "fastest": 0.11}
    return {"form": "short", "races": races, **HERE, **changes}


def test_baseline_is_that_of_the_processor_level_threads_and_form() -> None:
    others = [a_run(threads=1), a_run(cpu_level="avx512"), a_run(form="full"), a_run(cpu="Other 1")]
    mine = a_run()
    found = gate.baseline([*others, mine], "short", HERE)
    assert found.run is mine
    assert found.factor == 1.5
    assert gate.baseline([mine, others[2]], "full", HERE).factor == 1.2
    assert found.ratio_of("test_a", "reference") == Ratio(0.1, 0.11)
    assert found.ratio_of("test_a", "another yardstick") is None
    assert found.ratio_of("test_new", "reference") is None


def test_another_processor_stands_in_loosely_and_nothing_else_does() -> None:
    found = gate.baseline([a_run(cpu="Other 1"), a_run(cpu="Other 2")], "short", HERE)
    assert (found.run["cpu"], found.factor) == ("Other 2", gate.OTHER_PROCESSOR)
    assert "no baseline for this processor, that of Other 2 stands in" in found.why
    nothing = gate.baseline([a_run(cpu_level="avx512"), a_run(form="full")], "short", HERE)
    assert nothing.run is None
    assert nothing.why.endswith("no baseline for this CPU: recorded only")
    assert nothing.ratio_of("test_a", "reference") is None


FAKE = """
import random
import time

now = 0.0


def work(seconds):
    def call():
        global now
        now += seconds * random.lognormvariate(0, 0.05)
        return {result}
    return call


def run(race, monkeypatch, seconds):
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    race({{"pydet": work(seconds), "reference": lambda: work(0.01)() and 1}}, lambda a, b: a == b)


def test_steady(race, monkeypatch):
    run(race, monkeypatch, 1e-3)


def test_other(race, monkeypatch):
    run(race, monkeypatch, {seconds})
"""


def run_benchmarks(folder: Path, *options: str, seconds: float = 1e-3, result: int = 1) -> tuple[int, str]:
    """The benchmarks' own conftest on a fake race, whose clock its functions move."""
    shutil.copy(BENCHMARKS / "conftest.py", folder)
    (folder / "test_fake.py").write_text(FAKE.format(seconds=seconds, result=result))
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = long\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(BENCHMARKS), str(BENCHMARKS.parent)])}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_fake.py", *options]
    child = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return child.returncode, child.stdout + child.stderr


def test_the_gate_from_end_to_end(tmp_path: Path) -> None:
    file = str(tmp_path / "results.json")
    assert run_benchmarks(tmp_path, "--results", file)[0] == 0
    found = json.loads(Path(file).read_text())[-1]["races"]["test_other"]
    assert found["seconds"]["pydet"] == pytest.approx(1e-3, rel=0.1)
    assert found["ratio"]["neighbours"] == pytest.approx(0.1, rel=0.1)
    status, output = run_benchmarks(tmp_path, "--compare", file, seconds=2e-3)
    assert status == 1, output
    assert "fails above 1.2 times the committed ratio" in output
    assert re.search(r"test_other: slower than committed: (2\.[01]|1\.9)", output), output
    assert "1 failed, 1 passed" in output


def test_nothing_is_written_where_a_result_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    status, output = run_benchmarks(tmp_path, "--results", str(file), result=2)
    assert status == 1
    assert "reference and pydet differ: no time is taken" in output
    assert not file.exists()


def test_compare_without_a_file_says_so(tmp_path: Path) -> None:
    status, output = run_benchmarks(tmp_path, "--compare", str(tmp_path))
    assert status != 0
    assert f"--compare: {tmp_path} is not a file of results" in output
