"""benchmarks/bccd.py: what it trains on, and the table that it writes."""

from __future__ import annotations

import json
from pathlib import Path

import bccd
import pytest
from training_cases import BCCD

from pydet.data import load_dataset
from pydet.image import read_image
from pydet.training.settings import Settings
from pydet.training.start import build
from pydet.wordtree import WordTree

pytestmark = pytest.mark.filterwarnings("ignore::pydet.data.DataWarning")  # two boxes of the pictures have no width


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bccd.prepare(BCCD, tmp_path)
    return tmp_path


def labels(data: Path, split: str) -> set[str]:
    dataset = load_dataset(data, split)
    return {dataset.class_names[label] for label in dataset.labels.tolist()}


def test_boxes_are_coarse_where_it_trains_and_nowhere_else(folder: Path) -> None:
    assert labels(folder / "coarse", "train") == {"cell", "Platelets"}
    assert labels(folder / "coarse", "test") == labels(folder / "bccd", "test") == {"RBC", "WBC"}
    for split in ("train", "test"):
        one, other = (load_dataset(folder / name, split) for name in ("coarse", "bccd"))
        assert one.boxes.equal(other.boxes)


def test_labelled_pictures_show_one_cell(folder: Path) -> None:
    boxes = load_dataset(folder / "bccd", "train")  # without the two that have no width
    truth = [boxes.class_names[label] for label in boxes.labels.tolist()]
    dataset = load_dataset(folder / "labelled")
    shown = [dataset.class_names[label] for label in dataset.image_labels.tolist()]
    assert sorted(shown) == sorted(name for name in truth if name != "Platelets")
    assert not len(dataset.labels)
    assert dataset.sizes.unique(dim=0).tolist() == [[480, 640]]
    for path in dataset.paths:
        pixels = read_image(path).flatten(1)
        seen = (pixels != pixels.mode(1).values[:, None]).any(0).sum()
        assert 20 * 20 < seen < 480 * 640 / 2


def test_the_cfg_has_the_tree(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    network = build(Settings(cfg="joint.cfg"), ("Platelets", "cell"), (320, 416))
    assert network.tree == WordTree(("Platelets", "cell", "RBC", "WBC"), (-1, -1, 1, 1))
    assert network.class_names == ["Platelets", "cell", "RBC", "WBC"]


def test_the_table_has_what_was_measured(tmp_path: Path) -> None:
    facts = {
        "command": "pydet train yolov3-tiny",
        "seconds": 90.0,
        "date": "2026-01-01",
        "commit": "0123456789abcdef+",  # of a checkout that was changed
        "machine": {"cpu": "Fast 9000", "threads": 2},
        "versions": {"torch": "2.13.0"},
        "metrics": {"AP50": 0.25, "AP": 0.15},
        "classes": {"WBC": 0.2, "RBC": 0.1, "Platelets": 0.3},
        "printed": "epoch 1",
    }
    (tmp_path / "ssd300.json").write_text(json.dumps(facts))
    lines = bccd.table(tmp_path).splitlines()
    (row,) = (line for line in lines if line.startswith("| [ssd300]"))
    assert row.endswith("| 1.5 | 0.250 | 0.100 | 0.200 | 0.300 | 0.150 |")
    assert "Commit 0123456789ab+, 2026-01-01; Fast 9000, 2 threads, torch 2.13.0." in lines
    assert "epoch 1" in lines


def test_what_a_run_printed_has_no_path_of_the_machine(tmp_path: Path) -> None:
    text = f"starts with {bccd.ROOT}/a.safetensors\nepoch 1\n{tmp_path}/b\n"
    (tmp_path / "ssd300.log").write_text(text)
    assert bccd.printed(tmp_path, "ssd300").splitlines() == ["starts with a.safetensors", "epoch 1", "b"]


def test_the_committed_table_is_of_the_committed_runs() -> None:
    assert bccd.RESULTS.with_suffix(".md").read_text() == bccd.table(bccd.RESULTS)
