"""The command `pydet models`."""

from __future__ import annotations

import argparse
from typing import Any

from pydet.commands.options import ALL_DONE, add_command

_MODELS = """\
Lists the detectors with the size of their pictures, the number of their labels and where their weights are published;
with a NAME, tells more about one."""


def add(commands: Any) -> None:
    """Adds the command to those of the parser."""
    parser = add_command(commands, "models", _run, "list the detectors, or tell about one", _MODELS)
    parser.add_argument("name", nargs="?", metavar="NAME", help="the detector to tell more about")
    parser.add_argument("--summary", action="store_true", help="show its layers, shapes, numbers and operations")


def _run(options: argparse.Namespace) -> int:
    from pydet.info import aligned
    from pydet.models.registry import ASSETS, MODELS, find

    if options.summary:
        from pydet.models.summary import summary

        if options.name is None:
            raise ValueError("--summary needs the NAME of a model")
        print(summary(find(options.name)))
        return ALL_DONE
    if options.name is not None:
        print(aligned(find(options.name).facts()))
        return ALL_DONE
    rows = [("model", "input", "labels", "weights")]
    for name, definition in MODELS.items():
        weights = "come with pydet" if (ASSETS / f"{name}.safetensors").exists() else str(definition.weights or "none")
        height, width = definition.image_size
        rows.append((name, f"{height} x {width}", f"{len(definition.class_names()):,}", weights))
    print(aligned(rows))
    return ALL_DONE
