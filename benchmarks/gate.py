"""The gate: has pydet become slower, measured by its yardstick of the same run, than the committed results say?

Times of two days cannot be compared, nor ratios of two processors: the committed file holds a run for each kind of
processor. What is left is noise, which is met three times: samples are interleaved; a regression must show in both
ratios of `race.Ratio`; and a suspicion is measured again, in a new process, before it becomes a verdict, since noise
passes and slow code stays slow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import results
from race import Ratio
from results import Run

ATTEMPTS = 3
FACTORS = {"full": 1.2, "short": 1.5}
"""How many times the committed ratio is still allowed. The short form takes few samples, on machines that are busy."""
OTHER_PROCESSOR = 3.0
"""Allowed where the only baseline is that of another processor with the same instructions: what lost its vector code or
its algorithm is found, not what lost a fifth."""


@dataclass(frozen=True)
class Baseline:
    """What a session is compared with: a run of the file and the factor that it bears. run None: nothing to compare."""

    run: Run | None
    factor: float
    why: str

    def ratio_of(self, name: str, yardstick: str | None) -> Ratio | None:
        """The ratio of a race, None where it is new or was measured by another yardstick."""
        record = self.run["races"].get(name) if self.run else None
        if record is None or record["yardstick"] != yardstick:
            return None
        return results.result(record).ratio


def baseline(runs: list[Run], form: str, here: dict[str, str | int]) -> Baseline:
    """The run of this processor, level and number of threads, else one of another processor, else none."""
    alike = [r for r in runs if all(r[k] == v for k, v in (("form", form), *here.items()) if k != "cpu")]
    words = f"{here['cpu']} ({here['cpu_level']}, {here['threads']} threads, {form} form)"
    for run in alike:
        if run["cpu"] == here["cpu"]:
            return Baseline(run, FACTORS[form], f"{words}: fails above {FACTORS[form]} times the committed ratio")
    if alike:
        other = f"no baseline for this processor, that of {alike[-1]['cpu']} stands in"
        return Baseline(alike[-1], OTHER_PROCESSOR, f"{words}: {other}: fails above {OTHER_PROCESSOR} times its ratio")
    return Baseline(None, 1.0, f"{words}: no baseline for this CPU: recorded only")


def exceeds(now: Ratio, then: Ratio, factor: float) -> bool:
    return now.neighbours > factor * then.neighbours and now.fastest > factor * then.fastest


def verdict(then: Ratio, factor: float, now: Ratio, again: Callable[[], Ratio]) -> str | None:
    """What is wrong, or None. `again` measures anew: only what exceeds the factor every time is slow."""
    attempts = [now]
    while exceeds(attempts[-1], then, factor):
        if len(attempts) == ATTEMPTS:
            found = ", ".join(f"{a.neighbours / then.neighbours:.2f}" for a in attempts)
            return f"slower than committed: {found} times the ratio to the yardstick, allowed is {factor}"
        attempts.append(again())
    return None
