"""patch_torchvision: torchvision's own programs give the same with and without it. Needs torchvision."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from op_cases import clustered_boxes, random_boxes
from test_torchvision_losses import objects
from test_torchvision_models import pictures, their_network
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pydet import ops

torchvision = pytest.importorskip("torchvision", reason="the oracle, torchvision, is not installed: make oracle")
patching: Any = sys.modules["pydet.ops.patch_torchvision"]
NAMES = tuple(patching._OURS)
DETECTORS = {
    "retinanet": "retinanet-resnet50",
    "retinanet v2": "retinanet-resnet50-v2",
    "ssd": "ssd300",
    "faster r-cnn": "fasterrcnn",
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def functions() -> list[Any]:
    return [getattr(m, name) for m in patching._modules() for name in sorted(vars(m)) if name in NAMES]


def test_replaces_in_every_module_and_restores() -> None:
    tv, detection = torchvision.ops, torchvision.models.detection
    before = functions()
    assert len(before) >= 2 * len(NAMES)  # torchvision.ops, the module that defines it, those that import it
    with ops.patch_torchvision() as patch:
        assert tv.nms is tv.boxes.nms is patching.nms
        assert (
            detection.retinanet.sigmoid_focal_loss is detection.fcos.sigmoid_focal_loss is patching.sigmoid_focal_loss
        )
        assert detection._utils.generalized_box_iou_loss is patching.generalized_box_iou_loss
        assert detection.rpn.box_ops.box_iou is patching.box_iou
        assert not set(map(id, functions())) & set(map(id, before))
    assert all(a is b for a, b in zip(functions(), before, strict=True))
    patch.undo()
    assert all(a is b for a, b in zip(functions(), before, strict=True))


def test_nests_and_undoes_in_any_order() -> None:
    original = torchvision.ops.nms
    first, second = ops.patch_torchvision(), ops.patch_torchvision()
    with ops.patch_torchvision():
        first.undo()
        first.undo()
        assert torchvision.ops.nms is patching.nms
    assert torchvision.ops.nms is patching.nms
    second.undo()
    assert torchvision.ops.nms is original
    with pytest.raises(KeyError), ops.patch_torchvision():
        raise KeyError
    assert torchvision.ops.nms is original


def test_threads_patch_and_undo_at_once() -> None:
    original, boxes = torchvision.ops.nms, clustered_boxes(200, generator())
    scores = torch.rand(200, generator=generator())
    expected, wrong = original(boxes, scores, 0.5), []

    def work() -> None:
        for _ in range(30):
            with ops.patch_torchvision():
                if not torch.equal(torchvision.ops.nms(boxes, scores, 0.5), expected):
                    wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert torchvision.ops.nms is original


@contextmanager
def counted() -> Iterator[list[str]]:
    """Which operators of pydet ran inside: what is compared would be torchvision with itself otherwise."""
    calls: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.namespace == "pydet":
                calls.append(func._schema.name.split("::")[1])
            return func(*args, **(kwargs or {}))

    with Watch():
        yield calls


@torch.no_grad()
def network(name: str) -> Any:
    if name != "fasterrcnn":
        return their_network(name)
    torch.manual_seed(0)
    model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)
    for head in (model.rpn.head.cls_logits, model.roi_heads.box_predictor.cls_score):
        head.weight.mul_(20)  # as they are initialised, all scores are nearly equal
    model.roi_heads.score_thresh = 0.002
    return model.eval()


@pytest.mark.parametrize("name", DETECTORS.values(), ids=DETECTORS)
def test_detectors_find_the_same(name: str) -> None:
    model, images = network(name), [image / 255 for image in pictures(2)]
    with torch.inference_mode():
        expected = model(images)
        with ops.patch_torchvision(), counted() as calls:
            found = model(images)
    assert {"nms", "batched_nms"} & set(calls)
    for ours, theirs in zip(found, expected, strict=True):
        assert len(theirs["boxes"]) >= 50
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("name", DETECTORS.values(), ids=DETECTORS)
def test_detectors_learn_the_same(name: str) -> None:
    """Losses and the gradients of all weights; Faster R-CNN draws proposals, from the same seed."""
    images = [image[:, ::2, ::2] / 255 for image in pictures(2)]
    targets = objects(images)
    model = network(name).train()
    if name != "ssd300":
        model.transform.min_size, model.transform.max_size = (160,), 250

    def step() -> tuple[dict[str, Tensor], list[Tensor]]:
        torch.manual_seed(0)
        twin = copy.deepcopy(model)
        terms = twin(images, [dict(target) for target in targets])
        sum(terms.values()).backward()
        return terms, [p.grad for p in twin.parameters() if p.grad is not None]

    expected, gradients = step()
    with ops.patch_torchvision(), counted() as calls:
        found, ours = step()
    assert calls
    assert found.keys() == expected.keys()
    for key, term in found.items():
        torch.testing.assert_close(term, expected[key], rtol=1e-6, atol=0)
    for a, b in zip(ours, gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5 * float(b.abs().max()) + 1e-9)


def pair(dtype: torch.dtype = torch.float32, n: int = 7, batch: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    first, second = (random_boxes(n, generator(seed), size=30.0).to(dtype) for seed in (0, 1))
    return first.expand(*batch, n, 4), second


CALLS: dict[str, Callable[[Any], Any]] = {
    "nms of half": lambda tv: tv.nms(pair()[0].half(), torch.rand(7, generator=generator()).half(), 0.5),
    "nms of wrong shapes": lambda tv: tv.nms(torch.rand(3, 5), torch.rand(3), 0.5),
    "nms of two dtypes": lambda tv: tv.nms(pair()[0], torch.rand(7).double(), 0.5),
    "iou of half": lambda tv: tv.box_iou(*(b.half() for b in pair())),
    "iou of integers": lambda tv: tv.box_iou(*(b.int() for b in pair())),
    "iou of centres": lambda tv: tv.box_iou(*pair(), fmt="cxcywh"),
    "iou of rotated": lambda tv: tv.box_iou(torch.ones(2, 5), torch.ones(3, 5) * 2, "cxcywhr"),
    "iou of no such format": lambda tv: tv.box_iou(*pair(), fmt="xyzw"),
    "iou of broadcast batches": lambda tv: tv.generalized_box_iou(*pair(batch=(3,))),
    "iou of two dtypes": lambda tv: tv.distance_box_iou(pair()[0], pair()[1].double()),
    "focal of labels as integers": lambda tv: tv.sigmoid_focal_loss(torch.ones(4), torch.tensor([0, 1, 1, 0])),
    "focal of half": lambda tv: tv.sigmoid_focal_loss(torch.ones(4).half(), torch.ones(4).half()),
    "focal of nothing": lambda tv: tv.sigmoid_focal_loss(torch.ones(0), torch.ones(0), reduction="mean"),
    "focal of a wrong alpha": lambda tv: tv.sigmoid_focal_loss(torch.ones(4), torch.ones(4), alpha=2.0),
    "focal of a wrong reduction": lambda tv: tv.sigmoid_focal_loss(torch.ones(4), torch.ones(4), reduction="max"),
    "loss of a wrong reduction": lambda tv: tv.generalized_box_iou_loss(*pair(), reduction="max"),
    "loss of half": lambda tv: tv.complete_box_iou_loss(*(b.half() for b in pair())),
    "loss of nothing": lambda tv: tv.distance_box_iou_loss(torch.ones(0, 4), torch.ones(0, 4), "mean"),
    "batched nms left of the origin": lambda tv: tv.batched_nms(
        torch.tensor([[-27.0, -27, -17, -17], [-19, -19, -9, -9]]), torch.tensor([0.9, 0.8]), torch.tensor([0, 1]), 0.5
    ),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_what_is_not_alike_stays_torchvisions(call: Callable[[Any], Any]) -> None:
    """Results with their dtypes, and errors word by word."""

    def outcome() -> Any:
        try:
            return call(torchvision.ops)
        except Exception as error:
            return repr(error)

    expected = outcome()
    with ops.patch_torchvision():
        found = outcome()
    if isinstance(expected, str):
        assert found == expected
    else:
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("n", [0, 40, 1000, 1001, 3000])
@pytest.mark.parametrize("ties", [False, True])
def test_batched_nms_is_torchvisions(n: int, ties: bool) -> None:
    """On both sides of 1,000 boxes, from where on torchvision adds no offsets."""
    g = generator(n)
    boxes, scores, idxs = clustered_boxes(n, g), torch.rand(n, generator=g), torch.randint(9, (n,), generator=g)
    scores = (scores * 20).round() / 20 if ties else scores
    expected = torchvision.ops.batched_nms(boxes, scores, idxs, 0.5)
    with ops.patch_torchvision():
        assert torch.equal(torchvision.ops.batched_nms(boxes, scores, idxs, 0.5), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_forward_mode_stays_torchvisions() -> None:
    """Ours have none, and a Hessian is made by it."""
    first, second = (random_boxes(3, generator(seed)).double() for seed in range(2))
    for transform in (torch.func.jacfwd, torch.func.hessian):
        derivative = transform(lambda boxes: torchvision.ops.generalized_box_iou(boxes, second).sum())
        expected = derivative(first)
        with ops.patch_torchvision():
            torch.testing.assert_close(derivative(first), expected)


def test_scripts_and_traces_torchvisions_operators() -> None:
    """What is exported must run where pydet is not."""

    def suppress(boxes: Tensor, scores: Tensor, idxs: Tensor) -> Tensor:
        return torchvision.ops.boxes.batched_nms(boxes, scores, idxs, 0.5)

    boxes, scores = clustered_boxes(60, generator()), torch.rand(60, generator=generator())
    idxs = torch.randint(3, (60,), generator=generator())
    expected = suppress(boxes, scores, idxs)
    with ops.patch_torchvision():
        scripted = torch.jit.script(torchvision.ops.batched_nms)
        traced = torch.jit.trace(suppress, (boxes, scores, idxs))
    assert torch.equal(scripted(boxes, scores, idxs, 0.5), expected)
    assert torch.equal(traced(boxes, scores, idxs), expected)
    for graph in (scripted.inlined_graph, traced.inlined_graph):
        assert "torchvision::nms" in str(graph)
        assert "pydet::" not in str(graph)


def test_compiles_without_a_graph_break() -> None:
    boxes, other = pair(n=20)
    expected = torchvision.ops.generalized_box_iou(boxes, other)
    with ops.patch_torchvision():
        compiled = torch.compile(
            lambda a, b: torchvision.ops.generalized_box_iou(a, b), fullgraph=True, backend="eager"
        )
        torch.testing.assert_close(compiled(boxes, other), expected)


def test_models_built_inside_are_pickled() -> None:
    """They hold box_iou itself, and go on with it after the patch and in other processes."""
    with ops.patch_torchvision():
        heads = network("fasterrcnn").roi_heads
    assert heads.box_similarity is patching.box_iou
    again = pickle.loads(pickle.dumps(heads.box_similarity))
    assert torch.equal(again(*pair()), torchvision.ops.box_iou(*pair()))


def test_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patching, "_originals", {})
    monkeypatch.delattr(torchvision.ops.boxes, "complete_box_iou")
    monkeypatch.delattr(torchvision.ops, "complete_box_iou")
    with pytest.raises(ImportError, match=r"torchvision 0\.\S+ has no complete_box_iou; 0\.25"):
        ops.patch_torchvision()
    assert torchvision.ops.nms is not patching.nms
