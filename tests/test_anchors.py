"""The boxes that SSD and RetinaNet predict from, by the papers' formulas."""

from __future__ import annotations

import math

import pytest
import torch

from pydet.models.anchors import cell_anchors, default_boxes, grid_anchors, retinanet_sides
from pydet.models.ssd import LAYOUTS, SSD


@pytest.mark.parametrize(("size", "count"), [(300, 8732), (512, 24564)])
def test_ssd_has_as_many_default_boxes_as_the_paper_says(size: int, count: int) -> None:
    with torch.device("meta"):
        assert SSD(["background", "face"], size).boxes.shape == (count, 4)
    cells = [
        side * side * (2 + 2 * len(r)) for side, r in zip(LAYOUTS[size]["sides"], LAYOUTS[size]["ratios"], strict=True)
    ]
    assert sum(cells) == count


def test_default_boxes_of_one_cell() -> None:
    """Section 2.2: a square of scale s_k, one of sqrt(s_k s_k+1), and s sqrt(a) x s / sqrt(a) for a = 2 and 1/2."""
    boxes = default_boxes((0.25, 0.36), ((2,),), ((1, 1),), (100,), (100, 100))
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    torch.testing.assert_close(centre, torch.full((4, 2), 50.0))
    sides = boxes[:, 2:] - boxes[:, :2]
    expected = [[25, 25], [30, 30], [25 * math.sqrt(2), 25 / math.sqrt(2)], [25 / math.sqrt(2), 25 * math.sqrt(2)]]
    torch.testing.assert_close(sides, torch.tensor(expected))


def test_default_boxes_run_along_the_rows() -> None:
    boxes = default_boxes((0.1, 0.1), ((),), ((2, 3),), (50,), (100, 150))
    centres = ((boxes[:, :2] + boxes[:, 2:]) / 2)[::2]
    torch.testing.assert_close(centres, torch.tensor([[x, y] for y in (25.0, 75.0) for x in (25.0, 75.0, 125.0)]))


def test_no_default_box_is_larger_than_the_picture() -> None:
    boxes = default_boxes((1.05, 1.05), ((2,),), ((1, 1),), (300,), (300, 300))
    assert (boxes[:, 2:] - boxes[:, :2]).max() == 300


def test_retinanet_anchors() -> None:
    """Section 4: areas of size^2 times 1, 2^(2/3) and 2^(4/3), at height / width 1/2, 1 and 2."""
    sides = torch.tensor(retinanet_sides(64))
    ratios = (sides[:, 1] / sides[:, 0]).reshape(3, 3)
    torch.testing.assert_close(ratios, torch.tensor([0.5, 1, 2])[:, None].expand(3, 3))
    scales = sides.prod(dim=1).sqrt().reshape(3, 3)
    torch.testing.assert_close(scales, torch.tensor([64.0, 80, 101]).expand(3, 3))  # 80.6 and 101.6, cut


def test_grid_anchors_stand_at_the_corners_of_the_cells() -> None:
    anchors = grid_anchors(cell_anchors([(8, 4), (16, 16)]), (2, 3), (10, 20))
    assert anchors[:2].tolist() == [[-4, -2, 4, 2], [-8, -8, 8, 8]]
    centres = ((anchors[:, :2] + anchors[:, 2:]) / 2)[::2]
    assert centres.tolist() == [[x, y] for y in (0, 10) for x in (0, 20, 40)]
