"""The command `pydet detect`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
    model_arguments,
    say,
)
from pydet.detect_files import (
    Inputs,
    Report,
    check_output_file,
    check_writable,
    find_inputs,
    picture_targets,
    show,
)

if TYPE_CHECKING:
    from pydet.detector import Detections

_DETECT = """\
Finds objects in pictures. Prints a table for each and writes the picture with the boxes drawn on it.

IMAGES are files, folders or patterns. Of a folder, the files with the ending of a picture format are taken (.jpg, .png,
.tif, ...), the others and the folders within are left alone; quote a pattern with ** to reach those: 'photos/**/*.jpg'.
A picture that cannot be read does not stop the others.

By several processes: torchrun --nproc-per-node N -m pydet detect ..."""

_OUT = "folder for the pictures with boxes (default: detections); never writes over an input"
_ENGINE = "who does it: local, this process (default), or ray, a Ray cluster (needs: pip install 'pydet[ray]')"


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
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help=_ENGINE)


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
    if not inputs.paths:
        with _result_files(options, [], ()):
            pass
    elif not _detect(options, inputs.paths, targets, report):
        return ALL_DONE
    say(_summary(options, inputs, report))
    if report.interrupted:
        return INTERRUPTED
    return SOME_FAILED if report.problems else ALL_DONE


def _detect(options: argparse.Namespace, paths: Sequence[str], targets: Sequence[Path | None], report: Report) -> bool:
    """Whether this is the process that knows the results."""
    from pydet.engines import open_engine
    from pydet.engines.engine import Job, Picture

    with open_engine(options.engine, options.device) as engine:
        detector = load_model(options, engine.device)
        if options.explain and detector.tree is None:
            raise ValueError("--explain needs a model whose classes are a tree, such as yolo9000")
        thresholds = (options.threshold, options.iou_threshold)
        job = Job(model_arguments(options), *thresholds, options.batch_size, options.explain)
        outcomes = engine.outcomes(detector, job, [Picture(*pair) for pair in zip(paths, targets, strict=True)])
        if not engine.first:
            for _ in outcomes:  # there are none, but this is what does the work
                pass
            return False
        try:
            with _result_files(options, paths, detector.class_names) as keep:
                show(outcomes, len(paths), report, keep)
        except KeyboardInterrupt:
            report.interrupted = True
        except BrokenPipeError:  # nobody reads what is printed
            raise
        except OSError as error:  # a results file
            report.problems.append(str(error))
    return True


@contextmanager
def _result_files(
    options: argparse.Namespace, paths: Sequence[str], class_names: Sequence[str]
) -> Iterator[list[Callable[[Detections], None]]]:
    """What adds a picture to each of the files that are wanted; they are there at the end, unless something fails."""
    from pydet.outputs import category_ids, coco_results_file, csv_file, image_ids

    with ExitStack() as stack:
        keep = []
        if options.json:
            ids = dict(zip(paths, image_ids(paths), strict=True))
            keep.append(stack.enter_context(coco_results_file(options.json, ids, category_ids(class_names))))
        if options.csv:
            keep.append(stack.enter_context(csv_file(options.csv)))
        yield keep


def _summary(options: argparse.Namespace, inputs: Inputs, report: Report) -> str:
    lines = [f"{report.done} of {len(inputs.paths)} pictures done, {report.objects} objects found"]
    if report.interrupted:
        lines[0] = "interrupted: " + lines[0] + ("; no results file was written" if options.json or options.csv else "")
    if inputs.skipped:
        lines[0] += f"; {inputs.skipped} other files in the folders were skipped"
    if options.pictures and report.done:
        lines.append(f"annotated pictures are in {options.out}{os.sep}")
    if report.problems:
        lines += [f"{len(report.problems)} failed:", *(f"  {problem}" for problem in report.problems)]
    return "\n  ".join(lines)
