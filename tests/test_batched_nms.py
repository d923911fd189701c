from __future__ import annotations

import pytest
import torch
from op_cases import clustered_boxes
from torch import Tensor

from pydet import ops, reference


def test_worked_by_hand() -> None:
    same = torch.tensor([[0.0, 0, 10, 10]]).repeat(4, 1)
    scores = torch.tensor([0.6, 0.9, 0.8, 0.7])
    assert ops.batched_nms(same, scores, torch.tensor([0, 0, 1, 1]), 0.5).tolist() == [1, 2]
    assert ops.batched_nms(same, scores, torch.tensor([0, 1, 2, 3]), 0.5).tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize("classes", [1, 3, 80, 9418])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.0, -640.0), (1500.0, -5e5)])
def test_equals_a_loop_over_the_classes(classes: int, dtype: torch.dtype, scale: float, shift: float) -> None:
    """Where torchvision's offsets fail: negative and large coordinates, fp16, thousands of classes."""
    g = torch.Generator().manual_seed(classes)
    boxes = clustered_boxes(1500, g) * scale + shift
    if dtype == torch.float16:
        boxes = boxes.clamp(-6e4, 6e4)
    boxes, scores = boxes.to(dtype), torch.rand(1500, generator=g).to(dtype)
    idxs = torch.randint(classes, (1500,), generator=g)
    assert torch.equal(ops.batched_nms(boxes, scores, idxs, 0.5), reference.batched_nms(boxes, scores, idxs, 0.5))


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int32, torch.int64, torch.float32, torch.bfloat16], ids=str
)
def test_any_dtype_of_the_classes(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    boxes, scores = clustered_boxes(500, g), torch.rand(500, generator=g)
    idxs = torch.randint(5, (500,), generator=g)
    assert torch.equal(ops.batched_nms(boxes, scores, idxs.to(dtype), 0.5), ops.batched_nms(boxes, scores, idxs, 0.5))


def test_classes_at_the_ends_of_int64() -> None:
    ends = torch.tensor([torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max, 0]).repeat(20)
    boxes, scores = torch.tensor([[0.0, 0, 10, 10]]).repeat(60, 1), torch.arange(60.0).flip(0)
    assert ops.batched_nms(boxes, scores, ends, 0.5).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("idxs", "message"),
    [
        (torch.zeros(6), r"batched_nms: idxs must be \[N\] with N = 7 as in boxes, got \[6\]"),
        (torch.zeros(7, dtype=torch.bool), "batched_nms: idxs must be an integer or floating tensor, got Bool"),
        (torch.full((7,), float("nan")), "batched_nms: idxs must not contain nan, got one at 0"),
    ],
)
def test_bad_input(idxs: Tensor, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        ops.batched_nms(torch.zeros(7, 4), torch.zeros(7), idxs, 0.5)
    with pytest.raises(RuntimeError, match=r"batched_nms: boxes must be \[N, 4\], got \[7, 3\]"):
        ops.batched_nms(torch.zeros(7, 3), torch.zeros(7), torch.zeros(7), 0.5)
