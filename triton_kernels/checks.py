"""What the launchers check before they touch memory: the rules and messages of csrc/checks/."""

from __future__ import annotations

from torch import Tensor


def require(condition: bool, op: str, rule: str, value: object) -> None:
    """Raises the operator's RuntimeError unless the rule holds."""
    if not condition:
        raise RuntimeError(f"{op}: {rule}, got {value}")


def require_one_device(op: str, **tensors: Tensor) -> None:
    (name1, first), (name2, second) = tensors.items()
    require(
        first.device == second.device,
        op,
        f"{name1} and {name2} must be on one device",
        f"{first.device} and {second.device}",
    )
