"""`pydet models`, `pydet convert` and `pydet detect --explain` as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pydet import models
from pydet.cli import main
from pydet.models import Darknet
from pydet.models.darknet import parse_cfg
from pydet.models.darknet.sections import convolution, net
from pydet.models.yolov2 import head

DOG = Path(__file__).parent.parent / "pydet" / "assets" / "dog.jpg"
TREE = "animal -1\nthing -1\ncat 0\ndog 0\nPersian 2\nSiamese 2\n"
NAMES = "animal\nthing\ncat\ndog\nPersian cat\nSiamese cat\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_models_lists_every_detector(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["model", *models.MODELS]
    (tiny,) = (line for line in lines if line.startswith("yolov3-tiny"))
    assert "416 x 416" in tiny
    assert "come with pydet" in tiny
    assert any("yolo9000.weights (195,230,020 bytes) at https://pjreddie.com" in line for line in lines)


def test_models_tells_about_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "ssd300"]) == 0
    output = capsys.readouterr().out
    assert "Liu et al. 2016" in output
    assert "b556d3b4" in output
    assert main(["models", "yolov9"]) == 2
    assert "unknown model 'yolov9'" in capsys.readouterr().err
    assert main(["models", "--summary"]) == 2
    assert "--summary needs the NAME of a model" in capsys.readouterr().err


def test_summary_of_a_darknet(capsys: pytest.CaptureFixture[str]) -> None:
    """The paper's table of Darknet-53 at 416 says 65.9 billion operations for YOLOv3; the author's 5.56 for tiny."""
    assert main(["models", "yolov3-tiny", "--summary"]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = lines[1].split()
    assert first[:2] == ["layers.0", "convolutional"]
    assert "16 x 416 x 416" in lines[1]
    # 3 * 3 * 3 * 16 weights and four numbers of batch normalisation for each filter; 2 operations a weight and pixel.
    assert first[-2:] == ["496", str(round(2 * 432 * 416 * 416 / 1e6))]
    assert len([line for line in lines if line.startswith("layers.")]) == 24
    # The author's file has 8,858,734 numbers, two of which for each of 3,184 filters are means and variances.
    assert "8,852,366 parameters (8,858,734 numbers with" in lines[-1]
    assert "5.56 GFLOP" in lines[-1]


def test_summary_of_ssd(capsys: pytest.CaptureFixture[str]) -> None:
    """torchvision counts 34.858 billion multiplications with an addition each."""
    assert main(["models", "ssd300", "--summary"]) == 0
    output = capsys.readouterr().out
    assert "35,641,826 parameters, 69.72 GFLOP" in output
    assert "512 x 38 x 38" in output


def small_yolo9000(folder: Path) -> None:
    """A network of one convolution whose classes are a tree, as a user has it on disk."""
    from pydet.models.darknet import format_cfg

    sections = [net((64, 64)), convolution(8, 3, 4), convolution(8, 3, 8), *head(6, ((1, 1), (2, 1)), 1, ".2")]
    sections[-1].options["tree"] = "small.tree"
    (folder / "small.tree").write_text(TREE)
    (folder / "small.names").write_text(NAMES)
    (folder / "small.cfg").write_text(format_cfg(sections))
    torch.manual_seed(0)
    models.save_weights(Darknet(parse_cfg((folder / "small.cfg").read_text())), folder / "small.weights")


def test_explain_shows_the_way_to_each_class(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_yolo9000(folder)
    own = ["--cfg", "small.cfg", "--weights", "small.weights", "--names", "small.names", "--no-pictures"]
    assert main(["detect", str(DOG), *own, "--threshold", "0.3", "--explain"]) == 0
    output = capsys.readouterr().out
    ways = [line.rsplit("  ", 1)[0] for line in output.splitlines() if line.startswith(("animal", "thing"))]
    assert ways
    cats = {"animal > cat", "animal > cat > Persian cat", "animal > cat > Siamese cat"}
    assert set(ways) <= {"animal", "thing", "animal > dog", *cats}
    assert main(["detect", str(DOG), "--no-pictures", "--explain"]) == 2
    assert "--explain needs a model whose classes are a tree" in capsys.readouterr().err


def test_convert_there_and_back(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_yolo9000(folder)
    assert main(["convert", "small.weights", "a.safetensors", "--cfg", "small.cfg", "--names", "small.names"]) == 0
    assert "made of small.weights sha256:" in capsys.readouterr().out
    assert main(["convert", "a.safetensors", "b.weights"]) == 0
    assert (folder / "b.weights").read_bytes() == (folder / "small.weights").read_bytes()
    assert main(["convert", "small.weights", "half.safetensors", "--cfg", "small.cfg", "--half"]) == 0
    assert (folder / "half.safetensors").stat().st_size < (folder / "a.safetensors").stat().st_size


def test_convert_a_checkpoint_of_torchvision(folder: Path) -> None:
    network = models.MODELS["ssd300"].build()
    torch.save(network.state_dict(), folder / "a.pth")
    assert main(["convert", "a.pth", "a.safetensors", "--model", "ssd300"]) == 0
    loaded = models.load(weights=folder / "a.safetensors", fuse=False)
    assert all(torch.equal(t, loaded.state_dict()[name]) for name, t in network.state_dict().items())


def test_export_does_not_take_the_weights_for_the_file_to_write(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "best.safetensors").write_bytes(b"mine")
    assert main(["export", "best.safetensors"]) == 2
    assert "export: the output must be an .onnx file, got 'best.safetensors'" in capsys.readouterr().err
    assert (folder / "best.safetensors").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["small.weights", "a.onnx", "--cfg", "small.cfg"],
            "must be a .safetensors or .weights file, got 'a.onnx'",
        ),
        (
            ["small.weights", "small.weights", "--cfg", "small.cfg"],
            "cannot write small.weights: it is one of",
        ),
        (["small.weights", "a.safetensors"], "small.weights: too short: layer"),
        (["nothing.weights", "a.safetensors", "--cfg", "small.cfg"], "nothing.weights: No such file or directory"),
        (["small.weights", "a.safetensors", "--model", "yolov9"], "load: unknown model 'yolov9'; known ones are"),
        (["small.weights", "a.weights", "--cfg", "small.cfg", "--half"], "--half is for .safetensors, Darknet's"),
    ],
)
def test_convert_says_what_is_wrong(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_yolo9000(folder)
    before = (folder / "small.weights").read_bytes()
    assert main(["convert", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert (folder / "small.weights").read_bytes() == before
    assert not (folder / "a.safetensors").exists()
