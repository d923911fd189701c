"""A few damaged files of every format, the same in every run; `make fuzz` takes new ones for as long as it is told."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from data_files import LOADED, loaded, prepared
from fuzz import attack
from fuzz_formats import MOST_PIXELS, Format, formats, own_network, read_training, training
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from pydet.commands.train import settings_from
from pydet.data import DataError
from pydet.models import WeightsError, load_checkpoint, load_weights, save_checkpoint, save_weights
from pydet.models.torchvision import read_state_dict
from pydet.training import Settings, SettingsError, checkpoint, read_settings
from pydet.training.checkpoint import plain
from pydet.training.settings import as_toml
from pydet.training.train import settings_of
from pydet.wordtree import TreeError, WordTree, read_map

FORMATS = formats()


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_read_or_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", MOST_PIXELS)
    outcome = attack(FORMATS[name], tmp_path / "data", random.Random(name), 60, most=60)
    assert outcome.executions > 1
    assert outcome.findings == {}


def test_the_fuzzer_finds_planted_faults(tmp_path: Path) -> None:
    def read(path: Path) -> None:
        content = path.read_bytes()
        if len(content) < 6:
            raise ValueError("short")
        if b"\0" in content:
            raise KeyError("zero")

    found = attack(
        Format("f", [b"123456"], read, (ValueError,)), tmp_path / "data", random.Random(0), 60, most=2000
    ).findings
    assert len(found) == 2
    assert any(where.startswith("KeyError in test_fuzz.py") for where in found)
    assert any(where.startswith("does not name the file") and what == "short" for where, (what, _) in found.items())


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


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 2000])
def test_numbers_and_lists_that_python_refuses(value: str, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(f"epochs = {value}")
    with pytest.raises(SettingsError, match=r"own\.toml: not a TOML file: "):
        read_settings(path)
    with pytest.raises(SettingsError, match="train: epochs must be a whole number, got '"):
        settings_from({"weights": "none"}, None, [f"epochs={value}"])


@pytest.mark.parametrize(
    "value", [float("inf"), float("nan"), -float("inf"), 10**400], ids=["inf", "nan", "-inf", "int"]
)
def test_settings_are_finite(value: float) -> None:
    for name in ("learning_rate", "weight_decay", "clip"):
        with pytest.raises(SettingsError, match=f"train: {name} must be a finite number, got "):
            Settings(**{name: value})
    with pytest.raises(SettingsError, match="train: scales must be a finite number, got "):
        Settings(steps=[0.5], scales=[value])


def test_settings_with_a_delete_character_are_read_again(tmp_path: Path) -> None:
    settings = Settings(data='a\x7fb"\\\t')
    (tmp_path / "own.toml").write_text(as_toml(settings), encoding="utf-8")
    assert Settings(**read_settings(tmp_path / "own.toml")) == settings


LONG = "n" * 5000
OF_FILES = [
    ("data.yaml", "path: 2001-99-99", r"not a YAML file \(month must be in 1\.\.12"),
    ("data.yaml", "nc: !!int x", "not a YAML file "),
    ("data.yaml", "nc: !!timestamp x", "not a YAML file "),
    ("data.yaml", "names: &a [*a, *a]", "aliases are not read; write the value itself"),
    ("data.yaml", "[" * 2000, "nested too deeply"),
    ("data.yaml", "#" * (1 << 20) + "#", r"data\.yaml: larger than 1 MiB"),
    ("images/a.txt", "a\n" * (1 << 21) + "a", r"a\.txt: larger than 4 MiB"),
    ("data.yaml", f"train: {LONG}\nnames: [a]", "is not in"),
    ("data.yaml", f"path: {LONG}\ntrain: x\nnames: [a]", "'x' is not in"),
    ("x.data", f"train = {LONG}", "is not in"),
    ("x.names", "\n", "x.names: has no names of classes"),
    ("list.txt", f"{LONG}\n", "no label files: the first one would be "),
    (
        "a.json",
        json.dumps({"images": [{"id": 1, "file_name": LONG}], "annotations": [], "categories": []}),
        "in none of",
    ),
    ("voc/ImageSets/Main/train.txt", "", r"no picture can be used:\n.*train\.txt: names no pictures"),
]


@pytest.mark.parametrize(
    ("name", "text", "message"), OF_FILES, ids=[f"{name} {text[:20]}" for name, text, _ in OF_FILES]
)
def test_annotations(name: str, text: str, message: str, tmp_path: Path) -> None:
    prepared(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        loaded(tmp_path, tmp_path / LOADED.get(name, name))


def test_names_of_trees_and_maps_that_are_too_long(tmp_path: Path) -> None:
    for read in (WordTree.read, lambda path: read_map(path, 6)):
        with pytest.raises(TreeError, match="nnn: no such file"):
            read(tmp_path / LONG)


def test_metadata_of_another_network_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    for change, message in (
        ({"class_names": ["cat"]}, "Darknet: class_names must be 6 names, one per class, got 1"),
        (
            {"model": "ssd300", "class_names": []},
            "SSD: class_names must be the background and at least one class, got 0",
        ),
        ({"options": 0, "class_names": json.loads("[" * 900 + "]" * 900)}, "not one of pydet"),
    ):
        save_checkpoint(own_network(), path)
        with safe_open(path, framework="pt") as file:
            metadata = json.loads(file.metadata()["pydet"]) | change
        save_file(dict(own_network().state_dict()), path, {"pydet": json.dumps(metadata)})
        with pytest.raises(WeightsError, match=rf"own\.safetensors: .*{message}"):
            load_checkpoint(path)
    save_file({"x": torch.zeros(1)}, path, {"pydet": "[" * 5000})
    with pytest.raises(WeightsError, match=r"own\.safetensors: not a safetensors file, or a damaged one: "):
        load_checkpoint(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -1.0])
def test_weights_that_would_find_nothing(value: float, tmp_path: Path) -> None:
    broken = own_network()
    name = "running_var" if value == -1 else "bias"
    broken.state_dict()[f"layers.0.norm.{name}"][3] = value
    problem = "variances below 0, -1" if value == -1 else "numbers that are not finite, "
    save_weights(broken, tmp_path / "own.weights")
    network = own_network()
    with pytest.raises(WeightsError, match=rf"own\.weights: layer 0 \[convolutional\]: norm\.{name} has {problem}"):
        load_weights(network, tmp_path / "own.weights")
    assert all(map(torch.equal, network.state_dict().values(), own_network().state_dict().values()))
    save_checkpoint(broken, tmp_path / "own.safetensors")
    with pytest.raises(WeightsError, match=rf"own\.safetensors: layers\.0\.norm\.{name} has {problem}"):
        load_checkpoint(tmp_path / "own.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": {}},
        {"optimizer": {"state": {0: None}}},
        {"optimizer": {"state": {0: {"step": 1}}}},
        {"optimizer": {"state": {0: {"momentum_buffer": torch.zeros(2)}}}},
        {"optimizer": {"state": {0: {"momentum_buffer": "text"}}}},
        {"optimizer": {"state": {99: {"momentum_buffer": torch.zeros(2)}}}},
        {"network": {"layers.0.conv.weight": 5}},
        {"generators": {}},
        {"generators": {"cpu": torch.zeros(3)}},
    ],
    ids=str,
)
def test_checkpoints_that_cannot_be_gone_on_with(change: dict[str, Any], tmp_path: Path) -> None:
    replace(training(), **change).save(tmp_path / "checkpoint.pt")
    with pytest.raises(checkpoint.CheckpointError, match=r"checkpoint\.pt: its checkpoint is of another network, or "):
        read_training(tmp_path / "checkpoint.pt")


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
