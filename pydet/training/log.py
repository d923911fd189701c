"""What a training tells: a CSV file always, TensorBoard where it is installed, a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pydet.files import named_errors, whole_file


class Table:
    """A CSV file with a row for each of some updates. When training is resumed, rows after that update fall away.

    Args:
        path: of the file.
        done: the updates that are kept of an older file.
    """

    def __init__(self, path: Path, done: int) -> None:
        self.path = path
        rows = read_table(path) if done else []
        kept = [row for row in rows if int(row["update"]) <= done]
        self.columns: list[str] = list(rows[0]) if rows else []
        if self.columns:
            self._write(kept)
        else:
            path.unlink(missing_ok=True)

    def add(self, values: Mapping[str, Any]) -> None:
        """A row; what the first one did not have is left out, what it had and this one lacks is empty."""
        if not self.columns:
            self.columns = list(values)
            self._write([])
        with named_errors(self.path), self.path.open("a", encoding="utf-8", newline="") as file:
            self._writer(file).writerow(values)

    def _write(self, rows: list[dict[str, str]]) -> None:
        with whole_file(self.path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            writer = self._writer(file)
            writer.writeheader()
            writer.writerows(rows)

    def _writer(self, file: Any) -> csv.DictWriter[str]:
        return csv.DictWriter(file, self.columns, restval="", extrasaction="ignore", lineterminator="\n")


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of such a file; a last one that was cut off by a crash is left out."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if None not in row.values() and None not in row]


class Log:
    """Of the first process.

    Args:
        folder: of the run.
        done: updates that were done before, in the run that is resumed.
        updates: how many there are in all.
        pictures: how many an update has.
        length: how many pictures an epoch has.
    """

    def __init__(self, folder: Path, done: int, updates: int, pictures: int, length: int) -> None:
        self.updates, self.pictures, self.length = updates, pictures, length
        self.losses = Table(folder / "losses.csv", done)
        self.measures = Table(folder / "validation.csv", done)
        self.board = _tensorboard(folder, done)
        self.bar = tqdm(total=updates, initial=done, unit="update", disable=None, dynamic_ncols=True, smoothing=0.05)
        self._since, self._sum, self._count = time.perf_counter(), 0.0, 0

    def update(self, number: int, terms: Mapping[str, float], loss: float, rate: float) -> None:
        """After each update."""
        now = time.perf_counter()
        epoch = number * self.pictures / self.length
        row = {"update": number, "epoch": f"{epoch:.4f}", "learning_rate": f"{rate:.6g}", "loss": f"{loss:.8g}"}
        self.losses.add(row | {name: f"{value:.8g}" for name, value in terms.items()})
        self._sum, self._count = self._sum + loss, self._count + 1
        if self.board is not None:
            self.board.add_scalar("learning rate", rate, number)
            self.board.add_scalar("loss", loss, number)
            for name, value in terms.items():
                self.board.add_scalar(f"loss/{name}", value, number)
        if not self.bar.disable:
            shown = {name: f"{value:.3g}" for name, value in {"loss": loss, **terms}.items()}
            self.bar.set_postfix({"epoch": f"{epoch:.1f}", **shown, "pictures/s": self._speed(now)}, refresh=False)
            self.bar.update()
        elif int(epoch) > int((number - 1) * self.pictures / self.length) or number == self.updates:
            mean = self._sum / self._count
            left = (now - self._since) / self._count * (self.updates - number)
            self.say(f"epoch {epoch:.1f}: loss {mean:.4g}, {self._speed(now)} pictures/s, {left:.0f} s left")
            self._since, self._sum, self._count = now, 0.0, 0

    def _speed(self, now: float) -> str:
        rate = self.bar.format_dict.get("rate") if not self.bar.disable else None
        return f"{self.pictures * (rate or self._count / max(now - self._since, 1e-9)):.1f}"

    def measured(self, number: int, metrics: Mapping[str, float]) -> None:
        """After each measurement."""
        self.measures.add({"update": number, **{name: f"{value:.6f}" for name, value in metrics.items()}})
        if self.board is not None:
            for name, value in metrics.items():
                self.board.add_scalar(f"validation/{name}", value, number)
        self.say(f"update {number}: " + ", ".join(f"{name} {value:.3f}" for name, value in metrics.items()))

    def say(self, message: str) -> None:
        tqdm.write(message)

    def close(self) -> None:
        self.bar.close()
        if self.board is not None:
            self.board.close()


def _tensorboard(folder: Path, done: int) -> Any:
    """A writer, where the package is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1 if done else None)
