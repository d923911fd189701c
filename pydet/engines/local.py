"""The pictures, one batch after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydet.detector import Detector
from pydet.engines.engine import Engine, Job, Outcome, Picture, work


class Local(Engine):
    """This process alone."""

    def outcomes(self, detector: Detector, job: Job, pictures: Sequence[Picture]) -> Iterator[Outcome]:
        return work(detector, job, pictures)
