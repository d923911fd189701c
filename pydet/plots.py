"""Plots, by matplotlib: precision and recall, confusions, how many anchors."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pydet.files import whole_file

if TYPE_CHECKING:
    from pydet.anchors import Anchors
    from pydet.evaluation import Evaluation

_LARGEST_LEGEND = 20
_LARGEST_LABELLED = 30


def check_matplotlib() -> None:
    """Raises ImportError, saying what to install, where there is no matplotlib."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError("plots need matplotlib: pip install 'pydet[plots]'") from None


def check_format(path: Path) -> None:
    """Raises ValueError where matplotlib writes no file with this ending; with none at all it is PNG."""
    from matplotlib.backend_bases import FigureCanvasBase

    if path.suffix and path.suffix[1:].lower() not in FigureCanvasBase.get_supported_filetypes():
        raise ValueError(f"{path}: no format of plots ends with {path.suffix!r}; use .png or .svg")


def plot_precision_recall(result: Evaluation, path: Path) -> None:
    """Precision over recall at IoU .5: a line for each class, the mean of all in black."""
    figure, axes = _figure("recall", "precision", "Precision and recall at IoU 0.5")
    few = len(result.curves) <= _LARGEST_LEGEND
    style = {"linewidth": 1.0} if few else {"linewidth": 0.5, "color": "silver"}
    grid = np.linspace(0, 1, 201)
    lines = []
    for curve, item in zip(result.curves, result.classes, strict=True):
        recall, precision = np.append(curve.recall, 1), np.append(curve.precision, 0)
        axes.plot(recall[:-1], precision[:-1], label=f"{_plain(item.name)} {item.voc10:.3f}", **style)
        best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0)
        lines.append(best[np.searchsorted(recall[:-1], grid)])
    axes.plot(grid, np.mean(lines, axis=0), color="black", linewidth=2, label=f"mean {result.metrics['VOC10']:.3f}")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    if few:
        axes.legend(loc="lower left", fontsize="small")
    save_figure(figure, path)


def plot_confusions(result: Evaluation, path: Path) -> None:
    """The confusion matrix, each row in parts of its objects."""
    shown = [index for index in range(len(result.confusion)) if _has_any(result, index)]
    counts = result.confusion[shown][:, shown].numpy()
    parts = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [*map(_plain, result.class_names), "nothing"]
    figure, axes = _figure("is taken for", "is", "Objects with a score above 0.25")
    axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    if len(shown) <= _LARGEST_LABELLED:
        ticks = range(len(shown))
        axes.set_xticks(ticks, [names[index] for index in shown], rotation=90)
        axes.set_yticks(ticks, [names[index] for index in shown])
        for row, column in np.argwhere(counts):
            colour = "white" if parts[row, column] > 0.5 else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", color=colour, fontsize="small")
    save_figure(figure, path)


def plot_elbow(result: Anchors, path: Path) -> None:
    """The average IoU by the number of anchors, the chosen number marked."""
    figure, axes = _figure("anchors", "average IoU", "How many anchors?")
    axes.plot(range(1, len(result.elbow) + 1), result.elbow, marker="o")
    axes.axvline(len(result.sizes), color="grey", linestyle="--")
    axes.set(ylim=(0, 1), xticks=range(1, len(result.elbow) + 1))
    save_figure(figure, path)


def _plain(name: str) -> str:
    """A class's name as it is: between two dollars matplotlib would read a formula, and refuse what is none."""
    return name.replace("$", r"\$")


def _has_any(result: Evaluation, index: int) -> bool:
    return bool(result.confusion[index].any() or result.confusion[:, index].any())


def new_figure(width: float, height: float) -> Any:
    """An empty figure of so many inches.

    Raises:
        ImportError: there is no matplotlib.
    """
    check_matplotlib()
    from matplotlib.figure import Figure  # not pyplot: no window, no state

    return Figure(figsize=(width, height), layout="constrained")


def _figure(x: str, y: str, title: str) -> Sequence[Any]:
    figure = new_figure(8, 6)
    axes = figure.add_subplot(xlabel=x, ylabel=y, title=title)
    return figure, axes


def save_figure(figure: Any, path: Path) -> None:
    """Writes a figure of matplotlib, whole or not at all, in the format of the path's ending."""
    content = io.BytesIO()  # Pillow, which writes some formats, says nothing when the disk takes a part of it
    with whole_file(path) as temporary:
        figure.savefig(content, format=path.suffix[1:] or "png", dpi=120)
        temporary.write_bytes(content.getbuffer())
