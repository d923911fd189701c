"""What a training is resumed from: one file, whole or not there, of tensors and plain values that nothing can run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pydet.files import whole_file

FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file."""


@dataclass(frozen=True)
class Checkpoint:
    """A training after some updates. The order of the pictures and what is drawn for them follow from their number.

    Attributes:
        settings: of the training, as plain values.
        fingerprint: of the data, to tell whether it has changed.
        update: how many there were.
        network: its numbers by name.
        average: of the moving average; None where there is none.
        optimizer: its state.
        generators: of random numbers, by device: what dropout draws from.
        best: the best measurement so far and the update after which it was made, or nothing.
    """

    settings: dict[str, Any]
    fingerprint: str
    update: int
    network: dict[str, Tensor]
    average: dict[str, Tensor] | None
    optimizer: dict[str, Any]
    generators: dict[str, Tensor]
    best: dict[str, float]

    def save(self, path: Path) -> None:
        """Writes it; until it is whole and on the disk, an older one keeps its place."""
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        with whole_file(path, durable=True) as temporary:
            torch.save({"format": FORMAT, **content}, temporary)


KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("settings", "network", "optimizer", "generators", "best"), dict),
    **{"fingerprint": str, "update": int, "average": (dict, type(None))},
}


def load(path: Path) -> Checkpoint:
    """Reads it; nothing in the file is ever run.

    Raises:
        CheckpointError: there is none, it is damaged, or of another program or version.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; there is nothing to resume")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what is damaged may raise anything there
        raise CheckpointError(f"{path}: not a checkpoint of pydet train, or a damaged one: {reason(error)}") from None
    if not isinstance(content, dict) or "format" not in content:
        raise CheckpointError(f"{path}: not a checkpoint of pydet train")
    if content.pop("format") != FORMAT:
        raise CheckpointError(f"{path}: of another version of pydet; this one reads format {FORMAT}")
    wrong = {str(name) for name in set(KINDS) ^ set(content)}
    wrong = wrong or {name for name, kind in KINDS.items() if not isinstance(content[name], kind)}
    if wrong:
        raise CheckpointError(f"{path}: not a checkpoint of pydet train: {', '.join(sorted(wrong))}")
    return Checkpoint(**content)


def reason(error: Exception) -> str:
    """The first line of what it says, or what it is where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def random_states(device: torch.device) -> dict[str, Tensor]:
    """Of the generators that torch draws from by itself."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def restore_random_states(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def plain(settings: Any) -> dict[str, Any]:
    """A dataclass as what `torch.load` takes without running anything: no tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()}
