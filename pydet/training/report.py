"""The folder that tells what a training reached: curves, tables, pictures with the truth beside what is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pydet.data import Dataset
from pydet.detector import Detector
from pydet.draw import draw_boxes
from pydet.evaluation import Evaluation
from pydet.files import whole_file
from pydet.image import ImageError, read_image
from pydet.models import DetectionModel
from pydet.outputs import save_picture
from pydet.plots import new_figure, save_figure
from pydet.report import write_report
from pydet.training.log import read_table

PICTURES = 8
_SHOWN_ABOVE = 0.25


def report(
    folder: Path, run: Path, network: DetectionModel, dataset: Dataset, result: Evaluation | None, title: str
) -> list[str]:
    """Writes it.

    Args:
        folder: where it goes.
        run: the folder of the training, with its tables.
        network: in evaluation mode.
        dataset: whose pictures are shown, with the labels of the network.
        result: of the measurement on it; None where there was none.
        title: what was measured on what.

    Returns:
        Sentences about what could not be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"# {title}", ""]
    problems: list[str] = []
    if result is not None:
        lines += ["```", result.table(), "```", ""]
        try:
            write_report(result, folder)
        except ImportError as error:
            problems.append(f"the report has no plots: {error}")
        else:
            lines += ["![Precision and recall](precision_recall.png)", "", "![Confusions](confusion.png)", ""]
    try:
        plot_training(run, folder / "training.png")
        lines += ["![Losses](training.png)", ""]
    except ImportError as error:
        problems = [f"the report has no plots: {error}"]  # the sentence of the other plots, which need the same
    for name in draw_truths(network, dataset, folder):
        lines += [f"![{name}, the truth on the left]({name})", ""]
    with whole_file(folder / "report.md") as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")
    return problems


def plot_training(run: Path, path: Path) -> None:
    """The loss, its terms and the learning rate of every update, and what was measured on the way.

    Raises:
        ImportError: there is no matplotlib.
    """
    losses, measures = read_table(run / "losses.csv"), read_table(run / "validation.csv")
    figure = new_figure(8, 9)
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    updates = np.array([int(row["update"]) for row in losses])
    fixed = ("update", "epoch", "learning_rate")
    for name in losses[0] if losses else ():
        if name not in fixed:
            values = np.array([float(row[name] or "nan") for row in losses])
            top.plot(updates, _smooth(values), label=name, linewidth=2 if name == "loss" else 1)
    top.set(ylabel="loss, mean of 20 updates", yscale="log")
    top.legend(fontsize="small")
    for name in measures[0] if measures else ():
        if name != "update":
            at = [int(row["update"]) for row in measures]
            middle.plot(at, [float(row[name]) for row in measures], marker="o", label=name)
    middle.set(ylabel="on the val split", ylim=(0, 1))
    if measures:
        middle.legend(fontsize="small")
    bottom.plot(updates, [float(row["learning_rate"]) for row in losses])
    bottom.set(xlabel="update", ylabel="learning rate")
    save_figure(figure, path)


def _smooth(values: NDArray[np.float64], width: int = 20) -> NDArray[np.float64]:
    """Means of the last `width` values."""
    sums = np.cumsum(np.insert(np.nan_to_num(values), 0, 0.0))
    starts = np.maximum(np.arange(1, len(values) + 1) - width, 0)
    ends = np.arange(1, len(values) + 1)
    return (sums[ends] - sums[starts]) / (ends - starts)


def draw_truths(network: DetectionModel, dataset: Dataset, folder: Path, count: int = PICTURES) -> list[str]:
    """Some pictures, the truth on the left and what is found on the right; the names of the files."""
    detector = Detector(network)
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)).tolist()
    names: list[str] = []
    for number in chosen:
        record = dataset[number]
        try:
            picture = read_image(record.path)
        except ImageError:
            continue
        found = detector.detect(picture, _SHOWN_ABOVE)
        sure = torch.ones(len(record.boxes))
        truth = draw_boxes(picture, record.boxes.float(), record.labels, sure, dataset.class_names)
        right = draw_boxes(picture, found.boxes, found.labels, found.scores, found.class_names)
        name = f"{len(names) + 1:02d}-{Path(record.path).stem}.jpg"
        save_picture(_beside(truth, right), folder / name)
        names.append(name)
    return names


def _beside(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two pictures of one size with a heading each."""
    size = max(12, left.height // 25)
    both = Image.new("RGB", (2 * left.width + size, left.height + 2 * size), "white")
    pen, font = ImageDraw.Draw(both), ImageFont.load_default(size=size)
    for x, picture, heading in ((0, left, "truth"), (left.width + size, right, "found")):
        both.paste(picture, (x, 2 * size))
        pen.text((x + size // 2, size // 3), heading, fill="black", font=font)
    return both
