"""Training: `train(Settings(...))` is what `pydet train` does, and `resume` goes on with it; and its parts."""

from pydet.training.cfg import settings_of_cfg
from pydet.training.checkpoint import CheckpointError
from pydet.training.loop import NotFinite
from pydet.training.schedule import DarknetLR, Policy
from pydet.training.settings import Settings, SettingsError, defaults, read_settings
from pydet.training.sgd import darknet_sgd
from pydet.training.train import Result, resume, train

__all__ = [
    "CheckpointError",
    "DarknetLR",
    "NotFinite",
    "Policy",
    "Result",
    "Settings",
    "SettingsError",
    "darknet_sgd",
    "defaults",
    "read_settings",
    "resume",
    "settings_of_cfg",
    "train",
]
