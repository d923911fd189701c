"""yolo_grid_decode beyond what every operator shares: numbers by hand, the layout, oddities, messages."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pydet import reference
from pydet.ops import yolo_grid_decode


def test_by_hand() -> None:
    """2 x 2 cells of 48 x 32 pixels, one box a cell, two classes."""
    classes = [[0, 1], [0.5, 0.25], [1, 0], [0, 0]]
    objectness = [0.5, -0.25, 1, 0]
    coordinates = [[0.5, 0.5, 0.5, 1], [0.25, 0.75, 0.5, 0.25], [0, 0, 0, 0], [1, 1, -0.5, 2]]
    raw = torch.cat([torch.tensor(part, dtype=torch.float32).flatten() for part in (classes, objectness, coordinates)])
    boxes, confidence, scores = yolo_grid_decode(raw[None], 2, 1, (64, 96))
    # the second: centre (1.25, 0.75) cells = (60, 24) pixels, a quarter of the width and a sixteenth of the height
    expected = [[12, -16, 36, 48], [48, 22, 72, 26], [0, 32, 0, 32], [84, -64, 108, 192]]
    assert boxes[0].tolist() == expected
    assert confidence[0].tolist() == objectness
    assert scores[0].tolist() == [[0, 0.5], [-0.125, -0.0625], [1, 0], [0, 0]]
    boxes, _, scores = yolo_grid_decode(raw[None], 2, 1, (64, 96), roots=False, classes="softmax")
    assert boxes[0].tolist() == [[0, -16, 48, 48], [36, 16, 84, 32], [0, 32, 0, 32], [120, 0, 72, 128]]
    e = math.e
    first = torch.tensor([0.5 / (1 + e), 0.5 * e / (1 + e)])
    torch.testing.assert_close(scores[0, 0], first, rtol=3e-7, atol=0)
    assert scores[0, 3].tolist() == [0, 0]


def test_layout() -> None:
    """[S * S * C | S * S * N | S * S * N * 4], each cell after cell; the boxes of a cell share its classes."""
    side, num_boxes, num_classes = 3, 2, 5
    cells = side * side
    raw = torch.arange(2.0 * cells * (num_classes + 5 * num_boxes)).view(2, -1)
    _, objectness, scores = yolo_grid_decode(raw, side, num_boxes, (30, 30), roots=False)
    boxes = yolo_grid_decode(raw, side, num_boxes, (3, 3), roots=False)[0]
    for image in range(2):
        for cell in range(cells):
            classes = raw[image, cell * num_classes : (cell + 1) * num_classes]
            for box in range(num_boxes):
                row = cell * num_boxes + box
                confidence = raw[image, cells * num_classes + row]
                assert objectness[image, row] == confidence
                assert torch.equal(scores[image, row], confidence * classes)
                start = cells * (num_classes + num_boxes) + 4 * row
                x, y, w, h = raw[image, start : start + 4].tolist()
                x, y = x + cell % side, y + cell // side
                expected = [x - 1.5 * w, y - 1.5 * h, x + 1.5 * w, y + 1.5 * h]
                assert boxes[image, row].tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("classes", ["linear", "softmax"])
@pytest.mark.parametrize("num_classes", [1, 15, 16, 17, 20, 80])
@pytest.mark.parametrize(("side", "num_boxes"), [(1, 1), (2, 3), (7, 2), (7, 3), (11, 1)])
def test_widths_of_vectors(side: int, num_boxes: int, num_classes: int, classes: str) -> None:
    raw = torch.randn(3, side * side * (num_classes + 5 * num_boxes), generator=torch.Generator().manual_seed(0))
    ours = yolo_grid_decode(raw, side, num_boxes, (448, 448), True, classes)
    theirs = reference.yolo_grid_decode(raw, side, num_boxes, (448, 448), True, classes)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=1e-4 if a is ours[0] else 0)


def test_a_batch_is_a_loop() -> None:
    raw = torch.randn(9, 7 * 7 * 30, generator=torch.Generator().manual_seed(1))
    for classes in ("linear", "softmax"):
        loop = [yolo_grid_decode(one[None], 7, 2, (448, 448), True, classes) for one in raw]
        for whole, parts in zip(
            yolo_grid_decode(raw, 7, 2, (448, 448), True, classes), zip(*loop, strict=True), strict=True
        ):
            assert torch.equal(whole, torch.cat(parts))


def test_nan_stays_where_it_enters() -> None:
    raw = torch.zeros(1, 4 * 8)
    raw[0, [2 * 3 + 1, 12 + 1, 16 + 4 * 3 + 2]] = math.nan  # class of cell 2, objectness of cell 1, width of cell 3
    boxes, objectness, scores = (t[0] for t in yolo_grid_decode(raw, 2, 1, (8, 8)))
    assert boxes.isnan().nonzero().tolist() == [[3, 0], [3, 2]]
    assert objectness.isnan().tolist() == [False, True, False, False]
    assert scores.isnan().tolist() == [[False] * 3, [True] * 3, [False, True, False], [False] * 3]


def test_export_with_any_batch() -> None:
    class Grid(torch.nn.Module):
        def forward(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return yolo_grid_decode(raw, 7, 2, (448, 448))

    raw = torch.randn(3, 1470)
    program = torch.export.export(Grid(), (raw,), dynamic_shapes={"raw": {0: torch.export.Dim.DYNAMIC}})
    for batch in (1, 3, 8):
        raw = torch.randn(batch, 1470)
        for ours, theirs in zip(program.module()(raw), yolo_grid_decode(raw, 7, 2, (448, 448)), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((torch.zeros(30), 1, 1, (8, 8)), "inputs must be [B, S * S * (C + 5 * N)], got [30]"),
        ((torch.zeros(1, 30).int(), 1, 1, (8, 8)), "inputs must be a floating tensor, got Int"),
        ((torch.zeros(1, 30), 2, 1, (8, 8)), "values a row, C >= 1, for S = 2 and N = 1, got [1, 30]"),
        ((torch.zeros(1, 20), 2, 1, (8, 8)), "values a row, C >= 1, for S = 2 and N = 1, got [1, 20]"),
        ((torch.zeros(1, 30), 0, 1, (8, 8)), "side must be 1 to 32768, got 0"),
        ((torch.zeros(1, 30), 1, -1, (8, 8)), "num_boxes must be 1 to 32768, got -1"),
        ((torch.zeros(1, 30), 1, 1, (8,)), "image_size must be (height, width), got 1 values"),
        ((torch.zeros(1, 30), 1, 1, (8, 0)), "image_size must be positive, got (8, 0)"),
        ((torch.zeros(1, 30), 1, 1, (8, 8), True, "sigmoid"), "classes must be 'linear' or 'softmax', got 'sigmoid'"),
    ],
)
def test_messages(args: tuple, message: str) -> None:
    with pytest.raises(RuntimeError) as error:
        yolo_grid_decode(*args)
    assert "yolo_grid_decode: " in str(error.value)
    assert message in str(error.value)
