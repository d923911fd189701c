"""Darknet's augmentation, given what it drew, gives what it gave (recordings of the real library)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pydet.data.augment import Sample
from pydet.data.augment_darknet import Colours, Crop, DarknetCrop, DarknetPlace, Place

DATA = Path(__file__).parent / "data"
RECORDINGS = {kind: np.load(DATA / f"aug_{kind}.npz") for kind in ("detection", "region")}
JOBS = [job for recording in RECORDINGS.values() for job in json.loads(str(recording["jobs"]))]


def sample_of(job: dict[str, Any]) -> Sample:
    """The picture and its boxes, in the order in which Darknet had shuffled them."""
    recording = RECORDINGS[job["kind"]]
    image = torch.from_numpy(recording[f"src_{job['image']}"])
    rows = torch.from_numpy(recording[f"labels_{job['image']}"]).double()[job["order"]]
    rows = rows[rows[:, 1:3].any(1)]  # at 0, 0 is Darknet's mark of a label for the whole picture: no box
    height, width = image.shape[1:]
    half = rows[:, 3:] / 2
    boxes = torch.cat([rows[:, 1:3] - half, rows[:, 1:3] + half], dim=1) * torch.tensor([width, height] * 2)
    return Sample(image, boxes, rows[:, 0].long())


def applied(job: dict[str, Any]) -> Sample:
    colours, flip, size = Colours(job["hue"], job["sat"], job["exp"]), bool(job["flip"]), (job["H"], job["W"])
    if job["kind"] == "detection":
        place = Place(job["dx"], job["dy"], job["nw"], job["nh"], colours, flip)
        return DarknetPlace().apply(sample_of(job), place, size)
    crop = Crop(job["pleft"], job["ptop"], job["pright"], job["pbot"], colours, flip)
    return DarknetCrop().apply(sample_of(job), crop, size)


def relative(sample: Sample) -> torch.Tensor:
    """[G, 5] x, y, w, h in parts of the input, and the class."""
    height, width = sample.size
    boxes = sample.boxes / torch.tensor([width, height] * 2)
    corners, far = boxes[:, :2], boxes[:, 2:]
    return torch.cat([(corners + far) / 2, far - corners, sample.labels[:, None]], dim=1)


def grid(rows: torch.Tensor, side: int = 7, classes: int = 5) -> torch.Tensor:
    """YOLO's truth: for each cell object or not, one of the classes, x and y in the cell, w, h; the first box wins."""
    truth = torch.zeros(side, side, 1 + classes + 4, dtype=torch.float64)
    for x, y, w, h, label in rows.tolist():
        column, row = int(x * side), int(y * side)
        if not truth[row, column, 0]:
            truth[row, column, 0] = truth[row, column, 1 + int(label)] = 1
            truth[row, column, -4:] = torch.tensor([x * side - column, y * side - row, w, h])
    return truth.flatten()


@pytest.mark.parametrize("job", JOBS, ids=[f"{job['kind']}{job['seed']}" for job in JOBS])
def test_recordings(job: dict[str, Any]) -> None:
    recording, name = RECORDINGS[job["kind"]], f"{job['kind']}{job['seed']}"
    result = applied(job)
    assert result.image.dtype == torch.float32
    np.testing.assert_allclose(result.image.numpy(), recording[f"{name}_X"], atol=2e-6)
    rows = relative(result)
    truth = recording[f"{name}_y"]
    if job["kind"] == "detection":
        truth = truth.reshape(-1, 5)
        truth = truth[(truth[:, 0] > 0) & (truth[:, 0] < 999999)]
        assert 0 < len(truth) < len(sample_of(job).boxes)  # some became too small
        np.testing.assert_allclose(rows.numpy(), truth, atol=2e-6)
    else:
        np.testing.assert_allclose(grid(rows).numpy(), truth, atol=2e-6)


def test_recording_of_a_wide_picture() -> None:
    """Stripes of black and white, so that the least shift of where a pixel is read shows."""
    recording = np.load(DATA / "aug_wide.npz")
    picture, wanted = torch.from_numpy(recording["src"]), recording["X"]
    size = (wanted.shape[1], wanted.shape[2])
    sample = Sample(picture, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    place = Place(0.0, 0.0, float(size[1]), float(size[0]), Colours(0.0, 1.0, 1.0), flip=False)
    np.testing.assert_allclose(DarknetPlace().apply(sample, place, size).image.numpy(), wanted, rtol=0, atol=2e-6)
