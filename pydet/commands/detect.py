"""The command `pydet detect`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydet.commands.options import (
    ALL_DONE,
    INTERRUPTED,
    SOME_FAILED,
    add_command,
    add_model_options,
    add_work_options,
    load_model,
    say,
)
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

if TYPE_CHECKING:
    from pydet.detector import Detections

_DETECT = """\
Finds objects in pictures. Prints a table for each and writes the picture with the boxes drawn on it.

IMAGES are files, folders or patterns. Of a folder, the files with the ending of a picture format are taken (.jpg, .png,
.tif, ...), the others and the folders within are left alone; quote a pattern with ** to reach those: 'photos/**/*.jpg'.
A picture that cannot be read does not stop the others."""

_OUT = "folder for the pictures with boxes (default: detections); never writes over an input"


def add(commands: Any) -> None:
    """Adds the command to those of the parser."""
    parser = add_command(commands, "detect", _run, "find objects in pictures", _DETECT)
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="picture, folder or pattern")
    parser.add_argument("--out", type=Path, default=Path("detections"), metavar="DIR", help=_OUT)
    parser.add_argument("--no-pictures", dest="pictures", action="store_false", help="write no annotated pictures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all detections as COCO results")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write all detections as a table")
    parser.add_argument("--explain", action="store_true", help="show the way to each class, where classes are a tree")
    add_model_options(parser, threshold=0.25)
    add_work_options(parser)


def _run(options: argparse.Namespace) -> int:
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
        detector = load_model(options)
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
    say(_summary(options, inputs, report))
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
