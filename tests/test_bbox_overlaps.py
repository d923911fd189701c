"""mmcv's name for box_iou and box_iof: the examples of its documentation, pixels, TorchScript, messages."""

from __future__ import annotations

import pytest
import torch
from op_cases import random_boxes

from pydet.ops import bbox_overlaps, box_iof, box_iou

A = torch.tensor([[0.0, 0, 10, 10], [10, 10, 20, 20], [32, 32, 38, 42]])
B = torch.tensor([[0.0, 0, 10, 20], [0, 10, 10, 19], [10, 10, 20, 20]])


def test_example_of_mmcv() -> None:
    assert bbox_overlaps(A, B).tolist() == [[0.5, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert bbox_overlaps(A, B, "iof").tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert bbox_overlaps(A, B, aligned=True).tolist() == [0.5, 0, 0]
    assert bbox_overlaps(A[:0], B).shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8, torch.int64], ids=str)
def test_offset_counts_pixels(dtype: torch.dtype) -> None:
    """Pixels 0 to 9 and 5 to 254: 5 of 255 columns in all; a box of one pixel is no point. 255 is uint8's last."""
    a, b = torch.tensor([[0, 3, 9, 3]]).to(dtype), torch.tensor([[5, 3, 255, 3]]).to(dtype)
    assert bbox_overlaps(a, b, offset=1).item() == torch.tensor(5 / 256).item()
    assert bbox_overlaps(a, b, "iof", offset=1).item() == 0.5
    assert bbox_overlaps(a, b, "iof", aligned=True, offset=1).item() == 0.5


def test_is_box_iou_and_box_iof() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = random_boxes(30, generator), random_boxes(40, generator)
    for function in (bbox_overlaps, torch.jit.script(bbox_overlaps), torch.compile(bbox_overlaps, backend="aot_eager")):
        assert torch.equal(function(a, b), box_iou(a, b))
        assert torch.equal(function(a, b, mode="iof"), box_iof(a, b))
        shifted = torch.tensor([0.0, 0, 1, 1])
        assert torch.equal(function(a, b, "iof", False, 1), box_iof(a + shifted, b + shifted))


def test_messages() -> None:
    with pytest.raises(RuntimeError, match="bbox_overlaps: mode must be 'iou' or 'iof', got 'giou'"):
        bbox_overlaps(A, B, "giou")
    with pytest.raises(RuntimeError, match="bbox_overlaps: offset must be 0 or 1, got 2"):
        bbox_overlaps(A, B, offset=2)
    with pytest.raises(RuntimeError, match="box_iof: boxes2 must be \\[3, 4\\] as boxes1, got \\[2, 4\\]"):
        bbox_overlaps(A, B[:2], "iof", True)
