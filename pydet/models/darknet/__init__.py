"""Darknet's networks: `.cfg` and `.weights` files read, run and written."""

from pydet.models.darknet.cfg import CfgError, Section, format_cfg, parse_cfg, read_cfg
from pydet.models.darknet.network import LAYERS, ClassNamesError, Darknet
from pydet.models.darknet.weights import WeightsError, load_weights, save_weights

__all__ = [
    "LAYERS",
    "CfgError",
    "ClassNamesError",
    "Darknet",
    "Section",
    "WeightsError",
    "format_cfg",
    "load_weights",
    "parse_cfg",
    "read_cfg",
    "save_weights",
]
