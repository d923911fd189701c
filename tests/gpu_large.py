"""Inputs of more elements than 32 bits count, for tests/test_gpu.py: only offsets in 64 bits reach their end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from op_checks import Arguments, assert_close, outputs
from torch import Tensor

from pydet import ops


@dataclass(frozen=True)
class LargeCase:
    """An operator whose last results come from its last inputs alone.

    Attributes:
        name: of the operator.
        make_inputs: (elements, device) -> arguments of which one, or the result, has at least so many elements.
        last_inputs: those of the arguments that the last results come from.
        last_results: (a result, that of last_inputs, arguments) -> the part of the first that the second is.
        gigabytes: of memory that 2^31 elements need.
    """

    name: str
    make_inputs: Callable[[int, str], Arguments]
    last_inputs: Callable[[Arguments], Arguments]
    last_results: Callable[[Tensor, Tensor, Arguments], Tensor]
    gigabytes: float


def boxes_on(device: str, n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    boxes = torch.rand(n, 4, device=device, dtype=dtype).mul_(50)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def last_rows(result: Tensor, part: Tensor, args: Arguments) -> Tensor:
    return result[-len(part) :]


def all_pairs(elements: int, device: str) -> Arguments:
    n = int(elements**0.5) + 1
    return boxes_on(device, n), boxes_on(device, n)


def pairs(elements: int, device: str) -> Arguments:
    n = elements // 4 + 3
    return boxes_on(device, n, torch.float16), boxes_on(device, n, torch.float16)


def logits(elements: int, device: str) -> Arguments:
    rows = elements // 91 + 1
    return torch.randn(rows, 91, device=device, dtype=torch.bfloat16), torch.randint(-1, 91, (rows,), device=device)


def logits_for_softmax(elements: int, device: str) -> Arguments:
    return *logits(elements, device), 2.0, 0.25, None, "none"


def yolo_maps(elements: int, device: str) -> Arguments:
    images = elements // (255 * 19 * 19) + 1
    anchors = torch.tensor([[10.0, 13.0], [16.0, 30.0], [33.0, 23.0]], device=device)
    return torch.randn(images, 255, 19, 19, device=device, dtype=torch.float16), anchors, (608, 608)


def codes(elements: int, device: str) -> Arguments:
    n = elements // 4 + 3
    rel_codes = torch.randn(n, 4, device=device, dtype=torch.float16)
    return rel_codes, boxes_on(device, n, torch.float16), [10.0, 10.0, 5.0, 5.0]


def many_anchors(elements: int, device: str) -> Arguments:
    objects = max(elements // 1_000_000, 1)
    return boxes_on(device, elements // objects + 1), boxes_on(device, objects), None, 0.5, 0.4, "threshold"


def yolo_grids(elements: int, device: str) -> Arguments:
    return torch.rand(elements // 1470 + 1, 1470, device=device, dtype=torch.float16), 7, 2, (448, 448)


def yolo_cells(elements: int, device: str) -> Arguments:
    """One object to each image of 13 x 13 cells with 5 predictions."""
    images = elements // (13 * 13 * 5 * 4) + 2
    predictions = boxes_on(device, images * 845, torch.float16).view(images, 845, 4)
    truths, priors = boxes_on(device, images, torch.float16), torch.rand(5, 2, device=device).add_(0.1)
    counts = torch.ones(images, dtype=torch.int64, device=device)
    return predictions, truths, counts, (13, 13), (100, 100), "shape", priors


def rows_of_cells(result: Tensor, part: Tensor, args: Arguments) -> Tensor:
    """Predictors are numbers of rows of all images."""
    last = result[-len(part) :]
    before = args[0].shape[1] * (len(result) - len(part))
    return last if last.dim() == 2 else torch.where(last < 0, last, last - before)


def tree(elements: int, device: str) -> Arguments:
    """Rows of 9,418 probabilities, siblings in fives."""
    nodes = 9418
    values = torch.rand(elements // nodes + 1, nodes, device=device, dtype=torch.float16)
    return values, torch.arange(nodes, device=device) // 5 - 1


def losses(elements: int, device: str) -> Arguments:
    anchors = 8732
    loss = torch.rand(elements // anchors + 1, anchors, device=device, dtype=torch.float16)
    return loss, loss > 0.9


def last_of_each(count: int, arguments: int) -> Callable[[Arguments], Arguments]:
    """The last rows of the first tensors, the rest as it is."""
    return lambda args: (*(a[-count:] for a in args[:arguments]), *args[arguments:])


LARGE_CASES = [
    LargeCase("box_iou", all_pairs, last_of_each(3, 1), last_rows, 10),
    LargeCase("complete_box_iou", all_pairs, last_of_each(3, 1), last_rows, 10),
    LargeCase("generalized_box_iou_loss", pairs, last_of_each(1000, 2), last_rows, 32),
    LargeCase("sigmoid_focal_loss", logits, last_of_each(1000, 2), last_rows, 20),
    LargeCase("softmax_focal_loss", logits_for_softmax, last_of_each(1000, 2), last_rows, 20),
    LargeCase("yolo_decode", yolo_maps, last_of_each(1, 1), last_rows, 20),
    LargeCase("decode_boxes", codes, last_of_each(1000, 2), last_rows, 30),
    LargeCase("encode_boxes", lambda *a: (*pairs(*a), [1.0] * 4), last_of_each(1000, 2), last_rows, 30),
    LargeCase("yolo_grid_decode", yolo_grids, last_of_each(3, 1), last_rows, 25),
    LargeCase("hard_negative_mining", losses, last_of_each(3, 2), last_rows, 10),
    LargeCase("tree_softmax", tree, last_of_each(3, 1), last_rows, 20),
    LargeCase("tree_probabilities", tree, last_of_each(3, 1), last_rows, 20),
    LargeCase("tree_predict", tree, last_of_each(3, 1), last_rows, 10),
    LargeCase("match_cells", yolo_cells, last_of_each(1, 3), rows_of_cells, 20),
    LargeCase("match_anchors", many_anchors, last_of_each(1000, 1), last_rows, 1),
]


def check_large(case: LargeCase, elements: int, device: str) -> None:
    args = case.make_inputs(elements, device)
    function: Callable[..., Any] = getattr(ops, case.name)
    result = outputs(function(*args))
    largest = max([t.numel() for t in (*args, *result) if isinstance(t, Tensor)])
    assert largest >= elements or case.name == "match_anchors"  # whose pairs are nowhere in memory
    for whole, part in zip(result, outputs(function(*case.last_inputs(args))), strict=True):
        assert part.numel() > 0
        assert_close(case.last_results(whole, part, args), part, None)
