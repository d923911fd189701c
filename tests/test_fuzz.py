"""A few damaged files of every format, the same in every run; `make fuzz` takes new ones for as long as it is told."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from fuzz import Format, attack, formats

from pydet.models import WeightsError
from pydet.models.torchvision import read_state_dict
from pydet.training import Settings, checkpoint
from pydet.training.checkpoint import plain
from pydet.training.train import settings_of
from pydet.wordtree import TreeError, WordTree, read_map

FORMATS = formats()


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    outcome = attack(FORMATS[name], tmp_path / "data", random.Random(name), 60, most=40)
    assert outcome.executions > 1
    assert outcome.findings == {}


def test_the_fuzzer_finds_planted_faults(tmp_path: Path) -> None:
    def read(path: Path) -> None:
        content = path.read_bytes()
        if len(content) < 6:
            raise ValueError("short")
        if b"\0" in content:
            raise KeyError("zero")

    found = attack(Format("f", [b"123456"], read, (ValueError,)), tmp_path, random.Random(0), 60, most=2000).findings
    assert len(found) == 2
    assert any(what.startswith("KeyError in test_fuzz.py") for what in found)
    assert "does not name the file: short" in found


def test_settings_of_a_damaged_checkpoint_name_the_file(tmp_path: Path) -> None:
    settings = plain(Settings(data="x")) | {"amp": "aut["}
    kept = checkpoint.Checkpoint(settings, "", 1, {}, None, {}, {}, {})
    with pytest.raises(checkpoint.CheckpointError, match=r"^checkpoint\.pt: train: amp must be one of"):
        settings_of(kept, Path("checkpoint.pt"))


# What it found, once more.
@pytest.mark.parametrize("word", ["²", "0000000000000000009", "-1²1", "--1"])
def test_numbers_that_are_none(word: str, tmp_path: Path) -> None:
    path = tmp_path / "own.map"
    path.write_text(f"0\n{word}\n", encoding="utf-8")
    with pytest.raises(TreeError, match=r"own\.map, line 2: must be the index of a node, 0 to 5, got "):
        read_map(path, 6)
    with pytest.raises(TreeError, match="line 2: must be an id and the index of its parent"):
        WordTree.parse(f"a -1\nb {word}\n")


def test_pickles_that_torch_stumbles_over(tmp_path: Path) -> None:
    path = tmp_path / "own.pth"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    at = content.index(b"}", 40)
    path.write_bytes(content[:at] + b"s" + content[at:])  # sets an item of a dict that is not there
    with pytest.raises(WeightsError, match=r"own\.pth: not a checkpoint of PyTorch, or a damaged one"):
        read_state_dict(path)
    with pytest.raises(checkpoint.CheckpointError, match=r"own\.pth: not a checkpoint of pydet train"):
        checkpoint.load(path)


@pytest.mark.parametrize("name", ["settings", "network", "update", "generators"])
def test_checkpoints_with_something_else_in_them(name: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    values = {"settings": {}, "fingerprint": "", "update": 1, "network": {}, "average": None, "optimizer": {}}
    values |= {"generators": {}, "best": {}}
    torch.save({"format": checkpoint.FORMAT, **values, name: "text"}, path)
    with pytest.raises(checkpoint.CheckpointError, match=rf"checkpoint\.pt: not a checkpoint of pydet train: {name}$"):
        checkpoint.load(path)
    torch.save({"format": checkpoint.FORMAT, **values, name: values[name], 7: 8}, path)
    with pytest.raises(checkpoint.CheckpointError, match=r"pydet train: 7$"):
        checkpoint.load(path)
