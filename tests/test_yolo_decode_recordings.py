"""yolo_decode and yolo_grid_decode against what the real Darknet made of the same raw outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import shared_path
from torch import Tensor

from pydet.letterbox import unletterbox_boxes
from pydet.ops import yolo_decode, yolo_grid_decode

DATA = Path(__file__).parent / "data"
REGION_ANCHORS = [[0.7, 0.9], [1.5, 1.1], [2, 3]]
VOC_ANCHORS = [[1.08, 1.19], [3.42, 4.41], [6.63, 11.38], [9.42, 5.11], [16.62, 10.52]]

# recording: raw output, (anchors, classes of an anchor, cells, network), how classes become probabilities
REGIONS = {
    "unit_region": ("o4", REGION_ANCHORS, 3, (3, 4), (48, 64), "softmax"),
    "unit_regionlog": ("o4", REGION_ANCHORS, 3, (3, 4), (48, 64), "sigmoid"),
    "yolov2-tiny-voc__dog": ("det15_logits", VOC_ANCHORS, 20, (13, 13), (416, 416), "softmax"),
}
# recording: raw output, side, num, sqrt, how classes become probabilities
GRIDS = {
    "unit_fc": ("o5", 2, 2, True, "linear"),
    "unit_fcsoft": ("o1", 2, 2, False, "softmax"),
    "yolov1-tiny__dog": ("det15_logits", 7, 2, True, "linear"),
}


def read(name: str) -> dict[str, np.ndarray]:
    folder = DATA if name.startswith("unit_") else shared_path("conformance") / "golden"
    with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def assert_recorded(
    recording: dict[str, np.ndarray], name: str, corners: Tensor, objectness: Tensor, scores: Tensor, threshold: float
) -> None:
    """Detections before NMS: `corners` are in the recording's units, its objectness is 0 below the threshold."""
    centres = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1)
    np.testing.assert_allclose(centres, recording[f"{name}_box"], rtol=5e-5, atol=1e-6)
    np.testing.assert_allclose(objectness, recording[f"{name}_obj"], rtol=0, atol=1e-6)
    pairs = torch.nonzero(scores > threshold)
    np.testing.assert_array_equal(pairs, recording[f"{name}_pidx"])
    np.testing.assert_allclose(scores[pairs[:, 0], pairs[:, 1]], recording[f"{name}_pval"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", REGIONS)
def test_region_layers(name: str, layout: torch.memory_format) -> None:
    key, anchors, num_classes, (height, width), network_size, classes = REGIONS[name]
    recording = read(name)
    raw = torch.from_numpy(recording[key]).view(1, len(anchors) * (5 + num_classes), height, width)
    raw = raw.contiguous(memory_format=layout)
    decoded = yolo_decode(raw, torch.tensor(anchors), network_size, classes, anchors_in_cells=True)
    # Darknet's rows are all cells of one anchor after those of another
    order = torch.arange(height * width * len(anchors)).view(-1, len(anchors)).T.flatten()
    boxes, objectness, scores = (part[0, order] for part in decoded)
    sets: dict[str, Any] = json.loads(str(recording["meta"]))["sets"]
    assert sets
    for set_name, options in sets.items():
        size, threshold = (options["h"], options["w"]), float(np.float32(options["thresh"]))
        corners = unletterbox_boxes(boxes, size, network_size)
        if options["relative"]:
            corners = corners / torch.tensor([size[1], size[0]] * 2)
        found = objectness > threshold
        assert_recorded(recording, set_name, corners, objectness * found, scores * found[:, None], threshold)


@pytest.mark.parametrize("name", GRIDS)
def test_detection_layers(name: str) -> None:
    key, side, num_boxes, roots, classes = GRIDS[name]
    recording = read(name)
    raw = torch.from_numpy(recording[key])[None]
    sets: dict[str, Any] = json.loads(str(recording["meta"]))["sets"]
    assert sets
    for set_name, options in sets.items():
        decoded = yolo_grid_decode(raw, side, num_boxes, (options["h"], options["w"]), roots, classes)
        assert_recorded(recording, set_name, *(part[0] for part in decoded), float(np.float32(options["thresh"])))
