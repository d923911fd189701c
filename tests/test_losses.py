"""What all losses have in common: no value is looked at, they compile, and their targets are checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_losses_variants import CLASSES, PIXELS, SIZE, TREE
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pydet.losses import (
    Targets,
    TreeTables,
    retinanet_loss,
    ssd_loss,
    yolo9000_loss,
    yolov1_loss,
    yolov2_loss,
    yolov3_loss,
)
from pydet.models import SSD, Darknet, RetinaNet
from pydet.models.darknet.cfg import Section, parse_cfg
from pydet.models.yolov2 import yolo9000
from pydet.models.yolov3 import yolov3_tiny
from pydet.preprocess import short_side

BATCH, ANCHORS = 3, 40


def some_targets(image_labels: list[int] | None = None) -> Targets:
    boxes = torch.tensor([[4.0, 5, 30, 40], [70, 8, 120, 90], [5, 4, 29, 41], [64, 48, 100, 90]])
    counts = torch.tensor([3, 0, 1])
    labels = None if image_labels is None else torch.tensor(image_labels)
    return Targets(boxes, torch.tensor([1, 3, 12, 7]), counts, labels)


def outputs(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def anchors_of_some_size() -> Tensor:
    corner = 60 * torch.rand(ANCHORS, 2, generator=torch.Generator().manual_seed(1))
    return torch.cat([corner, corner + 40], dim=1)


def of_map(loss: Callable[..., dict[str, Tensor]], *arguments: Any) -> Callable[..., dict[str, Tensor]]:
    return lambda targets, raw, *tensors: loss(raw, targets, SIZE, *tensors, *arguments)


MAP = outputs(BATCH, 4 * (5 + CLASSES), 3, 4)
TABLES = TreeTables.of(TREE)
LOSSES: dict[str, tuple[Callable[..., dict[str, Tensor]], tuple[Tensor, ...]]] = {
    "yolov1": (of_map(yolov1_loss, 3, 2), (outputs(BATCH, 9 * (CLASSES + 10)),)),
    "yolov2": (of_map(yolov2_loss), (MAP, PIXELS.float() / 32)),
    "yolo9000": (
        lambda targets, raw, anchors, parents, paths, groups: yolo9000_loss(
            raw, targets, SIZE, anchors, TreeTables(parents, paths, groups, TABLES.num_groups), seen=5
        ),
        (MAP, PIXELS.float() / 32, *TABLES[:3]),
    ),
    "yolov3": (of_map(yolov3_loss, [0, 1, 2, 3]), (MAP, PIXELS.float())),
    "yolov3, focal": (of_map(yolov3_loss, [0, 1, 2, 3], 0.5, 0.6, True), (MAP, PIXELS.float())),
    "ssd": (
        lambda targets, logits, codes, boxes: ssd_loss(logits, codes, boxes, targets, [10.0, 10.0, 5.0, 5.0]),
        (outputs(BATCH, ANCHORS, CLASSES), outputs(BATCH, ANCHORS, 4), anchors_of_some_size()),
    ),
    "retinanet": (
        lambda targets, logits, codes, boxes: retinanet_loss(logits, codes, boxes, targets, [1.0] * 4, "giou"),
        (outputs(BATCH, ANCHORS, CLASSES), outputs(BATCH, ANCHORS, 4), anchors_of_some_size()),
    ),
}


def targets_of(name: str) -> Targets:
    return some_targets([-1, 6, -1] if name == "yolo9000" else None)


def gradient(name: str, targets: Targets, dtype: torch.dtype = torch.float32) -> tuple[dict[str, Tensor], Tensor]:
    loss, (raw, *others) = LOSSES[name]
    raw = raw.to(dtype).requires_grad_()
    terms = loss(targets, raw, *others)
    return terms, torch.autograd.grad(sum(terms.values()), raw)[0]


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_waits_for_a_value(name: str) -> None:
    """Fake tensors have no values: whoever asks for one, which on a GPU would wait for it, raises."""
    loss, inputs = LOSSES[name]
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        fake = [mode.from_tensor(t) for t in inputs]
        targets = Targets(*(t if t is None else mode.from_tensor(t) for t in targets_of(name)))
        fake[0].requires_grad_()
        terms = loss(targets, *fake)
        (found,) = torch.autograd.grad(sum(terms.values()), fake[0])
    assert found.shape == inputs[0].shape


@pytest.mark.parametrize("name", LOSSES)
def test_compiles_as_one_graph(name: str) -> None:
    loss, (raw, *others) = LOSSES[name]
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    expected, wanted = gradient(name, targets_of(name))
    raw = raw.clone().requires_grad_()
    terms = compiled(targets_of(name), raw, *others)
    (found,) = torch.autograd.grad(sum(terms.values()), raw)
    torch.testing.assert_close(terms, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_objects(name: str) -> None:
    empty = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(BATCH, dtype=torch.int64))
    terms, found = gradient(name, empty)
    assert all(torch.isfinite(term) for term in terms.values())
    assert torch.isfinite(found).all()
    box = next(term for key, term in terms.items() if key.startswith(("box", "bbox")))
    assert box == 0


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_computed_in_single(name: str) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        terms, found = gradient(name, targets_of(name), torch.bfloat16)
    expected, wanted = gradient(name, targets_of(name))
    assert found.dtype == torch.bfloat16
    for key, term in terms.items():
        assert term.dtype == torch.float32, key
        torch.testing.assert_close(term, expected[key], rtol=0.02, atol=0.02)
    assert torch.nn.functional.cosine_similarity(found.float().flatten(), wanted.flatten(), dim=0) > 0.98


@pytest.mark.parametrize("name", LOSSES)
def test_an_object_without_size_or_place_trains_nothing(name: str) -> None:
    """On a GPU nobody refuses it."""
    plain = targets_of(name)
    bad = torch.tensor([[50.0, 50, 50, 60], [-500, -500, -400, -450]])
    if name in ("ssd", "retinanet"):
        bad = bad[:0]  # every object has its anchor there
    boxes = torch.cat([plain.boxes[:3], bad, plain.boxes[3:]])
    labels = torch.cat([plain.labels[:3], torch.zeros(len(bad), dtype=torch.int64), plain.labels[3:]])
    with_bad = plain._replace(boxes=boxes, labels=labels, counts=plain.counts + torch.tensor([len(bad), 0, 0]))
    torch.testing.assert_close(gradient(name, with_bad), gradient(name, plain), rtol=1e-6, atol=1e-6)


def test_focal_is_another_loss() -> None:
    """Its objectness is RetinaNet's focal loss, worked out by hand for a map without objects."""
    empty = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(BATCH, dtype=torch.int64))
    terms = yolov3_loss(MAP, empty, SIZE, PIXELS.float(), [0, 1, 2, 3], focal=True)
    p = MAP.view(BATCH, 4, -1, 3, 4)[:, :, 4].sigmoid()
    expected = -(0.75 * p**2 * (1 - p).log()).sum() / BATCH
    torch.testing.assert_close(terms["objectness"], expected)
    assert yolov3_tiny(focal=True) != yolov3_tiny()
    network = Darknet(yolov3_tiny(2, focal=True), image_size=(64, 64)).train()
    sections = [s for s in network.sections if s.name == "yolo"]
    assert [s.options["focal_loss"] for s in sections] == ["1", "1"]


def test_targets_are_checked() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4], [1, 1, 2, 2]])

    def make(boxes: Tensor, labels: list[Any], **options: Any) -> Targets:
        empty = torch.zeros(0, dtype=torch.int64)
        first = {"boxes": torch.zeros(0, 4), "labels": empty}
        return Targets.of([first, {"boxes": boxes, "labels": torch.tensor(labels) if labels else empty}], 5, **options)

    good = make(boxes, [4, 0])
    assert (good.counts.tolist(), good.labels.tolist(), good.image_labels) == ([0, 2], [4, 0], None)
    assert make(boxes[:0], [], image_labels=[-1, 3]).image_labels.tolist() == [-1, 3]
    for arguments, message in [
        ((boxes, [0, 5]), r"labels must be 0 to 4, got 5 of object 1 of image 1"),
        ((boxes, [-1, 0]), r"labels must be 0 to 4, got -1 of object 0 of image 1"),
        ((boxes, [0]), r"labels of image 1 must be integers \[2\], got torch.int64 \[1\]"),
        ((boxes, [0.0, 1.0]), r"labels of image 1 must be integers \[2\], got torch.float32 \[2\]"),
        ((boxes.long(), [0, 1]), r"boxes of image 1 must be floating \[g, 4\], got torch.int64 \[2, 4\]"),
        ((boxes[:, :3], [0, 1]), r"boxes of image 1 must be floating \[g, 4\], got torch.float32 \[2, 3\]"),
        ((boxes * torch.tensor([1, 1, 0, 1]), [0, 1]), r"x1 < x2 and y1 < y2, got \[0.0, 0.0, 0.0, 4.0\] of object 0"),
        ((boxes / 0, [0, 1]), r"boxes must be finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            make(*arguments)
    with pytest.raises(ValueError, match="targets must be those of at least one image, got none"):
        Targets.of([], 5)
    with pytest.raises(ValueError, match="image 0 must have boxes and labels, got boxes"):
        Targets.of([{"boxes": boxes}], 5)
    assert good.images().tolist() == [1, 1]
    with pytest.raises(ValueError, match="retinanet_loss: box_loss must be one of l1, smooth_l1, giou, got 'l2'"):
        retinanet_loss(*LOSSES["retinanet"][1], some_targets(), [1.0] * 4, "l2")


@pytest.mark.parametrize(("images", "given"), [(2, 3), (3, 2), (2, 0)])
def test_targets_are_one_for_each_image(images: int, given: int) -> None:
    network, picture = SSD(["background", "a"], width=8).train(), torch.rand(3, 30, 40)
    of_one = {"boxes": torch.tensor([[1.0, 1, 9, 9]]), "labels": torch.tensor([1])}
    message = f"SSD: targets must be one for each of the {images} images, got {given}"
    with pytest.raises(ValueError, match=message):
        network([picture] * images, [of_one] * given)
    with pytest.raises(ValueError, match=message):
        network(torch.zeros(images, 3, 300, 300), Targets.of([of_one] * 3, 2)._replace(counts=torch.ones(given)))


def test_boxes_go_where_their_picture_goes() -> None:
    _, placement = short_side([torch.rand(3, 480, 640), torch.rand(3, 200, 640)], 800, 1333)
    boxes = torch.tensor([[0.0, 0, 640, 480], [10, 20, 30, 40], [320, 100, 640, 200]])
    there = placement.to_batch(boxes, torch.tensor([0, 1, 1]))
    assert there[0].tolist() == [0, 0, 1066, 800]
    torch.testing.assert_close(there[2], torch.tensor([666.5, 208, 1333, 416]))
    torch.testing.assert_close(placement.to_picture(there[:2, None])[:, 0], boxes[:2])


def network(kind: str) -> nn.Module:
    if kind == "ssd":
        return SSD(["background", "a", "b"])
    if kind == "retinanet":
        return RetinaNet(["a", "b", "c"], version=2, shortest=64, longest=96, width=8)
    if kind == "yolo9000":
        sections = yolo9000(13, image_size=(64, 64))
        return Darknet([sections[0], *sections[-2:]], image_size=(2, 2), tree=TREE)
    return Darknet(yolov3_tiny(3), image_size=(64, 96))


@pytest.mark.parametrize("kind", ["ssd", "retinanet", "yolov3-tiny", "yolo9000"])
def test_networks_in_training_mode(kind: str) -> None:
    model: Any = network(kind).train()
    pictures = [torch.rand(3, 40, 60), torch.rand(3, 64, 64)]
    objects = [
        {"boxes": torch.tensor([[2.0, 3, 30, 35]]), "labels": torch.tensor([2])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    terms = model(pictures, objects)
    sum(terms.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with pytest.raises(ValueError, match="labels must be 0 to"):
        model(pictures, [objects[0] | {"labels": torch.tensor([99])}, objects[1]])
    with pytest.raises(ValueError, match="targets must be given in training mode"):
        model(pictures)
    with pytest.raises(TypeError, match="images must be a batch"):
        model(pictures, some_targets())


def test_another_size_of_the_batch() -> None:
    """Multi-scale training: anchors are pixels of the size at hand."""
    model: Any = network("yolov3-tiny").train()
    x = torch.rand(2, 3, 128, 64)
    targets = Targets(torch.tensor([[3.0, 5, 50, 120]]), torch.tensor([1]), torch.tensor([1, 0]))
    terms = model(x, targets)
    raw = model.forward_heads(x)
    again = model.loss(raw, targets)
    for name, term in terms.items():
        torch.testing.assert_close(again[name], term)
    assert terms["box"] > 0
    assert [head.input_size(maps) for head, maps in zip(model.heads, raw, strict=True)] == [(128, 64)] * 2


def test_what_the_original_has_and_we_do_not_is_refused() -> None:
    cfg = "[net]\nheight=1\nwidth=1\nchannels=7\n[detection]\ncoords=4\nside=1\nnum=1\nclasses=2\nforced=1"
    model = Darknet(parse_cfg(cfg))
    targets = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.tensor([0]))
    with pytest.raises(ValueError, match="forced=1 is not supported in training"):
        model.loss([torch.zeros(1, 7)], targets)
    region = "[net]\nheight=1\nwidth=1\nchannels=7\n[region]\nnum=1\nclasses=2\nanchors=1,1\nmap=nowhere.map"
    with pytest.raises(ValueError, match=r"map=nowhere.map: no such file"):
        Darknet(parse_cfg(region)).loss([torch.zeros(1, 7, 1, 1)], targets)
    assert isinstance(model.heads[0].section, Section)
