"""Times work on a GPU: events around each call, inputs that rotate through more memory than the cache, medians.

On the CPU it times with the clock: a stand-in, so that the harness itself is tested without a GPU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ROTATE_BYTES = 200_000_000
"""Several times the second-level cache of any GPU (60 MB on an H200)."""
MOST_COPIES = 1024
HIGHEST_CLOCK = 2.0e9
"""Cycles a second that no GPU is much faster than: how long a GPU is kept busy while work is queued behind."""

Arguments = tuple[Any, ...]
Function = Callable[..., Any]


def bytes_of(values: Any) -> int:
    """Of the tensors among arguments or results."""
    values = values if isinstance(values, tuple | list) else (values,)
    return sum(v.numel() * v.element_size() for v in values if isinstance(v, Tensor))


def copies_of(args: Arguments, rotate_bytes: int = ROTATE_BYTES) -> list[Arguments]:
    """The arguments as often as it takes to fill `rotate_bytes`: read in turn, none is in the cache when it is read."""

    def copy(value: Any) -> Any:
        return value.detach().clone().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value

    count = min(max(rotate_bytes // max(bytes_of(args), 1), 1), MOST_COPIES)
    return [args, *(tuple(copy(value) for value in args) for _ in range(count - 1))]


class CudaTimer:
    """Seconds on the device of each call. What the host does in the meantime is not in it, unless it waits."""

    def __init__(self) -> None:
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._sleep: dict[str, int] = {}

    def warm_up(self, name: str, function: Function, args: Arguments) -> None:
        for _ in range(3):
            torch.cuda.synchronize()
            start = time.perf_counter()
            function(*args)
            queued = time.perf_counter() - start
        torch.cuda.synchronize()
        # The device sleeps as long as it takes to queue a call, so that it does not wait for the host in the middle.
        self._sleep[name] = int(min(1.5 * queued + 20e-6, 5e-3) * HIGHEST_CLOCK)

    def call(self, name: str, function: Function, args: Arguments) -> None:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(self._sleep[name])
        start.record()
        function(*args)
        end.record()
        self._events.append((name, start, end))

    def collect(self) -> list[tuple[str, float]]:
        torch.cuda.synchronize()
        seconds = [(name, start.elapsed_time(end) / 1e3) for name, start, end in self._events]
        self._events.clear()
        return seconds


class CpuTimer:
    def __init__(self) -> None:
        self._seconds: list[tuple[str, float]] = []

    def warm_up(self, name: str, function: Function, args: Arguments) -> None:
        function(*args)

    def call(self, name: str, function: Function, args: Arguments) -> None:
        start = time.perf_counter()
        function(*args)
        self._seconds.append((name, time.perf_counter() - start))

    def collect(self) -> list[tuple[str, float]]:
        seconds, self._seconds = self._seconds, []
        return seconds


def timer_for(device: str) -> CudaTimer | CpuTimer:
    return CudaTimer() if torch.device(device).type == "cuda" else CpuTimer()


def race(contenders: dict[str, Function], copies: list[Arguments], device: str, budget: float) -> dict[str, float]:
    """Median seconds of each, called in turn for `budget` seconds, 5 times at least."""
    timer = timer_for(device)
    for name, function in contenders.items():
        timer.warm_up(name, function, copies[0])
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    stop, turn = time.perf_counter() + budget, 0
    while turn < 5 or (time.perf_counter() < stop and turn < 500):
        for name, function in contenders.items():
            timer.call(name, function, copies[turn % len(copies)])
        turn += 1
        if turn % 5 == 0:  # not more in the queue than the memory of its results
            for name, seconds in timer.collect():
                samples[name].append(seconds)
    return {name: statistics.median(values) for name, values in samples.items()}


def bandwidths(device: str, nbytes: int) -> dict[str, float]:
    """Bytes a second of a copy (read and written ones counted) and of a fill, here and now."""
    source = torch.ones(nbytes // 4, device=device)
    target = torch.empty_like(source)
    contenders = {"copy": lambda: target.copy_(source), "fill": lambda: target.fill_(1.0)}
    seconds = race(contenders, [()], device, 0.5)
    return {"copy": 2 * bytes_of(source) / seconds["copy"], "fill": bytes_of(source) / seconds["fill"]}
