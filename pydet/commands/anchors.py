"""The command `pydet anchors`."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

from pydet.commands.options import (
    ALL_DONE,
    DATA,
    SOME_FAILED,
    add_command,
    add_data_options,
    image_size,
    positive,
    say,
    seed,
)
from pydet.detect_files import check_output_file

_ANCHORS = f"""\
Finds anchors for a data set: k-means of the boxes' sizes with the distance 1 - IoU (YOLOv2, section 2), on pictures
scaled to the network's input with their aspect kept. Shows what fewer or more of them would give, too.
{DATA}"""


def add(commands: Any) -> None:
    """Adds the command to those of the parser."""
    parser = add_command(commands, "anchors", _run, "find anchors for a data set", _ANCHORS)
    parser.add_argument("data", metavar="DATA", help="data set: file or folder")
    parser.add_argument("--k", type=positive, default=9, metavar="N", help="how many anchors (default: 9)")
    parser.add_argument("--size", type=image_size, metavar="N|HxW", help="network input in pixels (default: 416)")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of the random start (default: 0)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw the average IoU by number of anchors")
    add_data_options(parser, "train, where there is one, else all")


def _run(options: argparse.Namespace) -> int:
    if options.plot:
        check_output_file(options.plot, [options.data])
        from pydet.plots import check_format, check_matplotlib, plot_elbow

        check_matplotlib()
        check_format(options.plot)
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
        say(str(problem))
    return SOME_FAILED if data.problems else ALL_DONE
