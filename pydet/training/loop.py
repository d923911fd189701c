"""One update after another: forward, backward, step, average; and what makes it stop."""

from __future__ import annotations

import contextlib
import copy
import math
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pydet.data import Batch
from pydet.losses import Targets
from pydet.models import DetectionModel, RetinaNet
from pydet.models.packed import computes_in
from pydet.processes import Processes
from pydet.training.batch_norm import set_momentum, share_batch_norms
from pydet.training.batches import network_batch, parts
from pydet.training.ema import MovingAverage
from pydet.training.rates import rates_of
from pydet.training.settings import Settings
from pydet.training.sgd import darknet_sgd


class NotFinite(ValueError):
    """The loss or the gradient has become NaN or infinite; the message names the batch."""


class _Forward(nn.Module):
    """Batch to terms of the loss: convolutions in bfloat16 where that is wanted, the loss never."""

    def __init__(self, network: DetectionModel, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, x: Tensor, targets: Targets, seen: int) -> dict[str, Tensor]:
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype is not None):
            raw = self.network.forward_heads(x)
        return self.network.loss(raw, targets, seen)


@dataclass(frozen=True)
class Outcome:
    """Of an update.

    Attributes:
        terms: of the loss, means over all processes.
        loss: their sum.
        rate: the learning rate.
        stop: whether some process was asked to stop.
    """

    terms: dict[str, float]
    loss: float
    rate: float
    stop: bool


class Loop:
    """A network in training.

    Args:
        network: as it starts, on the device.
        settings: of the training.
        updates: how many there are in all.
        group: the processes.
    """

    def __init__(self, network: DetectionModel, settings: Settings, updates: int, group: Processes) -> None:
        self.settings, self.group, self.updates = settings, group, updates
        self.network = network.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.network.requires_grad_(True)
        set_momentum(self.network, settings.batch_norm_momentum)
        self.average = MovingAverage(self.network, settings.ema)
        self.optimizer = darknet_sgd(self.network, settings.learning_rate, settings.momentum, settings.weight_decay)
        self.rates = rates_of(settings, updates)
        self.done = 0
        forward = _Forward(self._shared(self.network), autocast_dtype(settings.amp, group.device))
        self.forward: nn.Module = forward
        if group.world > 1:
            # Statistics of normalisation are the same everywhere: they are computed together.
            self.forward = DistributedDataParallel(forward, broadcast_buffers=False)

    def update(self, batch: Batch, stop: bool = False) -> Outcome:
        """One update; `stop` is passed on to all processes.

        Raises:
            NotFiniteAt: a loss or gradient is no number; the weights are still those of before.
        """
        rate = self.rates.rate(self.done + 1)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        terms, losses = self._gradients(batch)
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)  # the same in all processes
        told = [*terms.values(), torch.tensor(float(stop), device=self.group.device), norm]
        *values, stops, length = (self.group.sum(torch.stack(told)) / self.group.world).tolist()
        if not math.isfinite(sum(values)):
            bad = [piece for piece, loss in losses if not bool(loss.isfinite().all())]
            self._complain(dict(zip(terms, values, strict=True)), bad)
        if not math.isfinite(length):
            self._complain({"norm of the gradient": length}, [batch])
        if self.settings.clip:
            nn.utils.clip_grads_with_norm_(self.network.parameters(), self.settings.clip, norm)
        self.optimizer.step()
        self.done += 1
        self.average.update(self.network, self.done)
        return Outcome(dict(zip(terms, values, strict=True)), sum(values), rate, stops > 0)

    def _gradients(self, batch: Batch) -> tuple[dict[str, Tensor], list[tuple[Batch, Tensor]]]:
        """Forward and backward of all parts: the terms, and of each part its own. No value is looked at, which would
        be to wait for a GPU between two parts."""
        pieces = list(parts(batch, self.settings.parts))
        seen = (self.done + 1) * self.settings.batch_size
        least = self._padded_size(batch)
        sums: dict[str, Tensor] = {}
        losses: list[tuple[Batch, Tensor]] = []
        for number, piece in enumerate(pieces, start=1):
            share = len(piece.images) / len(batch.images)
            wait = isinstance(self.forward, DistributedDataParallel) and number < len(pieces)
            with self.forward.no_sync() if wait else contextlib.nullcontext():  # type: ignore[operator]
                terms = self.forward(*network_batch(self.network, piece, self.group.device, least), seen)
                loss = torch.stack([term * share for term in terms.values()])
                loss.sum().backward()
            losses.append((piece, loss.detach()))
            for name, value in zip(terms, loss.detach(), strict=True):
                sums[name] = sums[name] + value if name in sums else value
        return sums, losses

    def _padded_size(self, batch: Batch) -> tuple[int, int]:
        """What all parts in all processes are padded to, so that they are one batch: RetinaNet's have many sizes."""
        if not isinstance(self.network, RetinaNet):
            return 0, 0
        size = self.network.batch_size(batch.images)
        if self.group.world == 1:  # nothing to ask a GPU for
            return size
        height, width = self.group.most(torch.tensor(size, device=self.group.device)).tolist()
        return height, width

    def _complain(self, values: dict[str, float], bad: list[Batch]) -> None:
        """In all processes at once; the pictures are those of the parts that went wrong, whoever had them."""
        mine = [index for part in bad for index in part.indices.tolist()]
        pictures = self.group.share([index for each in self.group.gather(mine) for index in each])
        raise NotFiniteAt(values, self.done + 1, pictures)

    def _shared(self, network: DetectionModel) -> DetectionModel:
        """What is run: with many processes a copy with the same tensors, whose batch normalisation is shared."""
        if self.group.world == 1:
            return network
        tensors = {id(tensor): tensor for tensor in [*network.parameters(), *network.buffers()]}
        twin = copy.deepcopy(network, tensors)
        share_batch_norms(twin)
        return twin

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        average = self.average.network.state_dict() if self.settings.ema else None
        return {
            "update": self.done,
            "network": self.network.state_dict(),
            "average": average,
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, update: int, network: Any, average: Any, optimizer: Any) -> None:
        """Takes what `state` gave.

        Raises:
            Exception: of any kind, where it is of another network or damaged.
        """
        self.network.load_state_dict(network)
        if average is not None:
            self.average.network.load_state_dict(average)
        own = self.optimizer.state_dict()  # its groups are those of the settings, and the rate is set at every update
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for index, kept in optimizer["state"].items():
            if set(kept) != {"momentum_buffer"}:
                raise ValueError(f"the optimizer keeps {', '.join(map(str, kept))} of parameter {index}")
            buffer = kept["momentum_buffer"]
            if buffer is not None and buffer.shape != parameters[index].shape:
                raise ValueError(f"the momentum of parameter {index} has shape {list(buffer.shape)}")
        self.optimizer.load_state_dict({"state": optimizer["state"], "param_groups": own["param_groups"]})
        self.done = update


class NotFiniteAt(Exception):
    """For `train`, which knows the names of the pictures."""

    def __init__(self, values: dict[str, float], update: int, pictures: list[int]) -> None:
        super().__init__(values, update, pictures)
        self.values, self.update, self.pictures = values, update, pictures


def autocast_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """bfloat16, or None for none."""
    if amp == "auto":
        able = computes_in(torch.bfloat16) if device.type == "cpu" else torch.cuda.is_bf16_supported()
        return torch.bfloat16 if able else None
    return torch.bfloat16 if amp == "bf16" else None


@contextlib.contextmanager
def interruption() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM set the event, so that the update is finished and kept; the second time they do as ever."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        for each in signals:
            signal.signal(each, before[each])

    for number in signals:
        signal.signal(number, ask)
    try:
        yield asked
    finally:
        for number in signals:
            signal.signal(number, before[number])


@contextlib.contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """On the CPU, where it costs next to nothing, the same bits in every run."""
    memory: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = memory.fill_uninitialized_memory
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = filled
