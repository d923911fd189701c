"""The data of a training: its splits, and what reads the pictures."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from pydet.data import Batch, Batches, DataError, Dataset, DataWarning, TrainingSet, collate, load_dataset
from pydet.data.augment import MultiScale, Size
from pydet.data.batches import Example, Request
from pydet.data.load import recognise
from pydet.models import SSD, Darknet, DetectionModel
from pydet.processes import Processes
from pydet.training.batches import augmentation, changing_size
from pydet.training.settings import Settings, SettingsError


@dataclass(frozen=True)
class Data:
    """What is trained on, measured on the way, and measured at the end, with the labels of the data set."""

    train: Dataset
    val: Dataset | None
    test: Dataset | None


def read_data(settings: Settings) -> Data:
    """The splits of the data set; the problems of its annotations are warnings."""
    if not settings.data:
        raise SettingsError("train: there is no data set; name one: --data FOLDER")
    images = settings.images or None
    source = recognise(settings.data, images)
    names = {
        "train": settings.train_split or source.usual("train"),
        "val": settings.val_split or source.usual("val"),
        "test": settings.test_split or source.usual("test"),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # they are said when the training begins
        data = load_dataset(settings.data, names["train"], images)
        others = [load_dataset(settings.data, names[key], images) if names[key] else None for key in ("val", "test")]
        if settings.labelled:
            data = joined(data, load_dataset(settings.labelled))
    if not (len(data.labels) or bool((data.image_labels >= 0).any())):
        raise DataError(f"{data.name}: no objects to learn in {len(data)} pictures")
    for other in filter(None, others):
        if bool((other.difficult | other.crowd).all()):  # or there are none at all
            raise DataError(f"{other.name}: no objects to measure on in {len(other)} pictures")
    return Data(data, *others)


def loader(
    settings: Settings, network: DetectionModel, data: Dataset, updates: int, done: int, group: Processes
) -> torch.utils.data.DataLoader[Batch | Exception]:
    """The batches of this process for all updates that are left; an error in the place of one with a bad picture."""
    keep = not isinstance(network, Darknet)  # Darknet leaves difficult objects out, SSD and RetinaNet do not
    seen = TrainingSet(for_network(data, network), augmentation(settings, network), settings.seed, keep)
    size: Size | MultiScale = (0, 0)  # RetinaNet scales pictures by itself
    if isinstance(network, Darknet):
        size = changing_size(settings, network.image_size, updates)
    elif isinstance(network, SSD):
        size = network.size, network.size
    batches = Batches(len(data), settings.batch_size, updates, size, settings.seed, done, group.rank, group.world)
    return torch.utils.data.DataLoader(
        _Told(seen),  # type: ignore[arg-type]
        batch_sampler=batches,
        collate_fn=_collate,
        num_workers=workers(settings, group.world, group.device.type == "cpu"),
        worker_init_fn=_ignore_interrupts,
        # Of its own: else it would draw from the generator that dropout draws from, once in every run.
        generator=torch.Generator().manual_seed(settings.seed),
    )


class _Told:
    """A picture that cannot be read is an error as an item: raised in a process that reads, it would reach the one that
    trains as a traceback, in a cycle of references that keeps the readers running."""

    def __init__(self, pictures: TrainingSet) -> None:
        self.pictures = pictures

    def __getitem__(self, request: Request) -> Example | Exception:
        try:
            return self.pictures[request]
        except (ValueError, OSError) as error:
            return error.with_traceback(None)


def _collate(samples: Sequence[Example | Exception]) -> Batch | Exception:
    errors = [sample for sample in samples if isinstance(sample, Exception)]
    return errors[0] if errors else collate(samples)  # type: ignore[arg-type]


def joined(one: Dataset, other: Dataset) -> Dataset:
    """Two data sets as one, with the classes of both."""
    names = tuple(dict.fromkeys((*one.class_names, *other.class_names)))
    both = one.with_classes(names), other.with_classes(names)
    tensors = (*Dataset.OF_PICTURES, *Dataset.OF_OBJECTS)
    return Dataset(
        f"{one.name} + {other.name}",
        names,
        both[0].paths + both[1].paths,
        **{name: torch.cat([getattr(each, name) for each in both]) for name in tensors},
        problems=both[0].problems + both[1].problems,
    )


def for_network(data: Dataset, network: DetectionModel) -> Dataset:
    """With labels of objects as the `map=` of the network counts them, and of whole pictures as its tree does."""
    found = data.with_classes(label_names(network))
    whole = data.image_labels >= 0
    if not bool(whole.any()):
        return found
    if getattr(network, "tree", None) is None:
        such = data.paths[int(whole.int().argmax())]
        raise DataError(
            f"{data.name}: pictures with a label as a whole, without boxes, are for YOLO9000; {such} is one"
        )
    nodes = data.with_classes(network.class_names).image_labels
    for label in data.image_labels[whole & (nodes < 0)].unique().tolist():
        raise DataError(f"{data.name}: the class {data.class_names[label]!r} of whole pictures is not in the tree")
    return replace(found, image_labels=nodes)


def label_names(network: DetectionModel) -> list[str]:
    """What the labels of the targets mean: the network's classes, or those of the `map=` of its cfg."""
    labels = network.heads[0].label_classes if isinstance(network, Darknet) else None
    return list(network.class_names) if labels is None else [network.class_names[label] for label in labels]


def workers(settings: Settings, world: int, on_cpu: bool) -> int:
    """Processes that read pictures, for each process that trains."""
    if settings.workers >= 0:
        return settings.workers
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = processors // world
    if on_cpu and share <= 2:
        return 0  # a reader takes one of two processors from the update, and the other has to wait: a tenth slower
    return min(max(share - 1, 1), 8)


def _ignore_interrupts(number: int) -> None:
    """Ctrl-C, or the SIGTERM of `timeout` and `torchrun`, reaches all processes; the readers end when training does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
