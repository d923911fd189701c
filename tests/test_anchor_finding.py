"""Anchors of a data set: in pixels of the network's input, crowds left out, the elbow."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from data_files import BCCD, coco_annotation, picture, write, write_coco

from pydet.anchors import find_anchors
from pydet.data import DataError, load_dataset
from pydet.ops import anchor_kmeans


def test_boxes_are_measured_on_the_letterboxed_picture(tmp_path: Path) -> None:
    """Of 200 x 100, what 416 x 416 shows is twice as large (2.08); of 100 x 400 about as large (1.04)."""
    picture(tmp_path / "a.jpg", 200, 100)
    picture(tmp_path / "b.jpg", 100, 400)
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}]
    boxes = [(1, [0, 0, 10, 20]), (2, [5, 5, 50, 60])]
    annotations = [coco_annotation(image, 3, box) for image, box in boxes]
    annotations.append(coco_annotation(1, 3, [0, 0, 200, 100], iscrowd=1))
    data = load_dataset(write_coco(tmp_path / "all.json", images=images, annotations=annotations))
    result = find_anchors(data, 2)
    expected = torch.tensor([[10, 20], [50, 60]]) * torch.tensor([[2.08], [1.04]])
    torch.testing.assert_close(result.sizes, expected.double(), rtol=0, atol=1e-3)
    assert result.average_iou == pytest.approx(1)
    assert "anchors = 21,42,  52,62\n" in result.table()
    assert "anchors = 0.65,1.30,  1.62,1.95\n" in result.table()
    # One anchor can do no better than to be one of the two boxes, which has IoU 1 with itself
    smaller, larger = expected.tolist()
    both = smaller[0] * smaller[1] / (larger[0] * larger[1])
    assert both < result.elbow[0] <= (1 + both) / 2 + 1e-4
    assert result.elbow[1] == pytest.approx(1)
    with pytest.raises(DataError, match="3 anchors need as many boxes of different size, and there are 2"):
        find_anchors(data, 3)


def test_one_size_in_many_places_is_one_size(tmp_path: Path) -> None:
    """Edges made of a centre and a side, as in YOLO's files, give the side back but for its last bits."""
    picture(tmp_path / "images" / "a.jpg", 333, 500)
    places = [
        f"0 {0.3 + 0.037 * place:.3f} 0.{41 + place} {side}" for place in range(9) for side in ("0.31 0.2", "0.1 0.17")
    ]
    write(tmp_path / "labels" / "a.txt", "\n".join([*places, "0 0.5 0.5 3e-6 3e-6"]))
    data = load_dataset(tmp_path)
    assert len((data.boxes[:, 2:] - data.boxes[:, :2]).unique(dim=0)) > 3
    result = find_anchors(data, 3)
    assert len(result.elbow) == 3
    expected = torch.tensor([[0, 0], [0.1 * 333, 0.17 * 500], [0.31 * 333, 0.2 * 500]]) * (416 / 500)
    torch.testing.assert_close(result.sizes, expected.double(), rtol=0, atol=2e-3)
    with pytest.raises(DataError, match="4 anchors need as many boxes of different size, and there are 3"):
        find_anchors(data, 4)


@pytest.mark.filterwarnings("ignore::pydet.data.DataWarning")
def test_real_boxes() -> None:
    data = load_dataset(BCCD)
    result = find_anchors(data, 3, (480, 640), seed=1)  # the pictures' own size
    sizes = data.boxes[:, 2:] - data.boxes[:, :2]
    anchors, average = anchor_kmeans(sizes, 3, 1)
    assert torch.equal(result.sizes, anchors)
    assert result.average_iou == pytest.approx(float(average))
    assert len(result.elbow) == 12
    assert result.elbow[2] == pytest.approx(result.average_iou)
    assert result.elbow[0] < result.elbow[2] < result.elbow[11]
