"""The pictures among the processes that `torchrun` has started."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydet.detector import Detector
from pydet.engines.engine import Engine, Job, Outcome, Picture, named, work
from pydet.processes import Processes


class Torchrun(Engine):
    """Every process a batch, and again. The batches are those of one process, and so are the results.

    Args:
        group: The processes.
    """

    def __init__(self, group: Processes) -> None:
        super().__init__(str(group.device))
        self.group, self.first = group, group.first

    def outcomes(self, detector: Detector, job: Job, pictures: Sequence[Picture]) -> Iterator[Outcome]:
        group, size = self.group, job.batch_size
        pictures = group.share(pictures)  # one list for all, even if a folder has changed meanwhile
        for start in range(0, len(pictures), size * group.world):
            mine = pictures[start + group.rank * size : start + (group.rank + 1) * size]
            done = [named(outcome, ()) for outcome in work(detector, job, mine)]
            for part in group.gather(done):
                yield from (named(outcome, detector.class_names) for outcome in part)
