"""What several commands share: exit codes, options, and the model that the options name. Without torch."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydet.detector import Detector

ALL_DONE, SOME_FAILED, NOT_STARTED, INTERRUPTED = 0, 1, 2, 130

_EXIT_CODES = "exit code: 0 all done; 1 something failed, the end of the output says what; 2 nothing was done"
DATA = """
DATA is a file or folder of any of these formats, which is recognised from what is there:
  COCO     instances.json, or a folder with annotations/*.json
  VOC      a folder with Annotations/*.xml and JPEGImages, or with XML files beside the pictures
  YOLO     data.yaml, or a folder with images and labels, or with label files beside the pictures
  Darknet  a .data file, or a .txt list of pictures
Bad annotations are named and left out; with --strict nothing is done if there are any."""


def say(message: str) -> None:
    """A sentence on stderr."""
    print(f"pydet: {message}", file=sys.stderr)


def add_command(commands: Any, name: str, run: Any, summary: str, description: str) -> argparse.ArgumentParser:
    """A parser for a command whose work is `run(options)`, which returns the exit code."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_data_options(parser: argparse.ArgumentParser, split: str) -> None:
    """Which part of a data set; `split` says what is used without --split."""
    parser.add_argument("--images", metavar="DIR", help="folder of the pictures, where it cannot be guessed")
    parser.add_argument(
        "--split", metavar="NAME", help=f"part of the data: train, val, train+val, ... (default: {split})"
    )
    parser.add_argument("--strict", action="store_true", help="refuse data with bad annotations")


def add_model_options(parser: argparse.ArgumentParser, threshold: float) -> None:
    """Which detector, and what it keeps."""
    model = parser.add_argument_group("model")
    network = model.add_mutually_exclusive_group()
    network.add_argument("--model", metavar="NAME", help="default: yolov3-tiny, COCO's 80 classes")
    model.add_argument("--weights", type=Path, metavar="FILE", help=".weights, .pth or .safetensors")
    network.add_argument("--cfg", type=Path, metavar="FILE", help="Darknet .cfg of your own model, instead of --model")
    model.add_argument("--names", type=Path, metavar="FILE", help="class names of your own model, one a line")
    model.add_argument("--size", type=image_size, metavar="N|HxW", help="network input in pixels, multiples of 32")
    shown = f"keep objects with a score above this, 0..1 (default: {threshold})"
    model.add_argument("--threshold", type=_fraction, default=threshold, metavar="X", help=shown)
    shown = "of two boxes of a class that overlap more than this, keep the better (default: 0.45)"
    model.add_argument("--iou-threshold", type=_fraction, default=0.45, metavar="X", help=shown)


def add_work_options(parser: argparse.ArgumentParser) -> None:
    """What it computes on, and how."""
    parser.add_argument("--device", type=_device, default="cpu", metavar="NAME", help="cpu (default), cuda or cuda:N")
    shown = "f32 (default), bf16 or fp16 where the device computes in it, or auto: bf16 where that costs no AP"
    parser.add_argument("--precision", choices=("auto", "f32", "bf16", "fp16"), default="f32", help=shown)
    parser.add_argument("--batch-size", type=positive, default=8, metavar="N", help="pictures at once (default: 8)")


def model_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `pydet.load` that the options of a model and of work name, but for the device."""
    return {
        "model": options.model,
        "weights": options.weights,
        "cfg": options.cfg,
        "image_size": options.size,
        "class_names": options.names,
        "precision": options.precision,
    }


def load_model(options: argparse.Namespace, device: str | None = None) -> Detector:
    """The detector that the options of a model and of work name, on that device or on their own.

    Raises:
        ValueError: there is no such device; or what `pydet.load` raises.
    """
    import pydet
    from pydet.processes import check_device

    device = device or options.device
    check_device(device)
    arguments = model_arguments(options)
    if device == "cpu" != options.device:  # only looked at here: it will be used on a GPU elsewhere
        arguments["precision"] = "f32"
    return pydet.load(**arguments, device=device)


def _fraction(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"must be a number in 0..1, got {text!r}")


def positive(text: str) -> int:
    """A whole number above 0."""
    with contextlib.suppress(ValueError):
        if int(text) > 0:
            return int(text)
    raise argparse.ArgumentTypeError(f"must be a whole number above 0, got {text!r}")


def seed(text: str) -> int:
    """A whole number that fits into 64 bits."""
    with contextlib.suppress(ValueError):
        if 0 <= int(text) < 1 << 63:
            return int(text)
    raise argparse.ArgumentTypeError(f"must be a whole number in 0..2^63 - 1, got {text!r}")


def _device(text: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"must be cpu, cuda or cuda:N, got {text!r}")
    return text


def image_size(text: str) -> tuple[int, int]:
    """ "416" or "416x608" (height x width)."""
    with contextlib.suppress(ValueError):
        height, width = ([int(side) for side in text.lower().split("x")] * 2)[:2]
        if height > 0 and width > 0 and text.lower().count("x") <= 1:
            return height, width
    raise argparse.ArgumentTypeError(f"must be a size such as 416, or height x width such as 416x608, got {text!r}")
