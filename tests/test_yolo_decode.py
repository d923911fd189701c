"""yolo_decode beyond what every operator shares: numbers by hand, layouts, oddities, messages."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pydet import reference
from pydet.ops import yolo_decode, yolo_grid_decode

LOG3 = math.log(3)  # sigmoid(log 3) = 3/4, sigmoid(-log 3) = 1/4
ANCHORS = torch.tensor([[10.0, 13.0], [16.0, 30.0], [33.0, 23.0]])
CLASSES = ("sigmoid", "softmax", "logits")


def head(batch: int, classes: int, height: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3 * (5 + classes), height, width, generator=generator).to(dtype)


def test_by_hand() -> None:
    """A network of 64 x 96 pixels with 2 x 3 cells: 32 pixels a cell; one anchor of 20 x 40, two classes."""
    raw = torch.zeros(1, 7, 2, 3)
    raw[0, :, 1, 2] = torch.tensor([LOG3, -LOG3, math.log(2), math.log(0.5), LOG3, 0, -LOG3])
    boxes, objectness, scores = yolo_decode(raw, torch.tensor([[20.0, 40.0]]), (64, 96))
    expected = [[32 * x + 6, 32 * y - 4, 32 * x + 26, 32 * y + 36] for y in range(2) for x in range(3)]
    # the last cell: centre (2.75, 1.25) cells = (88, 40) pixels, 40 wide and 20 high
    expected[5] = [68, 30, 108, 50]
    torch.testing.assert_close(boxes, torch.tensor([expected], dtype=torch.float32), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(objectness, torch.tensor([[0.5] * 5 + [0.75]]), rtol=3e-7, atol=0)
    torch.testing.assert_close(scores, torch.tensor([[[0.25, 0.25]] * 5 + [[0.375, 0.1875]]]), rtol=5e-7, atol=0)


def test_yolov2_by_hand() -> None:
    """Anchors in cells of 32 x 16 pixels, and a softmax over the three classes."""
    raw = torch.zeros(1, 8, 2, 2)
    raw[0, :, 0, 1] = torch.tensor([LOG3, -LOG3, math.log(2), 0, LOG3, 0, LOG3, -math.inf])
    boxes, objectness, scores = yolo_decode(raw, torch.tensor([[1.5, 2.5]]), (32, 64), "softmax", True)
    # the anchor is 48 x 40 pixels; centre (1.75, 0.25) cells = (56, 4) pixels, 96 wide
    expected = [[-8, -12, 40, 28], [8, -16, 104, 24], [-8, 4, 40, 44], [24, 4, 72, 44]]
    torch.testing.assert_close(boxes, torch.tensor([expected], dtype=torch.float32), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(objectness, torch.tensor([[0.5, 0.75, 0.5, 0.5]]), rtol=3e-7, atol=0)
    others = [1 / 6] * 3
    expected = [others, [0.1875, 0.5625, 0], others, others]  # 1 : 3 : 0 of 3/4
    torch.testing.assert_close(scores, torch.tensor([expected]), rtol=5e-7, atol=0)


def test_logits_are_left_as_they_are() -> None:
    raw = head(2, 37, 5, 6)
    boxes, objectness, logits = yolo_decode(raw, ANCHORS, (160, 192), "logits")
    assert torch.equal(logits, raw.view(2, 3, 42, 30)[:, :, 5:].permute(0, 3, 1, 2).flatten(1, 2))
    sigmoid = yolo_decode(raw, ANCHORS, (160, 192))
    assert torch.equal(boxes, sigmoid[0])
    assert torch.equal(objectness, sigmoid[1])
    torch.testing.assert_close(objectness[..., None] * logits.sigmoid(), sigmoid[2], rtol=1e-6, atol=0)


def test_anchors_in_cells_are_so_many_pixels() -> None:
    """Cells of 32 x 8 pixels, exact in every format."""
    raw = head(1, 2, 3, 5)
    cells, pixels = torch.tensor([[1.5, 2.0], [0.25, 8.0], [3.0, 1.0]]), torch.tensor([[48.0, 16], [8, 64], [96, 8]])
    in_cells = yolo_decode(raw, cells, (24, 160), anchors_in_cells=True)
    for ours, theirs in zip(in_cells, yolo_decode(raw, pixels, (24, 160)), strict=True):
        assert torch.equal(ours, theirs)


def test_softmax_sums_to_the_objectness_and_ignores_an_offset() -> None:
    raw = 5 * head(2, 91, 7, 9)
    _, objectness, scores = yolo_decode(raw, ANCHORS, (224, 288), "softmax")
    torch.testing.assert_close(scores.sum(-1), objectness, rtol=2e-6, atol=0)
    moved = raw.view(2, 3, 96, 63).clone()
    moved[:, :, 5:] += 1000 * torch.randn(2, 3, 1, 63, generator=torch.Generator().manual_seed(1)).round()
    again = yolo_decode(moved.view_as(raw), ANCHORS, (224, 288), "softmax")
    torch.testing.assert_close(
        again[2], scores, rtol=2e-3, atol=1e-7
    )  # logits of thousands have 12 bits behind the point


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_softmax_of_odd_logits_is_that_of_the_reference(layout: torch.memory_format) -> None:
    raw = head(1, 37, 6, 14)
    cells = raw.view(1, 3, 42, 6, 14)
    odd = [[math.nan], [math.inf], [-math.inf], [math.inf, -math.inf], [math.inf, math.inf], [3e38, -3e38]]
    for place, values in enumerate(odd):
        for i, value in enumerate(values):
            cells[0, 1, 5 + 11 * i + place, 3, place] = value
    cells[0, 1, 5:, 3, 8] = -math.inf
    raw = raw.contiguous(memory_format=layout)
    for ours, theirs in zip(
        yolo_decode(raw, ANCHORS, (96, 224), "softmax"),
        reference.yolo_decode(raw, ANCHORS, (96, 224), "softmax"),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=1e-4, equal_nan=True)
    scores = yolo_decode(raw, ANCHORS, (96, 224), "softmax")[2].view(6, 14, 3, 37)
    assert scores.isnan().all(-1).nonzero().tolist() == [[3, x, 1] for x in (0, 1, 3, 4, 8)]


def test_rows_are_cells_then_anchors() -> None:
    """Row (y * W + x) * A + a, as Darknet's [yolo] layer."""
    height, width = 3, 5
    raw = torch.zeros(1, 3 * 6, height, width)
    raw[0, 4::6] = torch.arange(3 * height * width, dtype=torch.float32).view(3, height, width) / 10
    boxes, objectness, _ = yolo_decode(raw, ANCHORS, (height * 8, width * 8))
    for y in range(height):
        for x in range(width):
            for a in range(3):
                row = (y * width + x) * 3 + a
                size = boxes[0, row, 2:] - boxes[0, row, :2]
                centre = (boxes[0, row, 2:] + boxes[0, row, :2]) / 2
                torch.testing.assert_close(size, ANCHORS[a], rtol=1e-5, atol=1e-5)
                torch.testing.assert_close(centre, torch.tensor([8 * x + 4.0, 8 * y + 4.0]), rtol=1e-5, atol=1e-5)
                expected = 1 / (1 + math.exp(-(a * height * width + y * width + x) / 10))
                assert objectness[0, row].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("classes", [1, 2, 15, 16, 17, 80, 91])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (7, 9), (8, 8), (9, 15), (33, 37)])
def test_widths_of_vectors_and_tiles(classes: int, shape: tuple[int, int], kind: str) -> None:
    raw = head(2, classes, *shape)
    for layout in (torch.contiguous_format, torch.channels_last):
        result = yolo_decode(raw.contiguous(memory_format=layout), ANCHORS, (416, 608), kind)
        for ours, theirs in zip(result, reference.yolo_decode(raw, ANCHORS, (416, 608), kind), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=1e-4 if ours is result[0] else 0)


def test_tiles_of_a_large_map() -> None:
    """More than the 512 cells of a task; its first and last rows are those of a map of their own."""
    raw = head(1, 3, 70, 71)
    for kind in CLASSES:
        boxes, objectness, scores = yolo_decode(raw, ANCHORS, (70 * 8, 71 * 8), kind)
        expected = reference.yolo_decode(raw, ANCHORS, (70 * 8, 71 * 8), kind)
        for ours, theirs in zip((boxes, objectness, scores), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=1e-4)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_layouts_give_the_same_bits(dtype: torch.dtype, kind: str) -> None:
    raw = head(2, 20, 7, 11, dtype)
    expected = yolo_decode(raw, ANCHORS, (224, 352), kind)
    padded = torch.zeros(4, 75, 9, 15, dtype=dtype)
    padded[1:3, :, 1:8, 2:13] = raw
    stacked = torch.stack([raw, raw + 1], dim=-1)
    for view in (
        raw.contiguous(memory_format=torch.channels_last),
        padded[1:3, :, 1:8, 2:13],  # a crop: rows of cells do not follow each other
        stacked[..., 0],  # no stride of 1
        raw.flip(1).transpose(2, 3).contiguous().transpose(2, 3).flip(1),
    ):
        assert torch.equal(view, raw)
        for ours, theirs in zip(yolo_decode(view, ANCHORS, (224, 352), kind), expected, strict=True):
            assert torch.equal(ours, theirs)


def test_channels_last_is_not_copied() -> None:
    raw, anchors = head(1, 80, 13, 13).contiguous(memory_format=torch.channels_last), ANCHORS.double()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        yolo_decode(raw, anchors, (416, 416))
    called = {event.key for event in profile.key_averages()}
    assert "pydet::yolo_decode" in called
    assert not called & {"aten::copy_", "aten::clone"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_half_precision_value(dtype: torch.dtype) -> None:
    """All 65,536 bit patterns: the conversion inside the kernel is torch's, subnormals, infinities and NaN too."""
    values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    raw = values.view(1, 1, 256, 256).repeat(1, 6, 1, 1)
    ours = yolo_decode(raw, torch.tensor([[1.0, 1.0]]), (256, 256))
    wide = yolo_decode(raw.float(), torch.tensor([[1.0, 1.0]]), (256, 256))
    for a, b in zip(ours, wide, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_nan_stays_in_its_row() -> None:
    for channel in range(7):
        raw = torch.zeros(1, 7, 4, 5)
        raw[0, channel, 2, 3] = math.nan
        boxes, objectness, scores = (t[0] for t in yolo_decode(raw, ANCHORS[:1], (32, 40)))
        others = torch.arange(20) != 13
        assert all(torch.isfinite(t[others]).all() for t in (boxes, objectness, scores))
        box_nan = [channel in (0, 2), channel in (1, 3)] * 2
        assert boxes[13].isnan().tolist() == box_nan
        assert objectness[13].isnan().item() == (channel == 4)
        assert scores[13].isnan().tolist() == [channel in (4, 5), channel in (4, 6)]


def test_extreme_logits() -> None:
    raw = torch.zeros(1, 6, 1, 4)
    raw[0, 2, 0] = torch.tensor([1e4, math.inf, -1e4, -math.inf])  # tw
    raw[0, 4, 0] = torch.tensor([1e4, math.inf, -1e4, -math.inf])  # objectness
    boxes, objectness, scores = (t[0] for t in yolo_decode(raw, ANCHORS[:1], (8, 32)))
    assert boxes[:2, 0].tolist() == [-math.inf] * 2
    assert boxes[:2, 2].tolist() == [math.inf] * 2
    assert boxes[2:, 0].tolist() == boxes[2:, 2].tolist() == [20, 28]  # no width: both at the centre
    assert objectness.tolist() == [1, 1, 0, 0]
    assert scores[:, 0].tolist() == [0.5, 0.5, 0, 0]


@pytest.mark.parametrize("shape", [(0, 255, 13, 13), (2, 255, 0, 13), (2, 255, 13, 0)])
def test_empty(shape: tuple[int, ...]) -> None:
    for decode in (yolo_decode, reference.yolo_decode):
        boxes, objectness, scores = decode(torch.zeros(shape), ANCHORS, (416, 416))
        rows = shape[2] * shape[3] * 3
        assert boxes.shape == (shape[0], rows, 4)
        assert objectness.shape == (shape[0], rows)
        assert scores.shape == (shape[0], rows, 80)


def test_dtype_of_anchors_is_free() -> None:
    raw = head(1, 2, 3, 3)
    for anchors in (ANCHORS.double(), ANCHORS.half(), ANCHORS.bfloat16()):  # all integers: exact in each
        for ours, theirs in zip(yolo_decode(raw, anchors, (96, 96)), yolo_decode(raw, ANCHORS, (96, 96)), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("in_cells", [False, True])
def test_gradients_once_and_twice(kind: str, in_cells: bool) -> None:
    raw = head(1, 2, 2, 1, torch.float64)[:, :14].requires_grad_()
    anchors = torch.tensor([[0.5, 1.5], [2.0, 0.25]], dtype=torch.float64, requires_grad=True)

    def decode(raw: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return yolo_decode(raw, anchors, (2, 3), kind, in_cells)

    assert torch.autograd.gradcheck(decode, (raw, anchors))
    assert torch.autograd.gradgradcheck(decode, (raw, anchors))


def test_gradients_of_a_grid_once_and_twice() -> None:
    raw = torch.randn(2, 4 * 13, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for roots in (True, False):
        for classes in ("linear", "softmax"):
            arguments = (raw, 2, 2, (3, 2), roots, classes)
            assert torch.autograd.gradcheck(yolo_grid_decode, arguments)
            assert torch.autograd.gradgradcheck(yolo_grid_decode, arguments)


def test_no_gradient_where_nothing_enters() -> None:
    raw = head(1, 3, 2, 3).requires_grad_()
    boxes, _, _ = yolo_decode(raw, ANCHORS, (64, 96))
    (only_boxes,) = torch.autograd.grad(boxes.sum(), raw)
    assert only_boxes.view(1, 3, 8, 2, 3)[:, :, :2].all()
    assert not only_boxes.view(1, 3, 8, 2, 3)[:, :, 4:].any()


def test_export_with_any_size() -> None:
    class Head(torch.nn.Module):
        def forward(self, raw: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return yolo_decode(raw, ANCHORS, (image.shape[2], image.shape[3]))

    any_size = torch.export.Dim.DYNAMIC
    program = torch.export.export(
        Head(),
        (head(2, 4, 3, 5), torch.zeros(2, 3, 96, 160)),
        dynamic_shapes={name: {0: any_size, 2: any_size, 3: any_size} for name in ("raw", "image")},
    )
    for batch, height, width in ((2, 3, 5), (1, 7, 4), (3, 13, 13)):
        raw = head(batch, 4, height, width)
        result = program.module()(raw, torch.zeros(batch, 3, 32 * height, 32 * width))
        for ours, theirs in zip(result, yolo_decode(raw, ANCHORS, (32 * height, 32 * width)), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("inputs", "anchors", "image_size", "message"),
    [
        (torch.zeros(1, 18, 2), ANCHORS, (64, 64), "inputs must be [B, A * (5 + C), H, W], got [1, 18, 2]"),
        (torch.zeros(1, 20, 2, 2), ANCHORS, (64, 64), "C >= 1, for the A = 3 anchors, got [1, 20, 2, 2]"),
        (torch.zeros(1, 15, 2, 2), ANCHORS, (64, 64), "C >= 1, for the A = 3 anchors, got [1, 15, 2, 2]"),
        (torch.zeros(1, 18, 2, 2).int(), ANCHORS, (64, 64), "inputs must be a floating tensor, got Int"),
        (torch.zeros(1, 18, 2, 2), ANCHORS.long(), (64, 64), "anchors must be a floating tensor, got Long"),
        (torch.zeros(1, 18, 2, 2), ANCHORS[0], (64, 64), "anchors must be [A, 2] with A >= 1, got [2]"),
        (torch.zeros(1, 18, 2, 2), ANCHORS[:0], (64, 64), "anchors must be [A, 2] with A >= 1, got [0, 2]"),
        (torch.zeros(1, 18, 2, 2), torch.ones(3, 4), (64, 64), "anchors must be [A, 2] with A >= 1, got [3, 4]"),
        (torch.zeros(1, 18, 2, 2), ANCHORS, (64,), "image_size must be (height, width), got 1 values"),
        (torch.zeros(1, 18, 2, 2), ANCHORS, (64, 0), "image_size must be positive, got (64, 0)"),
        (torch.zeros(1, 18, 2, 2), ANCHORS, (-1, 64), "image_size must be positive, got (-1, 64)"),
    ],
)
def test_messages(inputs: Tensor, anchors: Tensor, image_size: tuple[int, int], message: str) -> None:
    with pytest.raises(RuntimeError) as error:
        yolo_decode(inputs, anchors, image_size)
    assert "yolo_decode: " in str(error.value)
    assert message in str(error.value)


def test_message_of_classes() -> None:
    with pytest.raises(RuntimeError, match="yolo_decode: classes must be 'sigmoid', 'softmax' or 'logits', got 'tree'"):
        yolo_decode(torch.zeros(1, 18, 2, 2), ANCHORS, (64, 64), "tree")


@pytest.mark.parametrize(("value", "shown"), [(0.0, "0"), (-3.0, "-3"), (math.nan, "nan"), (math.inf, "inf")])
def test_anchors_must_be_positive_and_finite(value: float, shown: str) -> None:
    anchors = ANCHORS.clone()
    anchors[1, 0] = value
    with pytest.raises(RuntimeError, match=rf"anchors must be positive and finite, got {shown} at \[1, 0\]"):
        yolo_decode(torch.zeros(1, 18, 2, 2), anchors, (64, 64))


@pytest.mark.gpu
def test_devices_must_agree() -> None:
    with pytest.raises(RuntimeError, match="inputs and anchors must be on one device, got cuda:0 and cpu"):
        yolo_decode(torch.zeros(1, 18, 2, 2, device="cuda"), ANCHORS, (64, 64))
