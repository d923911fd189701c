"""One piece of work by many processes, as `torchrun` starts them; by one process everything here does nothing."""

from __future__ import annotations

import datetime
import gc
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Others wait while the first one measures and draws at the end.
_PATIENCE = datetime.timedelta(minutes=60)


class Processes:
    """Which of how many this one is.

    Attributes:
        rank: 0 is the first, which writes the files and speaks.
        world: how many there are.
        device: what this one computes on.
    """

    def __init__(self, rank: int = 0, world: int = 1, device: str = "cpu") -> None:
        self.rank, self.world = rank, world
        self.device = torch.device(device)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, of the same bits in all of them."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def most(self, values: Tensor) -> Tensor:
        """The largest of all processes, each by itself."""
        if self.world > 1:
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return values

    def gather(self, item: Any) -> list[Any]:
        """Everybody's items in the order of the ranks, in the first process; in the others nothing."""
        if self.world == 1:
            return [item]
        items: list[Any] | None = [None] * self.world if self.first else None
        dist.gather_object(item, items)
        return items or []

    def share(self, item: Any) -> Any:
        """The first process's item, in all of them."""
        if self.world == 1:
            return item
        box = [item]
        dist.broadcast_object_list(box)
        return box[0]


def check_device(device: str) -> None:
    """Raises ValueError for what is not "cpu", "cuda" or "cuda:N", and for a GPU that torch does not see."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"device must be cpu, cuda or cuda:N, got {device!r}")
    if device != "cpu" and _number(device) >= torch.cuda.device_count():
        seen = f"torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices"
        raise ValueError(f"device {device}: {seen}")


def _number(device: str) -> int:
    return int(device.partition(":")[2] or 0)


def started_by_torchrun() -> bool:
    """Whether this is one of several processes."""
    return _world() > 1


def _world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Meets the other processes, where `torchrun` has started some: gloo on the CPU, NCCL on GPUs, one for each.

    Raises:
        ValueError: there is no such device; or one GPU was named for several processes.
    """
    world = _world()
    if world > 1 and ":" in device:
        raise ValueError(f"device {device}: with {world} processes it is cpu or cuda, and each takes a GPU of its own")
    if world > 1 and device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    check_device(device)
    if device != "cpu":
        torch.cuda.set_device(_number(device))
    if world == 1:
        yield Processes(device=device)
        return
    with process_group("gloo" if device == "cpu" else "nccl"):
        yield Processes(dist.get_rank(), world, device)


@contextmanager
def process_group(backend: str, **meeting: Any) -> Iterator[None]:
    """torch's default group, which takes its threads with it.

    Where one of gloo's lets go of a tensor while Python ends, torch aborts the process ("terminate called without an
    active exception").

    Args:
        backend: "gloo" or "nccl".
        meeting: where the processes meet, as `torch.distributed.init_process_group` takes it; `torchrun` says it.
    """
    # Its functions have the group as a default argument, and keep for good what is there when they are imported.
    import torch.distributed.nn.functional  # noqa: F401

    dist.init_process_group(backend, timeout=_PATIENCE, **meeting)
    try:
        yield
    finally:
        gc.collect()  # DistributedDataParallel keeps the group, too
        dist.destroy_process_group()
