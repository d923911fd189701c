"""By whom many pictures are worked through: this process, those that torchrun started, or the workers of Ray.

An engine has one method, `outcomes`, which gives what became of every picture, exactly once and in the order of the
list, as it comes: of a million pictures a few are in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pydet.engines.engine import Engine
from pydet.processes import processes, started_by_torchrun


@contextmanager
def open_engine(name: str, device: str) -> Iterator[Engine]:
    """The engine of that name, for as long as it is needed.

    Args:
        name: "local", which is torchrun's where that has started this process, or "ray".
        device: What is computed on: "cpu", "cuda" or "cuda:N".

    Raises:
        ImportError: Ray is not installed.
        ValueError: There is no such device, or the engine cannot be had here.
    """
    if name == "ray":
        from pydet.engines.ray_data import ray_engine

        with ray_engine(device) as engine:
            yield engine
    elif started_by_torchrun():
        from pydet.engines.torchrun import Torchrun

        with processes(device) as group:
            yield Torchrun(group)
    else:
        from pydet.engines.local import Local

        yield Local(device)
