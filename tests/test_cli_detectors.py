"""`pydet detect`, `models --summary` and `--explain` with every kind of detector at its published size."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pydet import models
from pydet.cli import main
from pydet.models import Darknet
from pydet.models.registry import ASSETS, MODELS, DarknetDefinition, read_lines
from pydet.wordtree import WordTree

DOG = ASSETS / "dog.jpg"
SIZES = {"dog.jpg": (768, 576), "tall.png": (90, 200), "tiny.png": (9, 7)}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With pictures of three sizes in `pictures`."""
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    for name, size in SIZES.items():
        Image.open(DOG).resize(size).save(Path("pictures", name))
    return tmp_path


def random_weights(name: str) -> Path:
    """A file as its author publishes them. Numbers are such that there is something to find."""
    torch.manual_seed(0)
    network = MODELS[name].build()
    for key, parameter in network.named_parameters():
        if isinstance(network, Darknet) and parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
        elif key.endswith("bbox_reg.weight"):
            torch.nn.init.normal_(parameter, std=0.003)
    path = Path(name + (".weights" if isinstance(network, Darknet) else ".pth"))
    if isinstance(network, Darknet):
        models.save_weights(network, path)
    else:
        torch.save(network.state_dict(), path)
    return path


def detections(*options: str) -> dict[str, list[dict[str, str]]]:
    """The rows of `--csv` by the name of the picture."""
    assert main(["detect", *options, "--no-pictures", "--csv", "found.csv"]) == 0
    found: dict[str, list[dict[str, str]]] = {name: [] for name in SIZES}
    with Path("found.csv").open() as file:
        for row in csv.DictReader(file):
            found[Path(row["file"]).name].append(row)
    return found


@pytest.mark.parametrize(
    ("name", "threshold"),
    [
        ("yolov1-tiny", "0.99"),
        ("yolov2-tiny-voc", "0.1"),
        ("yolov3-tiny", "0.4"),
        ("ssd300", "0.012"),
        pytest.param("retinanet-resnet50", "0.01", marks=pytest.mark.slow),
        pytest.param("retinanet-resnet50-v2", "0.01", marks=pytest.mark.slow),
        pytest.param("yolov3-spp", "0.6", marks=pytest.mark.slow),
    ],
)
def test_pictures_of_different_sizes_in_one_batch(name: str, threshold: str) -> None:
    """The same as one by one, but for RetinaNet, whose pictures get the margin of the largest of the batch."""
    model = ["--model", name, "--weights", str(random_weights(name)), "--threshold", threshold]
    found = detections("pictures", *model, "--batch-size", "3")
    class_names = MODELS[name].class_names()
    for picture, (width, height) in SIZES.items():
        assert found[picture], picture
        for row in found[picture]:
            x1, y1, x2, y2 = (float(row[side]) for side in ("x1", "y1", "x2", "y2"))
            assert 0 <= x1 <= x2 <= width
            assert 0 <= y1 <= y2 <= height
            assert row["class"] == class_names[int(row["label"])]
            assert float(threshold) < float(row["score"])
            assert row["class"] != "__background__" or name.startswith("retinanet")
    if not name.startswith("retinanet"):
        alone = detections("pictures", *model, "--batch-size", "1")
        for picture in SIZES:
            scores, expected = ([float(row["score"]) for row in rows[picture]] for rows in (found, alone))
            assert scores == pytest.approx(expected, abs=1e-4)


def test_explain_shows_the_chain_of_a_persian_cat(capsys: pytest.CaptureFixture[str]) -> None:
    """YOLO9000 itself, with numbers that see one in every cell of every picture."""
    names = read_lines(ASSETS / "9k.names")
    tree = WordTree.read("9k.tree")
    network = MODELS["yolo9000"].build()
    persian = names.index("Persian cat")
    assert tree.ids[persian] == "n02123394"  # WordNet's
    with torch.no_grad():
        last: Any = network.layers[-2]  # type: ignore[index]
        last.conv.weight.zero_()
        bias = last.conv.bias.zero_().view(3, 5 + len(names))
        bias[:, 4] = torch.tensor([-9.0, 4.0, -9.0])  # objectness of the three anchors
        bias[:, [5 + node for node in tree.path(persian)]] = 20
    models.save_weights(network, "y.weights")  # type: ignore[arg-type]
    assert Path("y.weights").stat().st_size == 195_230_020 + 4  # the author's files have a shorter counter
    model = ["--model", "yolo9000", "--weights", "y.weights"]
    assert main(["detect", "pictures", *model, "--no-pictures", "--iou-threshold", "0", "--explain"]) == 0
    output = capsys.readouterr().out
    chain = "object > whole > living thing > organism > animal > chordate > vertebrate > mammal > placental > "
    chain += "carnivore > feline > cat > domestic cat > Persian cat"
    chains = {line.rsplit("  ", 1)[0] for line in output.splitlines() if " > " in line}
    assert chains == {chain}
    plain = [line for line in output.splitlines() if line.startswith("  Persian cat")]
    assert len(plain) >= len(SIZES)
    assert {line.split()[2] for line in plain} == {"0.98"}  # the sigmoid of 4


@pytest.mark.parametrize("name", MODELS)
def test_summary_counts_the_numbers_of_the_published_file(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", name, "--summary"]) == 0
    *table, _, title, total = capsys.readouterr().out.splitlines()
    definition = MODELS[name]
    assert title == f"{name}: {definition.paper}"
    assert f"{len(definition.class_names()):,} labels" in total
    columns = [table[0].index(column) for column in ("output", "numbers", "MFLOP")]
    numbers = [line[columns[1] : columns[2]].strip().replace(",", "") for line in table[1:]]
    stored = sum(int(number or 0) for number in numbers)
    assert all(" x " in line[columns[0] :] for line in table[1:])
    if not isinstance(definition, DarknetDefinition):
        assert stored > 34_000_000
    elif definition.weights is not None:
        header = 20 if name.startswith("yolov3") else 16  # bytes
        assert 4 * stored + header == definition.weights.size
