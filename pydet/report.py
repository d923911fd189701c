"""The folder that `pydet evaluate --report` writes."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from pydet.evaluation import ClassResult, Evaluation
from pydet.files import whole_file
from pydet.outputs import write_json
from pydet.plots import plot_confusions, plot_precision_recall


def write_report(result: Evaluation, folder: Path) -> None:
    """Writes metrics.json, classes.csv, confusion.csv, precision_recall.csv and the plots .png of the latter two.

    Args:
        result: What is told.
        folder: Must exist.

    Raises:
        ImportError: There is no matplotlib.
        OSError: A file cannot be written.
    """
    write_json(folder / "metrics.json", result.as_json())
    columns = [field.name for field in fields(ClassResult)]
    _write_rows(folder / "classes.csv", [columns, *(list(asdict(item).values()) for item in result.classes)])
    names = [*result.class_names, "nothing"]
    rows = zip(names, result.confusion.tolist(), strict=True)
    _write_rows(folder / "confusion.csv", [["is / is taken for", *names], *([name, *row] for name, row in rows)])
    _write_rows(folder / "precision_recall.csv", _curve_rows(result))
    plot_precision_recall(result, folder / "precision_recall.png")
    plot_confusions(result, folder / "confusion.png")


def _curve_rows(result: Evaluation) -> Iterable[Sequence[object]]:
    yield ["class", "score", "recall", "precision"]
    for curve, item in zip(result.curves, result.classes, strict=True):
        for point in zip(curve.scores.tolist(), curve.recall.tolist(), curve.precision.tolist(), strict=True):
            yield [item.name, *(f"{value:.6f}" for value in point)]


def _write_rows(path: Path, rows: Iterable[Sequence[object]]) -> None:
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
