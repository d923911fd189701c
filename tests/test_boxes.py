"""The box utilities: numbers by hand, identities, what torchvision promises, TorchScript and compile."""

from __future__ import annotations

import itertools

import pytest
import torch
from op_cases import random_boxes

from pydet.ops import box_area, box_convert, clip_boxes_to_image, remove_small_boxes

XYXY = torch.tensor([[10.0, 20, 16, 28], [0, 0, 1, 3]])
SAME = {
    "xyxy": XYXY,
    "xywh": torch.tensor([[10.0, 20, 6, 8], [0, 0, 1, 3]]),
    "cxcywh": torch.tensor([[13.0, 24, 6, 8], [0.5, 1.5, 1, 3]]),
}


@pytest.mark.parametrize(("before", "after"), list(itertools.product(SAME, SAME)))
def test_box_convert(before: str, after: str) -> None:
    boxes = SAME[before]
    result = box_convert(boxes, before, after)
    assert torch.equal(result, SAME[after])
    assert result.data_ptr() != boxes.data_ptr()
    assert torch.equal(box_convert(boxes.expand(3, 2, 4), in_fmt=before, out_fmt=after), SAME[after].expand(3, 2, 4))


@pytest.mark.parametrize("fmt", SAME)
def test_box_area(fmt: str) -> None:
    assert box_area(SAME[fmt], fmt).tolist() == [48, 3]
    assert box_area(torch.zeros(0, 4), fmt).shape == (0,)


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float64, torch.float64),
        (torch.uint8, torch.int32),
        (torch.int16, torch.int32),
        (torch.int64, torch.int64),
    ],
    ids=str,
)
def test_box_area_does_not_overflow(dtype: torch.dtype, wide: torch.dtype) -> None:
    area = box_area(torch.tensor([[0, 0, 240, 240]]).to(dtype))
    assert area.dtype == wide
    assert area.item() == 57600
    assert box_area(torch.tensor([[4.0, 2, 1, 7]])).item() == -15  # inverted


def test_clip_boxes_to_image() -> None:
    boxes = torch.tensor([[-5.0, -1, 50, 70], [3, 4, 5, 6], [100, 100, 110, 120]])
    clipped = clip_boxes_to_image(boxes, (60, 40))
    assert clipped.tolist() == [[0, 0, 40, 60], [3, 4, 5, 6], [40, 60, 40, 60]]
    assert torch.equal(clip_boxes_to_image(boxes.long().expand(2, 3, 4), (60, 40)), clipped.long().expand(2, 3, 4))
    assert clip_boxes_to_image(torch.zeros(0, 4), (60, 40)).shape == (0, 4)


def test_remove_small_boxes() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9.9], [5, 5, 15, 30], [3, 3, 3, 3], [10, 10, 0, 0]])
    assert remove_small_boxes(boxes, 10.0).tolist() == [0, 2]
    assert remove_small_boxes(boxes, 0.0).tolist() == [0, 1, 2, 3]
    assert remove_small_boxes(boxes[:0], 1.0).dtype == torch.int64


def test_gradients_and_vmap() -> None:
    boxes = random_boxes(5, torch.Generator().manual_seed(0)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda b: box_area(box_convert(b, "xyxy", "cxcywh"), "cxcywh"), boxes)
    assert torch.equal(torch.vmap(box_area)(boxes), box_area(boxes))


def prepared(boxes: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    boxes = clip_boxes_to_image(box_convert(boxes, "cxcywh", "xyxy"), (height, width))
    return box_area(boxes), remove_small_boxes(boxes, 2.0)


def test_torchscript_and_export() -> None:
    boxes = random_boxes(50, torch.Generator().manual_seed(0))
    expected = prepared(boxes, 300, 200)
    for result, wanted in zip(torch.jit.script(prepared)(boxes, 300, 200), expected, strict=True):
        assert torch.equal(result, wanted)

    class Module(torch.nn.Module):
        def forward(self, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return prepared(boxes, 300, 200)

    for result, wanted in zip(torch.export.export(Module(), (boxes,)).module()(boxes), expected, strict=True):
        assert torch.equal(result, wanted)


def test_messages() -> None:
    with pytest.raises(RuntimeError, match=r"box_area: boxes must be \[..., 4\], got \[3, 5\]"):
        box_area(torch.zeros(3, 5))
    with pytest.raises(ValueError, match="box_convert: out_fmt must be 'xyxy', 'xywh' or 'cxcywh', got 'yx'"):
        box_convert(XYXY, "xyxy", "yx")
    with pytest.raises(ValueError, match="box_area: fmt must be 'xyxy', 'xywh' or 'cxcywh', got 'xywhr'"):
        box_area(XYXY, "xywhr")
