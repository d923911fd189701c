"""The networks of Darknet's author: ours are his cfgs, section by section, and have as many numbers as his weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pydet import models
from pydet.detector import Detector
from pydet.models import Darknet
from pydet.models.darknet import read_cfg
from pydet.models.registry import MODELS, DarknetDefinition

CFG_FOLDER = Path("/usr/share/darknet/cfg")
DEFINITIONS = [d for d in MODELS.values() if isinstance(d, DarknetDefinition)]
PUBLISHED = [d for d in DEFINITIONS if d.weights is not None]


def test_all_official_networks_are_there() -> None:
    assert len(PUBLISHED) == 10
    assert {d.name for d in DEFINITIONS} - {d.name for d in PUBLISHED} == {"yolov1-paper"}


@pytest.mark.parametrize("definition", PUBLISHED, ids=lambda d: d.name)
def test_definitions_are_the_authors_cfgs(definition: DarknetDefinition) -> None:
    if not CFG_FOLDER.is_dir():
        pytest.skip("needs Debian's darknet package for its cfgs, which is not installed")
    theirs, ours = read_cfg(CFG_FOLDER / f"{definition.name}.cfg"), definition.sections()
    for key in ("width", "height", "channels"):
        assert ours[0].integer(key) == theirs[0].integer(key)
    if definition.name == "yolov3-tiny":  # see TINY_MASKS
        assert theirs[-1].options["mask"] == "0,1,2"
        theirs[-1].options["mask"] = "1,2,3"
    for key in ("tree", "map"):  # Debian says where its files are
        if key in theirs[-1].options:
            theirs[-1].options[key] = Path(theirs[-1].options[key]).name
    assert ours[1:] == theirs[1:]


@pytest.mark.parametrize("definition", PUBLISHED, ids=lambda d: d.name)
def test_as_many_numbers_as_in_the_published_weights(definition: DarknetDefinition) -> None:
    with torch.device("meta"):
        network = definition.build()
    stored = sum(t.numel() for layer in network.layers for t in layer.darknet_tensors().values())
    header = 20 if definition.name.startswith("yolov3") else 16
    assert definition.weights is not None
    assert 4 * stored + header == definition.weights.size


def test_the_network_of_the_paper() -> None:
    """Section 2.1: 24 convolutions, two connected layers, a 7 x 7 x 30 tensor."""
    with torch.device("meta"):
        network = MODELS["yolov1-paper"].build()
        assert isinstance(network, Darknet)
        (features,) = network.forward_features(torch.zeros(1, 3, 448, 448))
    names = [section.name for section in network.sections]
    assert names.count("convolutional") == 24
    assert names.count("connected") == 2
    assert features.numel() == 7 * 7 * 30


@pytest.mark.parametrize("name", [d.name for d in PUBLISHED if d.name not in ("yolov1", "yolo9000")])
@torch.inference_mode()
def test_pictures_of_any_size_go_in_and_boxes_in_their_pixels_come_out(name: str) -> None:
    torch.manual_seed(0)
    size = None if name == "yolov1-tiny" else (96, 128)
    network = MODELS[name].build(["a", "b", "c"], size).eval()
    images = [torch.randint(0, 256, (3, 60, 90), dtype=torch.uint8), torch.rand(3, 200, 100)]
    _, placed = network.preprocess(images)
    height, width = network.image_size
    seen = placed.to_picture(torch.tensor([0.0, 0, width, height]).expand(2, 1, 4))  # of the pictures, margins included
    detections = network(images, score_threshold=0.0 if name == "yolov1-tiny" else 0.0001, iou_threshold=0.45)
    for found, (limits,) in zip(detections, seen, strict=True):
        assert len(found["boxes"]) > 0
        assert found["labels"].max() < 3
        centres = (found["boxes"][:, :2] + found["boxes"][:, 2:]) / 2
        inside = (centres > limits[:2] - 0.5) & (centres < limits[2:] + 0.5)
        assert inside.all() or name == "yolov1-tiny"  # whose network may put a centre anywhere


def test_yolo9000_finds_nodes_of_its_tree(tmp_path: Path) -> None:
    """With a small tree: detections are nodes, the checkpoint carries the tree."""
    from pydet.models.yolov2 import yolo9000
    from pydet.wordtree import WordTree

    tree = WordTree.parse("animal -1\nthing -1\ncat 0\ndog 0\nPersian 2\nSiamese 2\n")
    torch.manual_seed(0)
    network = Darknet(
        yolo9000(num_classes=6), (96, 96), ["animal", "thing", "cat", "dog", "Persian", "Siamese"], tree=tree
    )
    network.eval().requires_grad_(False)
    image = torch.rand(3, 96, 96)
    for rule in ("darknet", "absolute"):
        network.walk.rule, network.walk.threshold = rule, 0.2
        (found,) = network([image], score_threshold=0.01, iou_threshold=0.45)
        assert len(found["boxes"]) > 5
        assert (found["scores"][:-1] >= found["scores"][1:]).all()
        assert 0 <= found["labels"].min() <= found["labels"].max() < 6
    network.walk.nodes = [5, 4]
    (found,) = network([image], score_threshold=0.001, iou_threshold=0.45)
    assert set(found["labels"].tolist()) == {0, 1}
    detections = Detector(network).detect(image, threshold=0.001)
    assert {(one.label, one.name) for one in detections} == {(0, "Siamese"), (1, "Persian")}
    models.save_checkpoint(network, tmp_path / "a.safetensors")
    again = models.load(weights=tmp_path / "a.safetensors", fuse=False)
    assert isinstance(again, Darknet)
    assert again.tree == tree
