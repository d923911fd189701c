"""The command `pydet export`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pydet.commands.options import ALL_DONE, add_command, add_model_options, load_model
from pydet.detect_files import check_output_file

_EXPORT = """\
Writes a detector as an ONNX file, suppression included (needs: pip install 'pydet[onnx]').

The file runs in onnxruntime without pydet. It takes "images", float32 [B, 3, height, width], RGB in 0..1, any number of
pictures of any one size, and gives "boxes" [B, K, 4] (x1, y1, x2, y2 in pixels of the picture), "scores" [B, K],
"labels" [B, K] and "count" [B], how many of the K are detections."""


def add(commands: Any) -> None:
    """Adds the command to those of the parser."""
    parser = add_command(commands, "export", _run, "write a detector as an ONNX file", _EXPORT)
    parser.add_argument("output", type=Path, metavar="OUT", help="the .onnx file to write")
    add_model_options(parser, threshold=0.25)
    parser.set_defaults(device="cpu", precision="f32")


def _run(options: argparse.Namespace) -> int:
    if options.output.suffix.lower() != ".onnx":  # such as the weights themselves, which were meant to be exported
        raise ValueError(f"export: the output must be an .onnx file, got {str(options.output)!r}")
    check_output_file(options.output, [options.weights, options.cfg])
    load_model(options).export_onnx(options.output, options.threshold, options.iou_threshold)
    print(f"{options.output}: {options.output.stat().st_size:,} bytes")
    return ALL_DONE
