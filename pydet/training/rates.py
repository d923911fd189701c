"""The learning rate of every update, as a pure function of its number: nothing of it has to be kept in a checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from pydet.training.schedule import Policy
from pydet.training.settings import Settings


class Rates(Protocol):
    def rate(self, update: int) -> float:
        """Of the update with this number; the first one is 1."""
        ...


@dataclass(frozen=True)
class Cosine:
    """Half a wave of the cosine, from the learning rate down to a part of it (Loshchilov and Hutter 2017, no restarts).

    Attributes:
        learning_rate: at the top.
        updates: the last one, which has the lowest rate.
        warmup: before this update the rate is that of the wave times (n / warmup)^power.
        final: the part of the learning rate that is left at the end.
    """

    learning_rate: float
    updates: int
    warmup: int = 0
    power: float = 1.0
    final: float = 0.02

    def rate(self, update: int) -> float:
        warm = (update / self.warmup) ** self.power if update < self.warmup else 1.0
        wave = (1 + math.cos(math.pi * min(update / self.updates, 1.0))) / 2
        return self.learning_rate * warm * (self.final + (1 - self.final) * wave)


def rates_of(settings: Settings, updates: int) -> Rates:
    """The learning rates of a training of so many updates."""
    warmup = settings.warmup if settings.updates else min(settings.warmup, updates // 10)
    if settings.schedule == "cosine":
        return Cosine(settings.learning_rate, updates, warmup, settings.warmup_power, settings.final_rate)
    listed = settings.schedule == "steps" and bool(settings.steps)
    pairs = sorted(zip(settings.steps, settings.scales, strict=True)) if listed else []
    return Policy(
        settings.learning_rate,
        "steps" if listed else "constant",
        warmup,
        settings.warmup_power,
        steps=tuple(max(round(step * updates), 1) for step, _ in pairs),
        scales=tuple(scale for _, scale in pairs),
    )
