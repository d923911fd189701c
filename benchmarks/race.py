"""Several functions timed in turn, so that what disturbs one disturbs all, and what is made of the samples."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Contenders = dict[str, Callable[[], Any]]

SAMPLE_SECONDS = 0.001
"""Calls are repeated until a sample takes this long, well above the clock's resolution."""
LEAST_ROUNDS = 5
SLOW, ROUNDS_OF_THE_SLOW = 0.5, 3
"""What takes more seconds than this gets fewer samples, or the slowest contender decides how long a race takes."""
THREADS_ARE_ASLEEP = 0.06
"""Seconds after which idle threads no longer take a processor from who comes next: those of torch's OpenMP were seen
spinning for 10 ms after a call, those of onnxruntime for 40 ms."""
SHORT = 0.1
"""What takes fewer seconds is called once between the rest and its sample: a thread that sleeps may take milliseconds
to wake (8 were seen, two ticks of Linux's scheduler). What is measured is a call among others, of every contender."""


@dataclass(frozen=True)
class Ratio:
    """pydet's time over its yardstick's, twice over, since noise moves the two in different ways.

    Attributes:
        neighbours: the median of the ratios of samples taken one after the other: a drift of the machine cancels out.
        fastest: the ratio of the fastest samples: what disturbs only some of the samples does not count.
    """

    neighbours: float
    fastest: float


@dataclass
class Result:
    """One race.

    Attributes:
        seconds: the median of each contender and yardstick.
        yardstick: whose time pydet's is divided by in `ratio`; None where there is neither reference nor yardstick.
        extra_bytes: the most memory that a call of each held at a time beyond inputs and result; None: not known.
        moved: bytes that the operator must read and write, where memory is what limits it.
    """

    seconds: dict[str, float]
    yardstick: str | None = None
    ratio: Ratio | None = None
    extra_bytes: dict[str, int | None] | None = None
    moved: int | None = None


def sample(
    contenders: Contenders,
    budget: float,
    clock: Callable[[], float] | None = None,
    again: bool = False,
    rest: float = 0.0,
) -> dict[str, list[float]]:
    """Seconds of a call of each, one sample of all of them a round, for `budget` seconds of the clock.

    `again`: each is called once before its sample, also where one call is a sample: for results so large that it counts
    whose memory they get. A virtual machine gives free memory back, and what was others' until now has to be mapped.
    `rest`: seconds without work before each sample, for contenders whose idle threads spin: see THREADS_ARE_ASLEEP.
    """
    clock = clock or time.perf_counter
    enabled = gc.isenabled()
    gc.disable()
    try:
        samples: dict[str, list[float]] = {name: [] for name in contenders}
        calls = {name: _calls(function, clock, samples[name]) for name, function in contenders.items()}
        stop = clock() + budget
        while clock() < stop or len(samples["pydet"]) < LEAST_ROUNDS:
            for name, function in contenders.items():
                if name != "pydet" and len(samples[name]) == ROUNDS_OF_THE_SLOW and samples[name][0] > SLOW:
                    continue
                if rest:
                    time.sleep(rest)
                asleep = rest > 0 and min(samples[name]) < SHORT
                if again or asleep or calls[name] > 1:
                    function()  # what ran before it has emptied the caches
                samples[name].append(_seconds(function, calls[name], clock))
    finally:
        if enabled:
            gc.enable()
    return samples


def _calls(function: Callable[[], Any], clock: Callable[[], float], samples: list[float]) -> int:
    """How many calls make a sample: found by doubling, since the first calls are slow. Leaves the first sample."""
    calls = 1
    while (seconds := calls * _seconds(function, calls, clock)) < SAMPLE_SECONDS / 2:
        calls *= 2
    samples.append(seconds / calls)
    return max(round(calls * SAMPLE_SECONDS / seconds), 1)


def _seconds(function: Callable[[], Any], calls: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(calls):
        function()
    return (clock() - start) / calls


def medians(samples: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in samples.items()}


def ratio(ours: Sequence[float], yardstick: Sequence[float]) -> Ratio:
    neighbours = statistics.median(a / b for a, b in zip(ours, yardstick, strict=False))
    return Ratio(neighbours, min(ours) / min(yardstick))
