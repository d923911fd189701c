"""A training from its settings to its report; what `pydet train` does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from pydet.data import Dataset
from pydet.detect_files import check_writable
from pydet.evaluation import Evaluation
from pydet.files import alone_in, whole_file
from pydet.memory import keep_freed_memory
from pydet.metrics import coco_tools
from pydet.models import DetectionModel, load_checkpoint, save_checkpoint
from pydet.models.darknet import Darknet
from pydet.models.registry import TorchvisionDefinition, find
from pydet.processes import Processes, processes
from pydet.training import checkpoint
from pydet.training.batches import fingerprint, input_size
from pydet.training.cfg import cfg_mark, unread
from pydet.training.checkpoint import Checkpoint, CheckpointError
from pydet.training.loading import loader, read_data
from pydet.training.log import Log
from pydet.training.loop import Loop, NotFinite, NotFiniteAt, autocast_dtype, deterministic, interruption
from pydet.training.report import report
from pydet.training.settings import Settings, SettingsError, as_toml
from pydet.training.start import build, read_source, start_weights, take
from pydet.training.validate import validate

CHECKPOINT, LAST, BEST, SETTINGS = "checkpoint.pt", "last.safetensors", "best.safetensors", "settings.toml"


_PROBLEMS = 5  # that are told of each split


@dataclass(frozen=True, eq=False)
class Result:
    """What became of a training.

    Attributes:
        folder: of the run.
        updates: that were done.
        finished: False if it was interrupted; it can be resumed then.
        first: whether this is the process that speaks, where there are several.
        evaluation: of the best weights on the test split, or on val where there is none; in the first process.
    """

    folder: Path
    updates: int
    finished: bool
    first: bool
    evaluation: Evaluation | None = None


def train(settings: Settings) -> Result:
    """Trains a detector.

    In a process that `torchrun` has started it is one of several.

    Args:
        settings: what is to be done.

    Raises:
        SettingsError, DataError, WeightsError, CfgError: something cannot be done; the message says what.
        OSError: the folder of the run cannot be written in, or another training is at work in it.
        ImportError: there is a val or a test split, and no package that measures on it is installed.
        NotFinite: the loss became NaN or infinite; the message names the pictures.
    """
    with processes(settings.device) as group:
        folder = run_folder(settings)
        if group.share((folder / CHECKPOINT).exists()):
            raise SettingsError(f"{folder}: has a training already; go on with it by --resume, or name another --out")
        if group.share((folder / LAST).exists()):  # somebody has deleted the checkpoint, and kept the weights
            raise SettingsError(f"{folder}: has {LAST} of another training; name another --out")
        return _Run(settings, folder, group, None).go()


def resume(folder: str | Path, device: str | None = None) -> Result:
    """Goes on where a training was interrupted, by Ctrl-C or by anything worse.

    On the CPU what comes out has the same bits as if it had never been interrupted.

    Args:
        folder: of the run.
        device: None for the one that it was on.

    Raises:
        CheckpointError: there is nothing to go on with, it is damaged, or the data has changed.
    """
    folder = Path(folder)
    kept = checkpoint.load(folder / CHECKPOINT)
    settings = settings_of(kept, folder / CHECKPOINT)
    settings = replace(settings, device=device or settings.device, out=str(folder))
    with processes(settings.device) as group:
        return _Run(settings, folder, group, kept).go()


def settings_of(kept: Checkpoint, path: Path) -> Settings:
    known = {field.name for field in fields(Settings)}
    if set(kept.settings) != known:
        names = ", ".join(sorted(set(kept.settings) ^ known))
        raise CheckpointError(f"{path}: of another version of pydet, whose settings were others: {names}")
    try:
        return Settings(**kept.settings)
    except SettingsError as error:
        raise CheckpointError(f"{path}: {error}") from None


def run_folder(settings: Settings) -> Path:
    return Path(settings.out or f"runs/{Path(settings.cfg).stem if settings.cfg else settings.model}")


class _Run:
    """One training, new or resumed."""

    def __init__(self, settings: Settings, folder: Path, group: Processes, kept: Checkpoint | None) -> None:
        self.settings, self.folder, self.group, self.kept = settings, folder, group, kept
        if settings.batch_size % (group.world * settings.parts):
            what = f"{group.world} processes x {settings.parts} parts"
            raise SettingsError(f"train: batch_size must be a multiple of {what}, got {settings.batch_size}")
        self.data = read_data(settings)
        if self.data.val is not None or self.data.test is not None:
            coco_tools()  # what they are measured by; else it would be missed after hours
        # What tells that a training goes on with what it began with; now, before somebody edits the cfg.
        self.marks = [fingerprint(self.data.train), *([cfg_mark(settings.cfg)] if settings.cfg else [])]
        self.best = dict(kept.best) if kept else {}
        if kept is not None and (changed := self._changed(kept.fingerprint)):
            named = {"data": settings.data, "cfg": settings.cfg}[changed]
            raise CheckpointError(f"{folder}: the {changed} is no longer what this training began with: {named}")
        self.length = len(self.data.train)
        self.updates = settings.updates or math.ceil(settings.epochs * self.length / settings.batch_size)
        self.epochs = self.updates * settings.batch_size / self.length if settings.updates else settings.epochs
        self.log: Log | None = None

    def go(self) -> Result:
        if not self.group.first:
            return self._go()
        check_writable(self.folder)
        with alone_in(self.folder):
            for name in (CHECKPOINT, LAST, BEST):
                for unfinished in self.folder.glob(f".{name}.*"):  # of a process that was killed while it wrote
                    unfinished.unlink(missing_ok=True)
            return self._go()

    def _go(self) -> Result:
        settings, group = self.settings, self.group
        with deterministic(group.device), keep_freed_memory():
            network = self._network()
            loop = Loop(network, settings, self.updates, group)
            if self.kept is not None:
                self._restore(loop, self.kept)
            if group.first:
                self._write_settings()
                self._introduce(loop)
                self.log = Log(self.folder, loop.done, self.updates, settings.batch_size, self.length)
            try:
                finished = self._updates(loop)
            finally:
                if self.log is not None:
                    self.log.close()
            if not finished:
                return Result(self.folder, loop.done, False, group.first)
            return Result(self.folder, loop.done, True, group.first, self._finish())

    def _changed(self, before: str) -> str:
        """What has changed since: "data", "cfg" or nothing."""
        pairs = zip(("data", "cfg"), before.split(), self.marks, strict=False)
        return next((name for name, one, two in pairs if one != two), "")

    def _restore(self, loop: Loop, kept: Checkpoint) -> None:
        try:
            loop.restore(kept.update, kept.network, kept.average, kept.optimizer)
            checkpoint.restore_random_states(kept.generators, self.group.device)
        except Exception as error:  # as in checkpoint.load
            said = f"its checkpoint is of another network, or damaged: {checkpoint.reason(error)}"
            raise CheckpointError(f"{self.folder}: {said}") from None

    def _network(self) -> DetectionModel:
        settings = self.settings
        torch.manual_seed(settings.seed)
        names = list(self.data.train.class_names)
        network = build(settings, names, self._build_size(names))
        path = start_weights(settings) if self.kept is None else None
        if path is not None:
            backbone = (settings.cfg or settings.model) if settings.backbone_only else None
            self._say(take(network, read_source(path, settings), backbone))
        return network.to(self.group.device)

    def _build_size(self, names: Sequence[str]) -> tuple[int, int] | None:
        """(height, width) that the network is built for; None for what it was published with."""
        settings, sizes = self.settings, self.data.train.sizes
        if settings.cfg:
            network = build(settings, names, None)
            assert isinstance(network, Darknet)
            return input_size(settings, network.image_size, not network.stretches, sizes)
        if settings.model.startswith("retinanet"):
            return None  # it takes all sizes, and is told which by its options
        definition = find(settings.model)
        resizable = not isinstance(definition, TorchvisionDefinition) and not settings.model.startswith("yolov1")
        return input_size(settings, definition.image_size, resizable, sizes)

    def _updates(self, loop: Loop) -> bool:
        """All updates that are left; False if it was asked to stop."""
        batches = loader(self.settings, loop.network, self.data.train, self.updates, loop.done, self.group)
        interval = self._checkpoint_interval()
        measured = self._measured_after()
        with interruption() as asked:
            for number, batch in enumerate(batches, start=loop.done + 1):
                if isinstance(batch, Exception):
                    raise batch
                try:
                    outcome = loop.update(batch, asked.is_set())
                except NotFiniteAt as error:
                    raise NotFinite(self._complaint(error)) from None
                if self.log is not None:
                    self.log.update(number, outcome.terms, outcome.loss, outcome.rate)
                if number in measured and self.data.val is not None:
                    self._measure(loop, number)
                if number % interval == 0 or number == self.updates or outcome.stop:
                    self._keep(loop)
                if outcome.stop and number < self.updates:
                    return False
        return True

    def _checkpoint_interval(self) -> int:
        epoch = math.ceil(self.length / self.settings.batch_size)
        return self.settings.checkpoint_every or min(max(epoch, 100), 500)

    def _measured_after(self) -> set[int]:
        """The updates after which the val split is measured: the ends of some epochs, and the last one."""
        every = self.settings.evaluate_every or max(round(self.epochs / 5), 1)
        epochs = range(every, math.ceil(self.epochs), every)
        return {math.ceil(epoch * self.length / self.settings.batch_size) for epoch in epochs} | {self.updates}

    def _measure(self, loop: Loop, number: int) -> None:
        assert self.data.val is not None
        result = validate(loop.average.network, self.data.val.with_classes(loop.network.class_names), self.group)
        if result is None:
            return
        metrics = {name: result.metrics[name] for name in ("AP50", "AP", "AP75", "AR100")}
        if self.log is not None:
            self.log.measured(number, metrics)
        if metrics["AP50"] > self.best.get("AP50", -1.0):
            self.best = {"update": float(number), "AP50": metrics["AP50"]}
            self._save_weights(loop, BEST)

    def _keep(self, loop: Loop) -> None:
        """A checkpoint, and the weights as they are now."""
        if not self.group.first:
            return
        states = checkpoint.random_states(self.group.device)
        kept = Checkpoint(
            checkpoint.plain(self.settings), " ".join(self.marks), generators=states, best=self.best, **loop.state()
        )
        kept.save(self.folder / CHECKPOINT)
        self._save_weights(loop, LAST)

    def _save_weights(self, loop: Loop, name: str) -> None:
        network = loop.average.network
        if isinstance(network, Darknet):  # Darknet counts pictures in the file of its weights
            network.weights_header = (0, 2, 5, loop.done * self.settings.batch_size)
        save_checkpoint(network, self.folder / name)

    def _finish(self) -> Evaluation | None:
        """The best weights are measured once more, on pictures that chose nothing, and shown."""
        is_ours = bool(self.best) and (self.folder / BEST).exists()  # or it was there before this training began
        chosen = BEST if self.group.share(is_ours) else LAST
        network = load_checkpoint(self.folder / chosen).to(self.group.device).eval()
        split = "test" if self.data.test is not None else "val" if self.data.val is not None else "train"
        dataset: Dataset = getattr(self.data, split).with_classes(network.class_names)
        result = validate(network, dataset, self.group) if split != "train" else None
        if self.group.first:
            title = f"{self.settings.cfg or self.settings.model}: {chosen} on the {split} split"
            for problem in report(self.folder / "report", self.folder, network, dataset, result, title):
                self._say(problem)
            self._say(f"{title}\n{result.table()}" if result else f"{self.folder / chosen}: not measured, no val split")
        return result

    def _introduce(self, loop: Loop) -> None:
        """Says what is about to happen."""
        settings, data = self.settings, self.data
        for dataset in filter(None, (data.train, data.val, data.test)):
            bad = f"; left out, or put right: {len(dataset.problems)}" if dataset.problems else ""
            self._say(dataset.describe() + bad)
            for problem in dataset.problems[:_PROBLEMS]:
                self._say(f"  {problem}")
        network = loop.network
        size = "x".join(map(str, network.image_size)) if isinstance(network, Darknet) else "its own size"
        kind = "bfloat16" if autocast_dtype(settings.amp, self.group.device) else "float32"
        where = f"{self.group.device} x {self.group.world}"
        self._say(
            f"{settings.cfg or settings.model} at {size}, {kind}, {where}: updates {loop.done + 1} to {self.updates} "
            f"of {settings.batch_size} pictures, {self.epochs:.4g} epochs; everything goes to {self.folder}"
        )
        if settings.cfg and isinstance(network, Darknet) and (idle := unread(network.sections)):
            self._say(f"{settings.cfg}: not read here, and changes nothing: {', '.join(idle)}")

    def _write_settings(self) -> None:
        with whole_file(self.folder / SETTINGS) as temporary:
            temporary.write_text(as_toml(self.settings), encoding="utf-8")

    def _complaint(self, error: NotFiniteAt) -> str:
        values = ", ".join(f"{name} {value:g}" for name, value in error.values.items())
        pictures = ", ".join(self.data.train.paths[i] for i in dict.fromkeys(error.pictures)) or "all of the batch"
        what = "gradient" if "norm of the gradient" in error.values else "loss"
        kept = f"{self.folder} keeps the last checkpoint; " if (self.folder / CHECKPOINT).exists() else ""
        return (
            f"train: the {what} is no longer a number in update {error.update}: {values}; its pictures: {pictures}. "
            f"{kept}a lower learning_rate or clip may help"
        )

    def _say(self, message: str) -> None:
        if not self.group.first:
            return
        if self.log is not None:
            self.log.say(message)
        else:
            print(message, flush=True)
