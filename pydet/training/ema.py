"""The moving average of a network's numbers, which finds objects better than the numbers of any one update."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from pydet.models import DetectionModel


class MovingAverage:
    """average = kept * average + (1 - kept) * network, after every update, for weights and running statistics.

    At the beginning less is kept, (1 + n) / (10 + n) after n updates, so that the random or foreign numbers of the
    start are soon gone.

    Args:
        network: whose numbers are averaged; its copy is the average.
        kept: in 0..1; 0: the average is the network itself, and there is no copy.
    """

    def __init__(self, network: DetectionModel, kept: float) -> None:
        self.kept = kept
        self.network = copy.deepcopy(network).requires_grad_(False) if kept else network

    @torch.no_grad()
    def update(self, network: DetectionModel, updates: int) -> None:
        """Takes in the network after so many updates."""
        if not self.kept:
            return
        kept = min(self.kept, (1 + updates) / (10 + updates))
        averages: list[Tensor] = []
        currents: list[Tensor] = []
        numbers = network.state_dict()
        for name, average in self.network.state_dict().items():
            current = numbers[name]
            if average.is_floating_point():
                averages.append(average)
                currents.append(current)
            else:
                average.copy_(current)  # how many batches a normalisation has seen
        torch._foreach_lerp_(averages, currents, 1 - kept)
