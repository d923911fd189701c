"""The command `pydet convert`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pydet.commands.options import ALL_DONE, add_command
from pydet.detect_files import check_output_file

_CONVERT = """\
Reads Darknet's .weights, torchvision's .pth or pydet's .safetensors and writes .safetensors, which says itself what
network it is for, or .weights for Darknet. Nothing in any of these files is ever run."""


def add(commands: Any) -> None:
    """Adds the command to those of the parser."""
    parser = add_command(commands, "convert", _run, "write weights in another format", _CONVERT)
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help=".weights, .pth or .safetensors")
    parser.add_argument("output", type=Path, metavar="OUT", help="the .safetensors or .weights file to write")
    network = parser.add_mutually_exclusive_group()
    shown = "what the weights are of (default: yolov3-tiny, or what they say themselves)"
    network.add_argument("--model", metavar="NAME", help=shown)
    network.add_argument("--cfg", type=Path, metavar="FILE", help="Darknet .cfg of your own model, instead of --model")
    parser.add_argument("--names", type=Path, metavar="FILE", help="class names of your own model, one a line")
    parser.add_argument("--half", action="store_true", help="convolutions in half precision: half the size")


def _run(options: argparse.Namespace) -> int:
    from pydet.models.convert import convert
    from pydet.models.registry import find

    if options.half and options.output.suffix.lower() == ".weights":
        raise ValueError("convert: --half is for .safetensors, Darknet's .weights are float32 always")
    check_output_file(options.output, [options.weights, options.cfg])
    cfg = str(options.cfg) if options.cfg else options.model and find(options.model).name
    sources = convert(cfg, str(options.weights), str(options.output), options.names, options.half)
    print(f"{options.output}: {options.output.stat().st_size:,} bytes")
    print("\n".join(f"  made of {name} {digest}" for name, digest in sources.items()))
    return ALL_DONE
