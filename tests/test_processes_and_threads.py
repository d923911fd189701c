"""Operators and detectors in many threads at once, in forked and spawned processes, pickled and copied."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.context import BaseContext
from threading import Barrier
from typing import Any

import pytest
import torch
from op_cases import OP_CASES, OpCase
from op_checks import gradients, outputs
from torch import Tensor, nn
from torch import multiprocessing as processes

import pydet
from pydet.detector import Detector
from pydet.models import ASSETS, Darknet, RetinaNet
from pydet.models.darknet.sections import convolution, net
from pydet.models.yolov2 import head
from pydet.wordtree import WordTree

THREADS = 16
LOW = 0.005  # threshold: networks with random weights find something
LONG = 120  # seconds, after which a child hangs


def computed(case: OpCase) -> list[Tensor]:
    """Results and gradients, of inputs that several threads share."""
    results: list[Tensor] = []
    for size in case.sizes[-2:]:
        args = case.inputs(size)
        results += outputs(case.function(*args))
        if case.gradients:
            results += gradients(case, case.function, args)
    return results


def same(ours: Tensor, theirs: Tensor) -> bool:
    """An ulp may lie between them: the gradients that PyTorch computes depend on the number of threads."""
    return torch.equal(ours, theirs) or (
        ours.is_floating_point() and torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6, equal_nan=True)
    )


def differing(results: dict[str, list[Tensor]]) -> list[str]:
    """The operators that have other results here."""
    pairs = {case.name: zip(computed(case), results[case.name], strict=True) for case in OP_CASES}
    return [name for name, both in pairs.items() if not all(same(*pair) for pair in both)]


@pytest.fixture(scope="module")
def alone() -> dict[str, list[Tensor]]:
    return {case.name: [result.detach() for result in computed(case)] for case in OP_CASES}


def test_sixteen_threads_call_every_operator_at_once(alone: dict[str, list[Tensor]]) -> None:
    """All of them the same operator first, then each thread another one."""
    start = Barrier(THREADS)

    def work(number: int) -> list[str]:
        wrong = []
        for turn in range(len(OP_CASES)):
            start.wait(LONG)
            for index in (turn, (turn + number) % len(OP_CASES)):
                case = OP_CASES[index]
                for ours, theirs in zip(computed(case), alone[case.name], strict=True):
                    if not torch.equal(ours.detach().nan_to_num(7), theirs.nan_to_num(7)):
                        wrong.append(case.name)
        return wrong

    with ThreadPoolExecutor(THREADS) as pool:
        assert [wrong for wrong in pool.map(work, range(THREADS)) if wrong] == []


def answer(queue: Any, alone: dict[str, list[Tensor]], detector: Detector, picture: Tensor) -> None:
    """In the child; plain values, because tensors in a queue die with the process that sent them."""
    found = detector.detect(picture, 0.1)
    queue.put((torch.get_num_threads(), differing(alone), found.boxes.tolist(), found.labels.tolist()))


def in_child(context: BaseContext, *arguments: Any) -> tuple[int, list[str], Any, Any]:
    queue = context.Queue()
    child = context.Process(target=answer, args=(queue, *arguments))  # type: ignore[attr-defined]
    child.start()
    try:
        result = queue.get(timeout=LONG)
        child.join(LONG)
        assert child.exitcode == 0
        return result
    finally:
        child.kill()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children(method: str, alone: dict[str, list[Tensor]]) -> None:
    """Of a process that has used every operator, in several threads."""
    if method not in processes.get_all_start_methods():
        pytest.skip(f"no {method} here")
    detector = pydet.load("yolov3-tiny")
    picture = pydet.image.read_image(ASSETS / "dog.jpg")
    found = detector.detect(picture, 0.1)
    assert len(found)
    before = torch.get_num_threads()
    torch.set_num_threads(2)  # so that there are threads to lose
    try:
        assert differing(alone) == []
        threads, wrong, boxes, labels = in_child(processes.get_context(method), alone, detector, picture)
    finally:
        torch.set_num_threads(before)
    assert wrong == []
    assert labels == found.labels.tolist()
    torch.testing.assert_close(torch.tensor(boxes), found.boxes, rtol=1e-4, atol=1e-2)  # convolutions, by thread count
    if method == "fork":
        assert threads == 1


def tree_network() -> Darknet:
    tree = WordTree.parse("animal -1\nthing -1\ncat 0\ndog 0\nPersian 2\nSiamese 2\n", "test")
    sections = [net((64, 64)), convolution(8, 3, 4), convolution(8, 3, 8), *head(6, ((1, 1), (2, 1)), 1, ".2")]
    return Darknet(sections, tree=tree)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "yolov3-tiny, fused": lambda: pydet.load("yolov3-tiny").model,
    "with a tree": tree_network,
    "retinanet": lambda: RetinaNet(["cat", "dog"], 50, 2, shortest=96, longest=160, width=8),
}


@pytest.mark.parametrize("way", ["pickle", "copy"])
@pytest.mark.parametrize("name", NETWORKS)
def test_pickled_and_copied(name: str, way: str) -> None:
    """The other one finds the same and shares no memory with the first."""
    torch.manual_seed(0)
    detector = Detector(NETWORKS[name]().eval())
    other = pickle.loads(pickle.dumps(detector)) if way == "pickle" else copy.deepcopy(detector)
    picture = pydet.image.read_image(ASSETS / "dog.jpg")
    ours, theirs = detector.detect(picture, LOW), other.detect(picture, LOW)
    assert len(ours)
    for field in ("boxes", "labels", "scores"):
        assert torch.equal(getattr(ours, field), getattr(theirs, field))
    assert theirs.names == ours.names
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.zero_()
    assert torch.equal(detector.detect(picture, LOW).scores, ours.scores)
    again = pickle.loads(pickle.dumps(ours)) if way == "pickle" else copy.deepcopy(ours)
    assert torch.equal(again.boxes, ours.boxes)
    assert (again.class_names, again.image_size) == (ours.class_names, ours.image_size)


def test_models_in_training_are_pickled() -> None:
    network = tree_network().train()
    other = pickle.loads(pickle.dumps(network))
    assert other.training
    assert other.class_names == network.class_names
    for name, tensor in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
