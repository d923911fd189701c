"""What is seen when, and that neither workers nor processes nor a new start change it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from data_files import BCCD, coco_annotation, picture, voc_object, voc_xml, write, write_coco
from torch.utils.data import DataLoader

from pydet.data import load_dataset
from pydet.data.augment import MultiScale
from pydet.data.augment_darknet import DarknetPlace
from pydet.data.augment_ssd import SsdAugmentation
from pydet.data.batches import Batch, Batches, Request, TrainingSet, collate
from pydet.image import ImageError, read_image
from pydet.ops import match_anchors


def flat(batch: Batch) -> list[torch.Tensor]:
    assert batch.targets.image_labels is None
    return [*batch.images, *batch.targets[:3], batch.indices]


def loaded(workers: int, **options: Any) -> list[Batch]:
    training = TrainingSet(load_dataset(BCCD, "test"), options.pop("augmentation", DarknetPlace()), seed=3)
    batches = Batches(len(training), batch_size=2, updates=6, **{"size": MultiScale((96, 128), every=2)} | options)
    return list(DataLoader(training, batch_sampler=batches, collate_fn=collate, num_workers=workers))


@pytest.mark.parametrize("augmentation", [DarknetPlace(), SsdAugmentation()], ids=["darknet", "ssd"])
def test_workers_change_nothing(augmentation: Any) -> None:
    alone = loaded(0, augmentation=augmentation)
    for batch, other in zip(alone, loaded(2, augmentation=augmentation), strict=True):
        for ours, theirs in zip(flat(batch), flat(other), strict=True):
            assert torch.equal(ours, theirs)


def test_going_on_is_as_if_one_had_never_stopped() -> None:
    for batch, other in zip(loaded(0)[4:], loaded(0, first=4), strict=True):
        for ours, theirs in zip(flat(batch), flat(other), strict=True):
            assert torch.equal(ours, theirs)


def test_batches_have_what_the_operators_take() -> None:
    batch = loaded(0)[0]
    assert len(batch.images) == 2
    targets = batch.targets
    assert targets.boxes.shape == (int(targets.counts.sum()), 4)
    assert len(targets.labels) == len(targets.boxes)
    matched = match_anchors(targets.boxes[:5], targets.boxes, targets.counts)
    assert matched.shape == (2, 5)
    assert matched[0].tolist() == [0, 1, 2, 3, 4]  # the first five boxes are themselves


def test_an_epoch_draws_anew() -> None:
    """There is one picture: each batch has it in two epochs, and each looks different, with another seed too."""
    pictures = [image for batch in loaded(0, size=(96, 96)) for image in batch.images]
    assert not any(torch.equal(a, b) for n, a in enumerate(pictures) for b in pictures[:n])
    data = load_dataset(BCCD, "test")
    one, other = (TrainingSet(data, DarknetPlace(), seed)[Request(0, 0, (96, 96))].sample.image for seed in (3, 4))
    assert torch.equal(one, pictures[0])
    assert not torch.equal(one, other)


def test_epochs_see_every_picture_once() -> None:
    seen = [request for batch in Batches(10, 4, 25, size=(32, 32), seed=1) for request in batch]
    assert len(seen) == 100
    epochs = [[r.picture for r in seen if r.epoch == epoch] for epoch in range(10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 10  # each in another order
    other = [request for batch in Batches(10, 4, 25, size=(32, 32), seed=2) for request in batch]
    assert [r.picture for r in seen] != [r.picture for r in other]


def test_processes_share_each_batch() -> None:
    whole = list(Batches(10, 4, 7, size=(32, 32)))
    parts = [list(Batches(10, 4, 7, size=(32, 32), rank=rank, world=2)) for rank in range(2)]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert all(len(share) == 2 for share in shares)
        assert sorted(batch) == sorted(request for share in shares for request in share)


def test_sizes_change_every_ten_batches() -> None:
    batches = Batches(10, 2, 300, size=MultiScale(settle=50))
    sizes = [{request.size for request in batch} for batch in batches]
    assert all(len(size) == 1 for size in sizes)
    assert sizes == [{batches.size_of(update)} for update in range(300)]
    assert len({size for of_batch in sizes for size in of_batch}) > 5
    assert sizes[260:] == [{(608, 608)}] * 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"updates": -1}, "updates must be at least 1, got -1"),
        ({"first": 6}, r"first must be in 0..5, the updates, got 6"),
        ({"rank": 2, "world": 2}, r"rank must be in 0..1, got 2"),
        ({"world": 3}, "batch_size must be a multiple of the 3 processes, got 4"),
    ],
)
def test_mistakes(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"Batches: {message}"):
        Batches(**{"length": 10, "batch_size": 4, "updates": 5, "size": (32, 32)} | options)  # type: ignore[arg-type]


def test_crowds_and_difficult_objects(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    entries = [coco_annotation(1, 7, [n, 1, 9, 9], iscrowd=n % 2) for n in range(4)]
    training = TrainingSet(load_dataset(write_coco(tmp_path / "a.json", annotations=entries)))
    assert training[Request(0, 0, (1, 1))].sample.boxes[:, 0].tolist() == [0, 2]
    picture(tmp_path / "voc" / "a.jpg")
    objects = voc_object(), voc_object("dog", extra="<difficult>1</difficult>")
    write(tmp_path / "voc" / "a.xml", voc_xml(*objects))
    voc = load_dataset(tmp_path / "voc")
    for keep, labels in ((True, [0, 1]), (False, [0])):
        training = TrainingSet(voc, keep_difficult=keep)
        assert training[Request(0, 0, (1, 1))].sample.labels.tolist() == labels


def test_pictures_as_they_are() -> None:
    data = load_dataset(BCCD, "test")
    example = TrainingSet(data)[Request(0, 5, (32, 32))]
    assert torch.equal(example.sample.image, read_image(data.paths[0]))
    assert torch.equal(example.sample.boxes.double(), data.boxes)


def test_labels_of_whole_pictures(tmp_path: Path) -> None:
    """Beside a picture with boxes, which is trained with them though its file has such a label too."""
    for name, lines in (("a", "3 0 0 0 0\n"), ("b", "1 0.5 0.5 0.5 0.5\n2 0 0 0 0\n"), ("c", "")):
        picture(tmp_path / "images" / f"{name}.jpg")
        write(tmp_path / "labels" / f"{name}.txt", lines)
    training = TrainingSet(load_dataset(tmp_path))
    batch = collate([training[Request(place, 0, (32, 32))] for place in (1, 0, 2)])
    assert batch.targets.image_labels is not None
    assert batch.targets.image_labels.tolist() == [-1, 3, -1]
    assert batch.targets.counts.tolist() == [1, 0, 0]
    assert batch.indices.tolist() == [1, 0, 2]
    empty = collate([training[Request(2, 0, (32, 32))]]).targets
    assert empty.image_labels is None
    assert empty.boxes.shape == (0, 4)


def test_a_picture_that_changes_under_way_is_named(tmp_path: Path) -> None:
    file = picture(tmp_path / "a.jpg")
    write(tmp_path / "a.xml", voc_xml(voc_object()))
    training = TrainingSet(load_dataset(tmp_path))
    picture(file, 200, 100)
    with pytest.raises(ImageError, match=r"a.jpg: has changed since its annotations were read"):
        training[Request(0, 0, (32, 32))]
    file.unlink()
    with pytest.raises(ImageError, match=r"a.jpg: no such file"):
        training[Request(0, 0, (32, 32))]
