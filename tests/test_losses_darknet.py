"""The losses of the four YOLOs: gradients beside those that the real Darknet recorded, layer by layer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pydet.losses import Targets
from pydet.models import Darknet
from pydet.models.darknet.cfg import Section, parse_cfg
from pydet.wordtree import WordTree

DATA = Path(__file__).parent / "data"
RECORDINGS = sorted(path.stem for path in DATA.glob("loss_*.npz"))
ONLY_CLASS = 100_000  # Darknet: so large a centre means that the image has a class and no boxes


def read(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def objects(recording: dict[str, np.ndarray]) -> list[np.ndarray]:
    """[g, 5] x, y, w, h in parts of the picture and the class, of each image."""
    if str(recording["kind"]) != "detection":
        # A list ends where x is 0.
        return [image[: int(np.argmax(np.append(image[:, 0], 0) == 0))] for image in recording["truth"]]
    images = []
    for grid in recording["truth"].astype(np.float64):  # [S * S, 1 + C + 4], centres inside of the cell
        side = round(len(grid) ** 0.5)
        cells = np.nonzero(grid[:, 0])[0]
        places, labels = grid[cells, -4:], grid[cells, 1:-4].argmax(axis=1)
        x, y = (places[:, 0] + cells % side) / side, (places[:, 1] + cells // side) / side
        images.append(np.stack([x, y, places[:, 2], places[:, 3], labels], axis=1))
    return images


def darknet_targets(images: list[np.ndarray], image_size: tuple[int, int], dtype: torch.dtype) -> Targets:
    """Boxes in pixels; an image with an object that is nowhere shows the class of the first such one."""
    only = [next((int(label) for x, *_, label in image if x > ONLY_CLASS), -1) for image in images]
    images = [image[image[:, 0] <= ONLY_CLASS] for image in images]
    rows = torch.from_numpy(np.concatenate(images)).double()
    size = torch.tensor([image_size[1], image_size[0]] * 2)
    centre, half = rows[:, :2], rows[:, 2:4] / 2
    boxes = torch.cat([centre - half, centre + half], dim=1) * size
    counts = torch.tensor([len(image) for image in images])
    labels = torch.tensor(only) if max(only) >= 0 else None
    return Targets(boxes.to(dtype), rows[:, 4].long(), counts, labels)


def network_of(recording: dict[str, np.ndarray], folder: Path) -> Darknet:
    """Of the recording's cfg, whose map and tree are written into the folder."""
    sections = parse_cfg(str(recording["cfg"]))
    options = json.loads(str(next(value for key, value in recording.items() if key.startswith("opts"))))
    if "map" in options:
        (folder / "classes.map").write_text("".join(f"{node}\n" for node in options["map"]))
    for section in sections:
        if "map" in section.options:
            section.options["map"] = str(folder / "classes.map")
    tree = WordTree.parse(str(recording["tree_txt"])) if "tree_txt" in recording else None
    return Darknet(sections, tree=tree)


def recorded_layers(recording: dict[str, np.ndarray], network: Darknet) -> list[tuple[int, Tensor]]:
    """Index of each detection layer and its input, in the shape that our layer takes."""
    layers = []
    for index in recording["layers"].tolist():
        raw = torch.from_numpy(recording[f"logits{index}"])
        head = network.layers[index]
        shape = json.loads(str(recording[f"opts{index}"]))
        is_grid = head.section.name == "detection"
        layers.append((index, raw if is_grid else raw.view(len(raw), -1, shape["h"], shape["w"])))
    return layers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", RECORDINGS)
def test_gradients_are_darknets(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    recording = read(name)
    network = network_of(recording, tmp_path)
    targets = darknet_targets(objects(recording), network.image_size, dtype)
    layers = recorded_layers(recording, network)
    assert layers
    for index, raw in layers:
        raw.requires_grad_()
        terms = network.layers[index].loss(raw, targets, int(recording["seen"]))
        (sum(terms.values()) * len(raw)).backward()
        wanted = -torch.from_numpy(recording[f"delta_logit{index}"])
        assert wanted.abs().max() > 0.1
        torch.testing.assert_close(raw.grad.flatten(1), wanted, rtol=0, atol=5e-6)


def test_all_kinds_were_recorded() -> None:
    assert {str(read(name)["kind"]) for name in RECORDINGS} == {"yolo", "region", "detection"}
    assert len(RECORDINGS) >= 10
    assert isinstance(parse_cfg(str(read(RECORDINGS[0])["cfg"]))[0], Section)
