"""The command `pydet`. Torch is imported only where there is work for it, so that help and mistakes answer quickly."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydet.detect_files import (
    Inputs,
    Report,
    check_output_file,
    check_writable,
    detect_files,
    explanations,
    find_inputs,
    picture_targets,
)
from pydet.train_options import TRAIN, add_train_options

if TYPE_CHECKING:
    from pydet.detector import Detections, Detector

ALL_DONE, SOME_FAILED, NOT_STARTED, INTERRUPTED = 0, 1, 2, 130

_DETECT = """\
Finds objects in pictures. Prints a table for each and writes the picture with the boxes drawn on it.

IMAGES are files, folders or patterns. Of a folder, the files with the ending of a picture format are taken (.jpg, .png,
.tif, ...), the others and the folders within are left alone; quote a pattern with ** to reach those: 'photos/**/*.jpg'.
A picture that cannot be read does not stop the others."""

_EXIT_CODES = "exit code: 0 all done; 1 something failed, the end of the output says what; 2 nothing was done"

_OUT = "folder for the pictures with boxes (default: detections); never writes over an input"

_MODELS = """\
Lists the detectors with the size of their pictures, the number of their labels and where their weights are published;
with a NAME, tells more about one."""

_CONVERT = """\
Reads Darknet's .weights, torchvision's .pth or pydet's .safetensors and writes .safetensors, which says itself what
network it is for, or .weights for Darknet. Nothing in any of these files is ever run."""

_EXPORT = """\
Writes a detector as an ONNX file, suppression included (needs: pip install 'pydet[onnx]').

The file runs in onnxruntime without pydet. It takes "images", float32 [B, 3, height, width], RGB in 0..1, any number of
pictures of any one size, and gives "boxes" [B, K, 4] (x1, y1, x2, y2 in pixels of the picture), "scores" [B, K],
"labels" [B, K] and "count" [B], how many of the K are detections."""

_DATA = """
DATA is a file or folder of any of these formats, which is recognised from what is there:
  COCO     instances.json, or a folder with annotations/*.json
  VOC      a folder with Annotations/*.xml and JPEGImages, or with XML files beside the pictures
  YOLO     data.yaml, or a folder with images and labels, or with label files beside the pictures
  Darknet  a .data file, or a .txt list of pictures
Bad annotations are named and left out; with --strict nothing is done if there are any."""

_EVALUATE = f"""\
Measures how good a model is on annotated pictures: COCO's and VOC's average precision, of each class too, what is taken
for what, and speed (needs: pip install 'pydet[evaluate]').
{_DATA}

The model's classes are matched to the annotations' by name. The default thresholds are those of Darknet's
"detector valid"."""

_ANCHORS = f"""\
Finds anchors for a data set: k-means of the boxes' sizes with the distance 1 - IoU (YOLOv2, section 2), on pictures
scaled to the network's input with their aspect kept. Shows what fewer or more of them would give, too.
{_DATA}"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    warnings.filterwarnings("ignore", module=r"PIL\.")  # about oddities of files that are read all the same
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name may hold what the terminal cannot show
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.run is None:
        parser.print_help()
        return NOT_STARTED
    try:
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # `pydet detect ... | head`: nobody reads on, and Python would complain at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SOME_FAILED
    except (OSError, ValueError, ImportError) as error:
        _say(str(error))
        return NOT_STARTED
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        _say("out of GPU memory; a smaller --batch-size or --size needs less")
        return NOT_STARTED


def _say(message: str) -> None:
    print(f"pydet: {message}", file=sys.stderr)


def _detect(options: argparse.Namespace) -> int:
    inputs = find_inputs(options.images)
    if options.json and options.json == options.csv:
        raise ValueError("--json and --csv cannot be the same file")
    for path in filter(None, (options.json, options.csv)):
        check_output_file(path, inputs.paths)
    targets: list[Path] | list[None] = [None] * len(inputs.paths)
    if options.pictures and inputs.paths:
        check_writable(options.out)
        targets = picture_targets(inputs.paths, options.out)
    report = Report(problems=inputs.problems)
    if inputs.paths:
        detector = _load(options)
        if options.explain and detector.tree is None:
            raise ValueError("--explain needs a model whose classes are a tree, such as yolo9000")
        detect_files(
            detector, inputs.paths, targets, options.threshold, options.iou_threshold, options.batch_size, report
        )
        if options.explain:
            print(*(line for found in report.detections for line in explanations(detector, found)), sep="\n")
    if not report.interrupted:
        try:
            _write_results(options, report.detections)
        except OSError as error:
            report.problems.append(str(error))
    _say(_summary(options, inputs, report))
    if report.interrupted:
        return INTERRUPTED
    return SOME_FAILED if report.problems else ALL_DONE


def _write_results(options: argparse.Namespace, detections: list[Detections]) -> None:
    from pydet.outputs import category_ids, coco_results, image_ids, write_csv, write_json

    if options.json:
        ids = image_ids([found.path or "" for found in detections])
        categories = category_ids(detections[0].class_names) if detections else []
        write_json(options.json, coco_results(detections, ids, categories))
    if options.csv:
        write_csv(options.csv, detections)


def _summary(options: argparse.Namespace, inputs: Inputs, report: Report) -> str:
    objects = sum(map(len, report.detections))
    lines = [f"{len(report.detections)} of {len(inputs.paths)} pictures done, {objects} objects found"]
    if report.interrupted:
        lines[0] = "interrupted: " + lines[0] + ("; no results file was written" if options.json or options.csv else "")
    if inputs.skipped:
        lines[0] += f"; {inputs.skipped} other files in the folders were skipped"
    if options.pictures and report.detections:
        lines.append(f"annotated pictures are in {options.out}{os.sep}")
    if report.problems:
        lines += [f"{len(report.problems)} failed:", *(f"  {problem}" for problem in report.problems)]
    return "\n  ".join(lines)


def _evaluate(options: argparse.Namespace) -> int:
    path = options.data or options.annotations
    if options.json:
        check_output_file(options.json, [path])
    if options.report:
        check_writable(options.report)
        from pydet.plots import check_matplotlib

        check_matplotlib()
    from pydet.data.load import recognise
    from pydet.evaluate import evaluate
    from pydet.outputs import write_json

    split = options.split or recognise(path, options.images).usual("val", "test")
    if split:
        _say(f"evaluating the split {split}")
    result = evaluate(
        _load(options),
        path,
        options.images,
        options.threshold,
        options.iou_threshold,
        options.limit,
        options.batch_size,
        progress=True,
        split=split,
        strict=options.strict,
    )
    print(result.table())
    if options.json:
        write_json(options.json, result.as_json())
    if options.report:
        from pydet.report import write_report

        write_report(result, options.report)
        _say(f"tables and plots are in {options.report}{os.sep}")
    for problem in result.problems:
        _say(problem)
    return SOME_FAILED if result.problems else ALL_DONE


def _train(options: argparse.Namespace) -> int:
    from pydet.train_options import train_command

    return train_command(options)


def _anchors(options: argparse.Namespace) -> int:
    if options.plot:
        check_output_file(options.plot, [options.data])
        from pydet.plots import check_matplotlib, plot_elbow

        check_matplotlib()
    from pydet.anchors import find_anchors
    from pydet.data import DataWarning, load_dataset
    from pydet.data.load import recognise

    split = options.split or recognise(options.data, options.images).usual("train")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # they are said at the end
        data = load_dataset(options.data, split, options.images, options.strict)
    result = find_anchors(data, options.k, options.size or (416, 416), options.seed)
    print(f"{data.describe()}\n{result.table()}")
    if options.plot:
        plot_elbow(result, options.plot)
    for problem in data.problems:
        _say(str(problem))
    return SOME_FAILED if data.problems else ALL_DONE


def _models(options: argparse.Namespace) -> int:
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


def _convert(options: argparse.Namespace) -> int:
    from pydet.models.convert import convert

    check_output_file(options.output, [str(options.weights)])
    cfg = str(options.cfg) if options.cfg else options.model
    sources = convert(cfg, str(options.weights), str(options.output), options.names, options.half)
    print(f"{options.output}: {options.output.stat().st_size:,} bytes")
    print("\n".join(f"  made of {name} {digest}" for name, digest in sources.items()))
    return ALL_DONE


def _export(options: argparse.Namespace) -> int:
    check_output_file(options.output, [str(options.weights)])
    _load(options).export_onnx(options.output, options.threshold, options.iou_threshold)
    print(f"{options.output}: {options.output.stat().st_size:,} bytes")
    return ALL_DONE


def _info(options: argparse.Namespace) -> int:
    from pydet.info import info

    print(info())
    return ALL_DONE


def _load(options: argparse.Namespace) -> Detector:
    import torch

    import pydet

    number = int(options.device.partition(":")[2] or 0)
    if options.device != "cpu" and number >= torch.cuda.device_count():
        raise ValueError(
            f"--device {options.device}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices"
        )
    return pydet.load(
        options.model,
        weights=options.weights,
        cfg=options.cfg,
        device=options.device,
        image_size=options.size,
        class_names=options.names,
        precision=options.precision,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pydet", description="Object detection with the classic one-stage detectors.")
    parser.add_argument("--version", action="version", version=f"pydet {version('pydet')}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    detect = _command(commands, "detect", _detect, "find objects in pictures", _DETECT)
    detect.add_argument("images", nargs="+", metavar="IMAGES", help="picture, folder or pattern")
    detect.add_argument("--out", type=Path, default=Path("detections"), metavar="DIR", help=_OUT)
    detect.add_argument("--no-pictures", dest="pictures", action="store_false", help="write no annotated pictures")
    detect.add_argument("--json", type=Path, metavar="FILE", help="also write all detections as COCO results")
    detect.add_argument("--csv", type=Path, metavar="FILE", help="also write all detections as a table")
    detect.add_argument("--explain", action="store_true", help="show the way to each class, where classes are a tree")
    _add_model_options(detect, threshold=0.25)
    _add_work_options(detect)

    evaluate = _command(commands, "evaluate", _evaluate, "measure average precision", _EVALUATE)
    data = evaluate.add_mutually_exclusive_group(required=True)
    data.add_argument("data", nargs="?", metavar="DATA", help="data set: file or folder")
    data.add_argument("--annotations", metavar="FILE", help="the same as DATA")
    _add_data_options(evaluate, "val or test, where there is one, else all")
    evaluate.add_argument("--limit", type=_positive, metavar="N", help="use only the first N pictures")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to this file")
    shown = "folder for tables and plots (needs: pip install 'pydet[plots]')"
    evaluate.add_argument("--report", type=Path, metavar="DIR", help=shown)
    _add_model_options(evaluate, threshold=0.005)
    _add_work_options(evaluate)

    train = _command(commands, "train", _train, "train a detector on your own pictures", TRAIN)
    add_train_options(train)

    anchors = _command(commands, "anchors", _anchors, "find anchors for a data set", _ANCHORS)
    anchors.add_argument("data", metavar="DATA", help="data set: file or folder")
    anchors.add_argument("--k", type=_positive, default=9, metavar="N", help="how many anchors (default: 9)")
    anchors.add_argument("--size", type=_size, metavar="N|HxW", help="network input in pixels (default: 416)")
    anchors.add_argument("--seed", type=int, default=0, metavar="N", help="of the random start (default: 0)")
    anchors.add_argument("--plot", type=Path, metavar="FILE", help="also draw the average IoU by number of anchors")
    _add_data_options(anchors, "train, where there is one, else all")

    models = _command(commands, "models", _models, "list the detectors, or tell about one", _MODELS)
    models.add_argument("name", nargs="?", metavar="NAME", help="the detector to tell more about")
    models.add_argument("--summary", action="store_true", help="show its layers, shapes, numbers and operations")

    convert = _command(commands, "convert", _convert, "write weights in another format", _CONVERT)
    convert.add_argument("weights", type=Path, metavar="WEIGHTS", help=".weights, .pth or .safetensors")
    convert.add_argument("output", type=Path, metavar="OUT", help="the .safetensors or .weights file to write")
    convert.add_argument("--model", default="yolov3-tiny", metavar="NAME", help="what the weights are of")
    convert.add_argument("--cfg", type=Path, metavar="FILE", help="Darknet .cfg of your own model, instead of --model")
    convert.add_argument("--names", type=Path, metavar="FILE", help="class names of your own model, one a line")
    convert.add_argument("--half", action="store_true", help="convolutions in half precision: half the size")

    export = _command(commands, "export", _export, "write a detector as an ONNX file", _EXPORT)
    export.add_argument("output", type=Path, metavar="OUT", help="the .onnx file to write")
    _add_model_options(export, threshold=0.25)
    export.set_defaults(device="cpu", precision="f32")

    _command(commands, "info", _info, "show versions, libraries and backends", "Shows what is installed and used here.")
    return parser


def _command(commands: Any, name: str, run: Any, summary: str, description: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_data_options(parser: argparse.ArgumentParser, split: str) -> None:
    parser.add_argument("--images", metavar="DIR", help="folder of the pictures, where it cannot be guessed")
    parser.add_argument(
        "--split", metavar="NAME", help=f"part of the data: train, val, train+val, ... (default: {split})"
    )
    parser.add_argument("--strict", action="store_true", help="refuse data with bad annotations")


def _add_model_options(parser: argparse.ArgumentParser, threshold: float) -> None:
    model = parser.add_argument_group("model")
    model.add_argument("--model", default="yolov3-tiny", metavar="NAME", help="default: yolov3-tiny, COCO's 80 classes")
    model.add_argument("--weights", type=Path, metavar="FILE", help=".weights, .pth or .safetensors")
    model.add_argument("--cfg", type=Path, metavar="FILE", help="Darknet .cfg of your own model, instead of --model")
    model.add_argument("--names", type=Path, metavar="FILE", help="class names of your own model, one a line")
    model.add_argument("--size", type=_size, metavar="N|HxW", help="network input in pixels, multiples of 32")
    shown = f"keep objects with a score above this, 0..1 (default: {threshold})"
    model.add_argument("--threshold", type=_fraction, default=threshold, metavar="X", help=shown)
    shown = "of two boxes of a class that overlap more than this, keep the better (default: 0.45)"
    model.add_argument("--iou-threshold", type=_fraction, default=0.45, metavar="X", help=shown)


def _add_work_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", type=_device, default="cpu", metavar="NAME", help="cpu (default), cuda or cuda:N")
    shown = "f32 (default), bf16 or fp16 where the device computes in it, or auto: bf16 where that costs no AP"
    parser.add_argument("--precision", choices=("auto", "f32", "bf16", "fp16"), default="f32", help=shown)
    parser.add_argument("--batch-size", type=_positive, default=8, metavar="N", help="pictures at once (default: 8)")


def _fraction(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"must be a number in 0..1, got {text!r}")


def _positive(text: str) -> int:
    with contextlib.suppress(ValueError):
        if int(text) > 0:
            return int(text)
    raise argparse.ArgumentTypeError(f"must be a whole number above 0, got {text!r}")


def _device(text: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"must be cpu, cuda or cuda:N, got {text!r}")
    return text


def _size(text: str) -> tuple[int, int]:
    """ "416" or "416x608" (height x width)."""
    with contextlib.suppress(ValueError):
        height, width = ([int(side) for side in text.lower().split("x")] * 2)[:2]
        if height > 0 and width > 0 and text.lower().count("x") <= 1:
            return height, width
    raise argparse.ArgumentTypeError(f"must be a size such as 416, or height x width such as 416x608, got {text!r}")
