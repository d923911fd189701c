"""The command `pydet evaluate`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from pydet.commands.options import (
    ALL_DONE,
    DATA,
    SOME_FAILED,
    add_command,
    add_data_options,
    add_model_options,
    add_work_options,
    load_model,
    positive,
    say,
)
from pydet.detect_files import check_output_file, check_writable

_EVALUATE = f"""\
Measures how good a model is on annotated pictures: COCO's and VOC's average precision, of each class too, what is taken
for what, and speed (needs: pip install 'pydet[evaluate]').
{DATA}

The model's classes are matched to the annotations' by name. The default thresholds are those of Darknet's
"detector valid".

By several processes: torchrun --nproc-per-node N -m pydet evaluate ..."""


def add(commands: Any) -> None:
    """Adds the command to those of the parser."""
    parser = add_command(commands, "evaluate", _run, "measure average precision", _EVALUATE)
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("data", nargs="?", metavar="DATA", help="data set: file or folder")
    data.add_argument("--annotations", metavar="FILE", help="the same as DATA")
    add_data_options(parser, "val or test, where there is one, else all")
    parser.add_argument("--limit", type=positive, metavar="N", help="use only the first N pictures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to this file")
    shown = "folder for tables and plots (needs: pip install 'pydet[plots]')"
    parser.add_argument("--report", type=Path, metavar="DIR", help=shown)
    add_model_options(parser, threshold=0.005)
    add_work_options(parser)


def _run(options: argparse.Namespace) -> int:
    path = options.data or options.annotations
    if options.json:
        check_output_file(options.json, [path])
    if options.report:
        check_writable(options.report)
        from pydet.plots import check_matplotlib

        check_matplotlib()
    from pydet.data.load import recognise
    from pydet.evaluate import dataset_for, detect_and_measure
    from pydet.outputs import write_json
    from pydet.processes import processes

    split = options.split or recognise(path, options.images).usual("val", "test")
    with processes(options.device) as group:
        if split and group.first:
            say(f"evaluating the split {split}")
        detector = load_model(options, str(group.device))
        dataset = dataset_for(detector, path, options.images, options.limit, split, options.strict)
        thresholds = (options.threshold, options.iou_threshold)
        result = detect_and_measure(group, detector, dataset, *thresholds, options.batch_size, progress=True)
    if result is None:  # the first process has it
        return ALL_DONE
    print(result.table())
    if options.json:
        write_json(options.json, result.as_json())
    if options.report:
        from pydet.report import write_report

        write_report(result, options.report)
        say(f"tables and plots are in {options.report}{os.sep}")
    for problem in result.problems:
        say(problem)
    return SOME_FAILED if result.problems else ALL_DONE
