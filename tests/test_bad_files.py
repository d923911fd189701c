"""Files of every format that are damaged, of another network or hostile: what the command line says of each, word by
word. It names the file, the rule and the value."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pydet import models
from pydet.cli import main
from pydet.models import Darknet
from pydet.models.darknet import Section, format_cfg
from pydet.models.darknet.sections import convolution, net
from pydet.models.yolov2 import head

DOG = str(models.ASSETS / "dog.jpg")
TREE = "animal -1\nthing -1\ncat 0\ndog 0\nPersian 2\nSiamese 2\n"
REGION = "own.cfg, line 31, layer 3 [region]"
NETWORK_OF_ANOTHER = "is it for another cfg, or incomplete?"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With good.cfg and its weights as .weights, .safetensors and .pth."""
    monkeypatch.chdir(tmp_path)
    write_cfg("good.cfg")
    torch.manual_seed(0)
    network = Darknet(models.read_cfg("good.cfg"))
    models.save_weights(network, "good.weights")
    models.save_checkpoint(network, "good.safetensors")
    torch.save(network.state_dict(), "good.pth")
    return tmp_path


def write_cfg(path: str, classes: int = 6, filters: int | None = None, **options: str) -> None:
    sections: list[Section] = [net((64, 64)), convolution(8, 3, 4), convolution(8, 3, 8)]
    sections += head(classes, ((1, 1), (2, 1)), 1, ".2")
    if filters is not None:
        sections[-2].options["filters"] = str(filters)
    sections[-1].options |= options
    Path(path).write_text(format_cfg(sections))


def said(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The one line that the command says when it refuses."""
    assert main(["detect", DOG, "--no-pictures", *options]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("pydet: ")
    assert output.err.count("\n") == 1
    return output.err.removeprefix("pydet: ").removesuffix("\n")


def test_the_good_ones_are_good() -> None:
    for options in (["--cfg", "good.cfg", "--weights", "good.weights"], ["--weights", "good.safetensors"]):
        assert main(["detect", DOG, "--no-pictures", *options]) == 0


def test_wrong_numbers_of_classes(capsys: pytest.CaptureFixture[str]) -> None:
    write_cfg("own.cfg", filters=23)
    assert said(capsys, "--cfg", "own.cfg", "--weights", "good.weights") == (
        f"{REGION}: layer 2 before it must give 22 filters, 2 anchors x (5 + 6 classes), but gives 23"
    )
    write_cfg("own.cfg", classes=7)
    assert said(capsys, "--cfg", "own.cfg", "--weights", "good.weights") == (
        "good.weights: too short: layer 2 [convolutional] needs 216 numbers, 198 are left. The network takes 1,072 "
        f"numbers (4,308 bytes), the file has 4,236 bytes: {NETWORK_OF_ANOTHER}"
    )
    assert said(capsys, "--cfg", "own.cfg", "--weights", "good.safetensors") == (
        "good.safetensors: layers.2.conv.bias has shape [22], the cfg needs [24]"
    )
    Path("five.names").write_text("a\nb\nc\nd\ne\n")
    refusal = "five.names: Darknet: class_names must be 6 names, one per class, got 5"
    assert said(capsys, "--weights", "good.safetensors", "--names", "five.names") == refusal
    assert said(capsys, "--cfg", "good.cfg", "--weights", "good.weights", "--names", "five.names") == refusal
    Path("binary.names").write_bytes(b"\xff\xfe\x00")
    assert said(capsys, "--weights", "good.safetensors", "--names", "binary.names").startswith(
        "binary.names: not a text file of class names: "
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a 1\nb 0\nc 0\nd 0\ne 0\nf 0\n", "line 1: a parent must come before its children, got 1 as that of node 0"),
        ("a -1\nb -1\nc 2\nd 0\ne 0\nf 0\n", "line 3: a node cannot be its own parent"),
        ("a -1\nb -1\nc 3\nd 0\ne 2\nf 2\n", "line 3: a parent must come before its children, got 3 as that of node 2"),
        ("a -1\nb -1\nc 0\nd 0\ne 2\nf 6\n", "line 6: parent must be -1 or 0 to 5, got 6"),
        ("a -1\nb\n", "line 2: must be an id and the index of its parent, got 'b'"),
        ("", "a tree must have nodes"),
    ],
    ids=["a cycle", "its own parent", "a child before its parent", "out of range", "not a tree", "empty"],
)
def test_trees(text: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("t.tree").write_text(text)
    write_cfg("own.cfg", tree="t.tree")
    place = "t.tree, " if problem.startswith("line") else "t.tree: "
    assert said(capsys, "--cfg", "own.cfg", "--weights", "good.weights") == f"{REGION}: tree={place}{problem}"


def test_trees_and_maps_that_do_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    own = ["--cfg", "own.cfg", "--weights", "good.weights"]
    write_cfg("own.cfg", tree="none.tree")
    assert said(capsys, *own) == f"{REGION}: tree=none.tree: no such file"
    Path("t.tree").write_text("a -1\nb -1\nc 0\nd 0\ne 2\n")
    write_cfg("own.cfg", tree="t.tree")
    assert said(capsys, *own) == f"{REGION}: classes=6, but its tree has 5 nodes"
    Path("t.tree").write_text(TREE)
    Path("m.map").write_text("3\n6\n")
    write_cfg("own.cfg", tree="t.tree", map="m.map")
    assert said(capsys, *own) == f"{REGION}: map=m.map, line 2: must be the index of a node, 0 to 5, got '6'"
    write_cfg("own.cfg", tree="t.tree", map="none.map")  # only needed for training and evaluation
    assert main(["detect", DOG, "--no-pictures", *own]) == 0


def cut(path: str, count: int) -> str:
    """The first bytes of a file, the last ones left out where the count is negative."""
    part = Path("cut" + Path(path).suffix)
    part.write_bytes(Path(path).read_bytes()[:count])
    return part.name


def test_truncated_safetensors(capsys: pytest.CaptureFixture[str]) -> None:
    start = "cut.safetensors: not a safetensors file, or a damaged one: Error while deserializing header: "
    for count in (0, 5):
        assert said(capsys, "--weights", cut("good.safetensors", count)) == start + "header too small"
    for count in (-2000, -1):
        assert said(capsys, "--weights", cut("good.safetensors", count)) == (
            start + "incomplete metadata, file not fully covered"
        )
    save_file({"x": torch.zeros(2)}, "x.safetensors")
    assert said(capsys, "--weights", "x.safetensors") == (
        "x.safetensors: a safetensors file, but not one of pydet: it does not say what network it is for"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"tree": 5},
        {"class_names": [1, 2, 3]},
        {"weights_header": [0, 2]},
        {"weights_header": ["0", 2, 5, 0]},
        {"weights_header": [0, 2, 5, -1]},
        {"weights_header": [2**31, 2, 5, 0]},
        {"model": 5},
    ],
    ids=str,
)
def test_metadata_of_the_wrong_kind(capsys: pytest.CaptureFixture[str], change: dict[str, object]) -> None:
    with safe_open("good.safetensors", framework="pt") as file:
        metadata = json.loads(file.metadata()["pydet"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    save_file(tensors, "x.safetensors", {"pydet": json.dumps(metadata)})
    assert main(["detect", DOG, "--no-pictures", "--weights", "x.safetensors"]) == 0
    capsys.readouterr()
    save_file(tensors, "x.safetensors", {"pydet": json.dumps(metadata | change)})
    assert said(capsys, "--weights", "x.safetensors") == (
        "x.safetensors: a safetensors file, but not one of pydet: it does not say what network it is for"
    )


@pytest.mark.parametrize(
    ("name", "option"),
    [("ssd300", "width"), ("retinanet-resnet50-v2", "width"), ("retinanet-resnet50", "shortest")],
)
def test_options_of_nothing(name: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    network = models.MODELS[name].build(["none", "a"], width=1)
    network.options = {"width": 1, option: 0}
    models.save_checkpoint(network, "x.safetensors")
    kind = type(network).__name__
    assert said(capsys, "--weights", "x.safetensors") == f"x.safetensors: {kind}: {option} must be at least 1, got 0"


def test_truncated_weights(capsys: pytest.CaptureFixture[str]) -> None:
    for count in (0, 10):
        assert said(capsys, "--cfg", "good.cfg", "--weights", cut("good.weights", count)) == (
            "cut.weights: not a Darknet weights file: it ends inside of the header of 16 or 20 bytes"
        )
    assert said(capsys, "--cfg", "good.cfg", "--weights", cut("good.weights", -1)) == (
        "cut.weights: too short: layer 2 [convolutional] needs 198 numbers, 197.75 are left. The network takes 1,054 "
        f"numbers (4,236 bytes), the file has 4,235 bytes: {NETWORK_OF_ANOTHER}"
    )
    Path("long.weights").write_bytes(Path("good.weights").read_bytes() + bytes(4))
    assert said(capsys, "--cfg", "good.cfg", "--weights", "long.weights") == (
        "long.weights: too long: 1 numbers are left after layer 2 [convolutional]. The network takes 1,054 numbers "
        f"(4,236 bytes), the file has 4,240 bytes: {NETWORK_OF_ANOTHER}"
    )


def test_truncated_pth(capsys: pytest.CaptureFixture[str]) -> None:
    start = "cut.pth: not a checkpoint of PyTorch, or a damaged one: "
    assert said(capsys, "--model", "ssd300", "--weights", cut("good.pth", 0)) == start + "EOFError"
    for count in (100, 5000, -1):
        message = said(capsys, "--model", "ssd300", "--weights", cut("good.pth", count))
        assert message.startswith(start)  # the rest are torch's words, which differ by version and place of the cut
        assert len(message) > len(start)


def test_a_model_and_what_says_itself_that_it_is_another(capsys: pytest.CaptureFixture[str]) -> None:
    embedded = str(models.ASSETS / "yolov3-tiny.safetensors")
    assert main(["detect", DOG, "--no-pictures", "--model", "yolov3-tiny", "--weights", embedded]) == 0
    capsys.readouterr()
    for name in ("yolov3", "ssd300"):
        assert said(capsys, "--model", name, "--weights", embedded) == f"{embedded}: for yolov3-tiny, not for {name}"
    assert said(capsys, "--model", "yolov3-tiny", "--weights", "good.safetensors") == (
        "good.safetensors: for a network that has no name, not for yolov3-tiny"
    )
    models.save_checkpoint(models.MODELS["ssd300"].build(["none", "a"], width=1), "ssd.safetensors")
    for name in ("yolov3-tiny", "ssd512"):
        assert said(capsys, "--model", name, "--weights", "ssd.safetensors") == (
            f"ssd.safetensors: for ssd300, not for {name}"
        )
    assert said(capsys, "--model", "yolov9", "--weights", embedded).startswith("load: unknown model 'yolov9'; known")


def test_a_model_and_a_cfg(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["detect", DOG, "--model", "yolov3", "--cfg", "good.cfg", "--weights", "good.weights"])
    assert "error: argument --cfg: not allowed with argument --model" in capsys.readouterr().err
    with pytest.raises(models.WeightsError, match=r"^good\.cfg: for a network that has no name, not for yolov3$"):
        models.load("yolov3", cfg="good.cfg", weights="good.weights")
    Path("v2.cfg").write_text(format_cfg(models.MODELS["yolov2-voc"].sections()))
    with pytest.raises(models.WeightsError, match=r"^good\.weights: too short"):  # its layers are those of YOLOv2
        models.load("yolov2", cfg="v2.cfg", weights="good.weights")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_folder_for_a_checkpoint(suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(f"folder{suffix}").mkdir()
    options = ["--weights", f"folder{suffix}", *(["--model", "ssd300"] if suffix == ".pth" else [])]
    assert said(capsys, *options) == f"folder{suffix}: is a folder, not a file"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="whoever may do all may read all")
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_checkpoint_that_may_not_be_read(suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(f"good{suffix}").chmod(0)
    options = ["--weights", f"good{suffix}", *(["--model", "ssd300"] if suffix == ".pth" else [])]
    assert said(capsys, *options) == f"good{suffix}: Permission denied"


def test_an_empty_file_of_names(capsys: pytest.CaptureFixture[str]) -> None:
    Path("no.names").write_text("\n\n")
    for options in (["--model", "yolov3", "--weights", "good.weights"], ["--weights", "good.safetensors"]):
        assert said(capsys, *options, "--names", "no.names") == "no.names: no class names in it"


def test_checkpoints_of_another_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "--model", "yolov3-tiny", "--weights", "good.weights") == (
        "good.weights: too short: layer 2 [convolutional] needs 4,736 numbers, 558 are left. The network takes "
        f"8,858,734 numbers (35,434,956 bytes), the file has 4,236 bytes: {NETWORK_OF_ANOTHER}"
    )
    assert said(capsys, "--model", "ssd300", "--weights", "good.pth") == (
        "good.pth: backbone.scale_weight is missing; the model is for another network"
    )
    assert said(capsys, "--model", "retinanet-resnet50", "--weights", "good.pth") == (
        "good.pth: backbone.body.conv1.weight is missing; the model is for another network"
    )
    assert said(capsys, "--weights", "good.pth") == (
        "load: good.pth: yolov3-tiny has Darknet's weights, not a .pth file"
    )
    assert said(capsys, "--model", "ssd300", "--weights", "good.weights") == (
        "load: good.weights: ssd300 has torchvision's weights, not a .weights file"
    )
    torch.save({"model": torch.load("good.pth", weights_only=True)}, "nested.pth")
    assert said(capsys, "--model", "ssd300", "--weights", "nested.pth") == (
        "nested.pth: must be a state dict, names and tensors, as torchvision publishes"
    )


class Evil:
    """Unpickled, it makes a folder."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


def test_the_evil_ones_are_evil() -> None:
    pickle.loads(pickle.dumps(Evil()))
    assert Path("ran").is_dir()


def test_pickles_that_run_code(capsys: pytest.CaptureFixture[str]) -> None:
    name = f"{os.mkdir.__module__}.mkdir"
    refusal = f"not a checkpoint of tensors only: to load it would run {name}, which was not done"
    torch.save({"backbone": Evil()}, "zip.pth")
    torch.save({"backbone": Evil()}, "old.pth", _use_new_zipfile_serialization=False)
    Path("plain.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    Path("newer.pth").write_bytes(pickle.dumps(Evil(), protocol=4))
    for path in ("zip.pth", "old.pth", "plain.pt"):
        assert said(capsys, "--model", "ssd300", "--weights", path) == f"{path}: {refusal}"
    assert said(capsys, "--model", "ssd300", "--weights", "newer.pth").startswith(
        "newer.pth: not a checkpoint of PyTorch, or a damaged one: Unsupported operand"
    )
    for suffix, options, refusal in (
        (".safetensors", [], "not a safetensors file, or a damaged one: "),
        (".weights", ["--cfg", "good.cfg"], "too short: layer 0 [convolutional] needs 248 numbers, "),
    ):
        Path("evil" + suffix).write_bytes(pickle.dumps(Evil()))
        assert said(capsys, "--weights", "evil" + suffix, *options).startswith(f"evil{suffix}: {refusal}")
    assert not Path("ran").exists()
