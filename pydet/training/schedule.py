"""Darknet's learning rates, as a scheduler of PyTorch."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pydet.models.darknet.cfg import CfgError, Section

POLICIES = ("constant", "step", "steps", "exp", "poly", "random", "sig")
ALIASES = {"sigmoid": "sig"}


@dataclass(frozen=True)
class Policy:
    """The learning rate of the n-th update, n from 1, by the keys of a cfg's [net] section.

    Darknet's versions since 2017 compare with steps as if neither could be negative: the -1 that steps begin with in
    yolov2-tiny-voc.cfg is then never reached, nor is any after it, and "sig" is 0 before its step. Here both are what
    they say, and what they were when those cfgs were made. Of steps that do not ascend, one that is not reached yet
    hides those behind it, as in Darknet.

    Attributes:
        learning_rate: what everything is relative to.
        policy: "constant"; "steps" (times each of `scales` from the update of `steps` on), "step" (times `scale` every
            `step` updates), "exp" (times gamma^n), "poly" (times (1 - n / max_batches)^power), "sig" (times
            1 / (1 + exp(gamma (n - step)))), "random" (times u^power, u uniform in 0..1).
        burn_in: before this update it is learning_rate (n / burn_in)^power, whatever the policy.
        power: of burn-in, "poly" and "random".
        seed: of "random"; the u of an update depends on these two numbers only, so that training can be resumed.
    """

    learning_rate: float = 0.001
    policy: str = "constant"
    burn_in: int = 0
    power: float = 4.0
    max_batches: int = 0
    steps: tuple[int, ...] = ()
    scales: tuple[float, ...] = ()
    step: int = 1
    scale: float = 1.0
    gamma: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"Policy: policy must be one of {', '.join(POLICIES)}, got {self.policy!r}")
        if len(self.steps) != len(self.scales):
            counts = f"{len(self.scales)} scales for {len(self.steps)} steps"
            raise ValueError(f"Policy: every one of steps must have its scale, got {counts}")
        for key, values in (
            ("learning_rate", (self.learning_rate,)),
            ("scales", self.scales),
            ("scale", (self.scale,)),
        ):
            if not all(0 <= value < math.inf for value in values):
                raise ValueError(f"Policy: {key} must not be negative, got {', '.join(f'{v:g}' for v in values)}")
        if self.policy == "poly" and self.max_batches < 1:
            raise ValueError(f"Policy: max_batches must be at least 1 for policy 'poly', got {self.max_batches}")
        if self.step < 1:
            raise ValueError(f"Policy: step must be at least 1, got {self.step}")

    @classmethod
    def of(cls, net: Section, seed: int = 0) -> Policy:
        """Of the [net] section of a cfg; what it leaves out is as in Darknet.

        Raises:
            CfgError: a policy that Darknet does not have, or steps without scales.
        """
        name = net.text("policy", "constant")
        listed = name == "steps"
        try:
            return cls(
                net.number("learning_rate", 0.001),
                ALIASES.get(name, name),
                net.integer("burn_in", 0),
                net.number("power", 4),
                net.integer("max_batches", 0),
                tuple(net.integers("steps")) if listed else (),
                tuple(net.numbers("scales")) if listed else (),
                net.integer("step", 1),
                net.number("scale", 1),
                float(np.float32(net.number("gamma", 1))),  # as in Darknet: its n-th power shows the difference
                seed,
            )
        except CfgError:
            raise
        except ValueError as error:
            raise net.error(str(error)) from None

    def rate(self, update: int) -> float:
        """Of the update with this number; the first one is 1.

        Raises:
            ValueError: it is not a finite number.
        """
        try:
            factor = (update / self.burn_in) ** self.power if update < self.burn_in else self._factor(update)
        except (OverflowError, ZeroDivisionError):
            factor = math.inf
        rate = self.learning_rate * factor
        if not math.isfinite(rate):
            raise ValueError(f"Policy: {self.policy!r} gives no finite learning rate for update {update}")
        return rate

    def _factor(self, update: int) -> float:
        match self.policy:
            case "step":
                return self.scale ** (update // self.step)
            case "steps":
                # The first step that is not reached ends the list, as in Darknet.
                reached = next((i for i, step in enumerate(self.steps) if step > update), len(self.steps))
                return math.prod(self.scales[:reached])
            case "exp":
                return self.gamma**update
            case "poly":
                return max(1 - update / self.max_batches, 0.0) ** self.power
            case "sig":
                return 1 / (1 + math.exp(min(self.gamma * (update - self.step), 700.0)))  # 700: e^710 overflows
            case "random":
                return random.Random(f"{self.seed} {update}").random() ** self.power
        return 1.0


class DarknetLR(LRScheduler):
    """Sets the learning rate of every update (not epoch) to that of a policy.

    For all parameter groups: `optimizer.step(); scheduler.step()` after each batch, with its subdivisions accumulated.
    Its `state_dict` is the number of updates, and so it resumes where it was.

    Args:
        optimizer: whose learning rate it sets, at once for its first update.
        policy: of the rates.
    """

    def __init__(self, optimizer: Optimizer, policy: Policy, last_epoch: int = -1) -> None:
        self.policy = policy
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:  # type: ignore[override]
        return [self.policy.rate(self.last_epoch + 1)] * len(self.optimizer.param_groups)

    def state_dict(self) -> dict[str, int]:
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.last_epoch = state_dict["last_epoch"]
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate
        self._last_lr = list(self.get_lr())
