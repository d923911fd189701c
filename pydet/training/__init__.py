"""How Darknet updates weights: its SGD and its learning rates, as those of PyTorch."""

from pydet.training.schedule import DarknetLR, Policy
from pydet.training.sgd import darknet_sgd

__all__ = ["DarknetLR", "Policy", "darknet_sgd"]
