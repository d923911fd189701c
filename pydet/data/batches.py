"""From a data set to batches: what is seen when, augmented from one seed, by any number of workers and processes.

>>> training = TrainingSet(load_dataset("blood", "train"), DarknetPlace(), seed=0)
>>> batches = Batches(len(training), batch_size=8, updates=1000, size=MultiScale(), seed=0)
>>> loader = torch.utils.data.DataLoader(training, batch_sampler=batches, collate_fn=collate, num_workers=2)

Each batch of the loader is a `Batch`: `batch.images` for the network, `batch.targets` for the loss.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils import data as torch_data

from pydet.data.augment import ORDER, SAMPLES, Augmentation, MultiScale, Sample, Size, generator
from pydet.data.dataset import Dataset
from pydet.image import ImageError, read_image
from pydet.losses.targets import NO_LABEL, Targets


class Request(NamedTuple):
    """What a batch needs: the number of a picture in its data set, the epoch, and the (height, width) it shall have."""

    picture: int
    epoch: int
    size: Size


class Example(NamedTuple):
    """A picture as a batch takes it."""

    request: Request
    sample: Sample
    image_label: int


class Batch(NamedTuple):
    """Pictures and their objects.

    Attributes:
        images: B tensors [3, height, width]; float32 in 0..1 and of one size, unless the augmentation was none or
            `Flip`: then uint8 and of any sizes.
        targets: Their objects as the losses take them: float32 boxes in pixels of the image, labels that count the data
            set's classes from 0; image_labels is None where no picture of the batch has a label as a whole.
        indices: int64 [B], which pictures of the data set they are, to name one in a message.
    """

    images: list[Tensor]
    targets: Targets
    indices: Tensor


class TrainingSet(torch_data.Dataset[Example]):
    """A data set's pictures, read and augmented one at a time when a `Request` asks for them.

    What comes out depends on the seed, the epoch, the index and the size alone: not on the worker, the order, or what
    was asked before. Crowds are left out, as there is no object to learn in them.

    Args:
        dataset: The pictures and their objects.
        augmentation: None for the pictures as they are.
        seed: Of all that is random.
        keep_difficult: Whether to train on objects that VOC calls difficult. SSD does; Darknet leaves them out.
    """

    def __init__(
        self, dataset: Dataset, augmentation: Augmentation | None = None, seed: int = 0, keep_difficult: bool = True
    ) -> None:
        kept = ~dataset.crowd if keep_difficult else ~(dataset.crowd | dataset.difficult)
        self.dataset = dataset.keep(kept)
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, request: Request) -> Example:
        """Raises ImageError where the picture can no longer be read, or is not what it was."""
        record = self.dataset[request.picture]
        image = read_image(record.path)
        if tuple(image.shape[1:]) != record.size:
            raise ImageError(f"{record.path}: has changed since its annotations were read")
        sample = Sample(image, record.boxes.float(), record.labels)
        if self.augmentation is not None:
            random = generator(SAMPLES, self.seed, request.epoch, request.picture)
            sample = self.augmentation(sample, request.size, random)
        no_label = record.image_label is None or len(record.boxes) > 0  # what has boxes is trained with them
        return Example(request, sample, NO_LABEL if no_label else record.image_label)  # type: ignore[arg-type]


class Batches(torch_data.Sampler[list[Request]]):
    """Which pictures each update sees: shuffled anew in every epoch, an endless row of which each takes its part.

    All batches are equally large: one that begins at the end of an epoch goes on in the next. An update's batch is a
    pure function of its number and the seed, so training goes on where it stopped with `first`.

    Args:
        length: Number of pictures.
        batch_size: Pictures of an update, of all processes together.
        updates: How many batches there are from the very beginning of the training.
        size: (height, width) of the pictures, or how it changes.
        seed: Of the order and of the sizes.
        first: Number of the first update; those before it have been done.
        rank: Number of this process among `world`, each of which takes its part of every batch.
        world: How many processes there are.

    Raises:
        ValueError: A number that makes no sense.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        updates: int,
        size: Size | MultiScale,
        seed: int = 0,
        first: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        for name, value in (("length", length), ("batch_size", batch_size), ("updates", updates), ("world", world)):
            if value < 1:
                raise ValueError(f"Batches: {name} must be at least 1, got {value}")
        if not 0 <= first <= updates:
            raise ValueError(f"Batches: first must be in 0..{updates}, the updates, got {first}")
        if not 0 <= rank < world:
            raise ValueError(f"Batches: rank must be in 0..{world - 1}, got {rank}")
        if batch_size % world:
            raise ValueError(f"Batches: batch_size must be a multiple of the {world} processes, got {batch_size}")
        self.length, self.batch_size, self.updates, self.first = length, batch_size, updates, first
        self.size, self.seed, self.rank, self.world = size, seed, rank, world

    def __len__(self) -> int:
        return self.updates - self.first

    def __iter__(self) -> Iterator[list[Request]]:
        order = functools.lru_cache(maxsize=2)(self._order)  # a batch may end one epoch and begin the next
        for update in range(self.first, self.updates):
            size = self.size_of(update)
            begin = update * self.batch_size
            places = range(begin + self.rank, begin + self.batch_size, self.world)
            yield [
                Request(order(place // self.length)[place % self.length], place // self.length, size)
                for place in places
            ]

    def size_of(self, update: int) -> Size:
        """(height, width) of the pictures of an update."""
        return self.size.size(update, self.updates, self.seed) if isinstance(self.size, MultiScale) else self.size

    def _order(self, epoch: int) -> list[int]:
        order: list[int] = generator(ORDER, self.seed, epoch).permutation(self.length).tolist()
        return order


def collate(examples: Sequence[Example]) -> Batch:
    """The `collate_fn` of a DataLoader: examples as a batch."""
    samples = [example.sample for example in examples]
    image_labels = torch.tensor([example.image_label for example in examples])
    targets = Targets(
        torch.cat([sample.boxes for sample in samples]),
        torch.cat([sample.labels for sample in samples]),
        torch.tensor([len(sample.boxes) for sample in samples]),
        image_labels if (image_labels != NO_LABEL).any() else None,
    )
    indices = torch.tensor([example.request.picture for example in examples])
    return Batch([sample.image for sample in samples], targets, indices)
