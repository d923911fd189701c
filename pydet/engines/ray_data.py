"""The pictures among the workers of a Ray cluster, by Ray Data (https://docs.ray.io/en/latest/data/data.html).

A worker has one processor and a model of its own, or one GPU. A task is a few batches of pictures; where a worker dies,
Ray starts another one and gives it the task again, from its beginning. Its outcomes come whole or not at all, so that
nothing is missing and nothing is there twice.
"""

from __future__ import annotations

import logging
import os
import pickle
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pydet.detector import Detector
from pydet.engines.engine import Engine, Job, Outcome, Picture, named, work
from pydet.processes import started_by_torchrun

_BATCHES = 4  # of a task: many enough to be worth sending, and few to do again
_TRIES = 3  # beyond the first; then a picture that kills every worker ends the run, which else would never end
_RESTARTS = 20  # of one worker; those of a machine that is taken away are not counted


@contextmanager
def ray_engine(device: str) -> Iterator[Engine]:
    """Meets the cluster of RAY_ADDRESS, or that of this machine, or starts one here and ends it afterwards.

    Raises:
        ImportError: Ray is not installed.
        OSError: There is no cluster at that address, or none can be started.
        ValueError: A certain GPU was asked for; or several processes ask.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(f'--engine ray needs Ray Data ({error}): pip install "pydet[ray]"') from None
    if started_by_torchrun():
        raise ValueError("--engine ray is for one process, which torchrun is not needed for")
    if device not in ("cpu", "cuda"):
        raise ValueError(f"--device {device}: with --engine ray it is cpu or cuda, and Ray chooses which of the GPUs")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody unasked
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
        except Exception as error:  # Ray has no class for it
            raise OSError(f"--engine ray: Ray does not start: {error}") from error
    try:
        yield _Ray(device)
    finally:
        if ours:
            ray.shutdown()


class _Ray(Engine):
    def __init__(self, device: str) -> None:
        super().__init__("cpu")  # here the model is loaded only to find mistakes before the workers do
        self._worker_device = device

    def outcomes(self, detector: Detector, job: Job, pictures: Sequence[Picture]) -> Iterator[Outcome]:
        import ray
        from ray.data import ActorPoolStrategy, DataContext

        kind = "CPU" if self._worker_device == "cpu" else "GPU"
        available = int(ray.cluster_resources().get(kind, 0))
        if not available:
            raise ValueError(f"--engine ray: the cluster has no {kind}")
        context = DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        size = job.batch_size * _BATCHES
        shares = [pictures[start : start + size] for start in range(0, len(pictures), size)]
        rows = [{"number": number, "pictures": pickle.dumps(share)} for number, share in enumerate(shares)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray 2.64 will have other names for the last two: see pyproject.toml
            done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                _Worker,
                fn_constructor_args=(job, self._worker_device, Path.cwd()),
                batch_size=1,
                batch_format="numpy",
                compute=ActorPoolStrategy(size=min(available, len(rows))),
                num_cpus=1 if kind == "CPU" else 0,
                num_gpus=1 if kind == "GPU" else 0,
                max_restarts=_RESTARTS,
                max_task_retries=_TRIES,
            )
        try:
            yield from _in_order(done.iter_rows(), len(rows), detector.class_names)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise OSError(f"a worker of Ray failed: {reason}") from error


def _in_order(rows: Iterable[dict[str, Any]], count: int, class_names: tuple[str, ...]) -> Iterator[Outcome]:
    """The outcomes of all shares; RuntimeError where one is not there exactly once."""
    due = 0
    for row in rows:
        if row["number"] != due:
            raise RuntimeError(f"Ray Data gave share {row['number']} of the pictures where share {due} was due")
        due += 1
        yield from (named(outcome, class_names) for outcome in pickle.loads(row["outcomes"]))
    if due != count:
        raise RuntimeError(f"Ray Data gave {due} of the {count} shares of the pictures")


class _Worker:
    """A process of the cluster, which finds the files where the first one does."""

    def __init__(self, job: Job, device: str, folder: Path) -> None:
        import pydet

        os.chdir(folder)
        pydet.keep_freed_memory()
        self.job, self.detector = job, pydet.load(**job.model, device=device)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, list[Any]]:
        pictures = pickle.loads(batch["pictures"][0])
        outcomes = [named(outcome, ()) for outcome in work(self.detector, self.job, pictures)]
        return {"number": [int(batch["number"][0])], "outcomes": [pickle.dumps(outcomes)]}
