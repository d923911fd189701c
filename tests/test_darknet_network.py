"""Our networks against recordings of the real Darknet (its CPU build, so with its CPU batch normalisation)."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import shared_path
from PIL import Image
from torch import Tensor

from pydet import ops
from pydet.letterbox import letterbox, placement, stretch
from pydet.models.darknet import Darknet, Section, load_weights, parse_cfg, read_cfg
from pydet.models.darknet.base import Before
from pydet.models.darknet.heads import Grid, Head, Region, Yolo
from pydet.models.darknet.layers import Shortcut
from pydet.models.darknet.tree import TreeWalk
from pydet.wordtree import WordTree

DATA = Path(__file__).parent / "data"
CFG_FOLDER = Path("/usr/share/darknet/cfg")
DOG = Path("/usr/share/darknet/data/dog.jpg")
# "odd": an input that the strides do not divide, so that maps are rounded up.
UNITS = ["activations", "conv", "crop", "fc", "fcsoft", "odd", "pool", "region", "regionlog", "route", "tree", "yolo"]
HEADS = ["fc", "fcsoft", "odd", "region", "regionlog", "tree", "yolo"]

Recording = dict[str, np.ndarray]


def read_recording(path: Path) -> tuple[Recording, dict[str, Any]]:
    with np.load(path, allow_pickle=False) as file:
        recording = dict(file)
    return recording, json.loads(str(recording["meta"]))


def unit_network(name: str, folder: Path, **options: Any) -> tuple[Darknet, Recording, dict[str, Any]]:
    recording, meta = read_recording(DATA / f"unit_{name}.npz")
    (folder / "unit.weights").write_bytes(recording["weights"].tobytes())
    if name == "tree":
        options["tree"] = WordTree.parse(str(recording["tree"]))
    network = Darknet(parse_cfg(str(recording["cfg"]), f"unit_{name}.cfg"), **options).eval()
    load_weights(network, folder / "unit.weights")
    return network, recording, meta


@torch.no_grad()
def all_outputs(network: Darknet, x: Tensor) -> list[Tensor]:
    """The output of every layer, those that find objects activated as Darknet's are."""
    outputs: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda *call: outputs.append(call[2].clone())) for layer in network.layers]
    network.forward_features(x)
    for hook in hooks:
        hook.remove()
    return [
        activated(output, layer) if isinstance(layer, Head) else output
        for layer, output in zip(network.layers, outputs, strict=True)
    ]


def activated(raw: Tensor, layer: Head) -> Tensor:
    """What Darknet leaves in the layer's output."""
    if isinstance(layer, Grid):
        flat = raw.flatten(1).clone()
        classes = flat[:, : layer.side**2 * layer.num_classes].unflatten(1, (-1, layer.num_classes))
        if layer.classes == "softmax":
            classes.copy_(classes.softmax(dim=2))
        return flat
    cells = raw.unflatten(1, (-1, 5 + layer.num_classes)).clone()
    for entry in (0, 1, 4):
        cells[:, :, entry] = torch.sigmoid(cells[:, :, entry])
    classes = cells[:, :, 5:]
    if isinstance(layer, Region) and layer.tree is not None:
        for first, count in layer.tree.groups():
            group = classes[:, :, first : first + count]
            group.copy_(group.softmax(dim=2))
    elif isinstance(layer, Region) and layer.classes == "softmax":
        classes.copy_(classes.softmax(dim=2))
    else:
        classes.copy_(torch.sigmoid(classes))
    return cells.flatten(1, 2)


def assert_same_detections(
    network: Darknet, features: list[Tensor], recording: Recording, name: str, meta: dict[str, Any]
) -> None:
    """Boxes, objectness and probabilities before NMS, and who survives either of Darknet's two kinds of NMS."""
    threshold = float(np.float32(meta["thresh"]))
    boxes, objectness, scores = (part[0] for part in network.decode(features))
    # [region] and [detection] give every box, [yolo] only those whose objectness is enough.
    every = not isinstance(network.heads[0], Yolo)
    rows = torch.arange(len(boxes)) if every else torch.nonzero(objectness > threshold)[:, 0]
    boxes, objectness, scores = boxes[rows], objectness[rows], scores[rows]
    if isinstance(network.heads[0], Region):
        objectness = objectness * (objectness > threshold)
        # [region] numbers its boxes anchor by anchor, ours are cell by cell.
        order = torch.arange(len(boxes)).reshape(-1, len(network.heads[0].anchors)).T.flatten()
        boxes, objectness, scores = boxes[order], objectness[order], scores[order]
    if network.tree is None:
        pairs = torch.nonzero(scores > threshold)
        values = scores[pairs[:, 0], pairs[:, 1]]
    else:
        conditional = ops.tree_softmax(scores, network.tree.tensor())
        walk = TreeWalk("darknet", meta["hier"], meta.get("map"))
        picks, labels, values = walk.classify(objectness, conditional, network.tree, threshold)
        pairs = torch.stack([picks, labels], dim=1)

    size = (meta["h"], meta["w"])
    corners = placement([size], network.image_size, network.stretches).to_picture(boxes[None])[0]
    relative = meta["relative"] and not network.stretches  # [detection] does not know relative boxes
    if relative:
        corners = corners / torch.tensor([size[1], size[0]] * 2)
    centres = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1)
    close(objectness, recording[f"{name}_obj"], atol=2e-4)
    np.testing.assert_array_equal(pairs, recording[f"{name}_pidx"])
    close(values, recording[f"{name}_pval"], atol=2e-4)
    close(centres, recording[f"{name}_box"], rtol=1e-4, atol=1e-4 if relative else 1e-4 * max(size))

    kept = ops.batched_nms(boxes[pairs[:, 0]], values, pairs[:, 1], meta["nms"])
    assert {tuple(pair) for pair in pairs[kept].tolist()} == survivors(recording, f"{name}_nmssort")
    kept_boxes = set(ops.nms(boxes, objectness, meta["nms"]).tolist())
    agnostic = {(row, label) for row, label in pairs.tolist() if row in kept_boxes}
    assert agnostic == survivors(recording, f"{name}_nmsobj")


def survivors(recording: Recording, name: str) -> set[tuple[int, ...]]:
    return {tuple(pair) for pair in recording[f"{name}_pidx"].tolist()}


def close(actual: Tensor, expected: np.ndarray, **tolerance: float) -> None:
    np.testing.assert_allclose(actual.numpy(), expected, **{"rtol": 0, **tolerance})


def recorded(network: Darknet, index: int) -> int:
    """The layer whose recording a layer's output is like: a fused one may have done the max pooling behind it."""
    return index + (getattr(network.layers[index], "pool", None) is not None)


@pytest.mark.parametrize("fused", [False, True], ids=["unfused", "fused"])
@pytest.mark.parametrize("name", UNITS)
def test_every_layer_of_the_unit_networks(name: str, fused: bool, tmp_path: Path) -> None:
    network, recording, meta = unit_network(name, tmp_path, batch_norm="cpu")
    if fused:
        network.fuse()
    outputs = all_outputs(network, torch.from_numpy(recording["input"])[None])
    assert [layer.section.name for layer in network.layers] == [kind for kind, *_ in meta["layers"]]
    for index, output in enumerate(outputs):
        of = recorded(network, index)
        kind, *shape = meta["layers"][of]
        shape = list(output.shape[1:]) if kind == "detection" else shape  # Darknet says 0 x 0 x 0
        assert list(output.shape[1:]) == shape
        close(output.flatten(), recording[f"o{of}"], atol=1e-4)


@pytest.mark.parametrize("unit", HEADS)
def test_unit_detections(unit: str, tmp_path: Path) -> None:
    network, recording, meta = unit_network(unit, tmp_path, batch_norm="cpu")
    with torch.no_grad():
        features = network.forward_features(torch.from_numpy(recording["input"])[None])
    assert sorted(meta["sets"]) == ["A", "B", "C"]
    for name, options in meta["sets"].items():
        assert_same_detections(network, features, recording, name, options)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [None, 0, 1, 3])
def test_max_pool_is_the_loop_of_darknet(size: int, stride: int, padding: int | None) -> None:
    """Windows start at i * stride - padding / 2, whole numbers; what lies outside does not count."""
    extra = "" if padding is None else f"padding={padding}\n"
    pad = size - 1 if padding is None else padding
    for height, width in [(6, 8), (7, 9)]:
        cfg = f"[net]\nheight={height}\nwidth={width}\n[maxpool]\nsize={size}\nstride={stride}\n{extra}"
        x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
        rows, columns = ((n + pad - size) // stride + 1 for n in (height, width))
        expected = torch.full((2, 3, rows, columns), -torch.inf)
        for i in range(rows):
            for j in range(columns):
                top, left = i * stride - pad // 2, j * stride - pad // 2
                window = x[:, :, max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)]
                if window.numel():
                    expected[:, :, i, j] = window.amax(dim=(2, 3))
        for needs_gradient in (True, False):
            x.requires_grad_(needs_gradient)
            assert torch.equal(Darknet(parse_cfg(cfg)).forward_features(x)[0], expected)


SHORTCUTS = {
    "the other is larger": ((2, 4, 6), (3, 8, 12)),
    "the other is smaller": ((3, 8, 12), (2, 4, 6)),
    "the same": ((3, 4, 6), (3, 4, 6)),
}


@pytest.mark.parametrize(("shape", "other"), SHORTCUTS.values(), ids=SHORTCUTS)
def test_shortcut_is_the_loop_of_darknet(shape: tuple[int, ...], other: tuple[int, ...]) -> None:
    """Checked against libdarknet, too, where one map is twice as large as the other."""
    layer = Shortcut(Section("shortcut", {"from": "0"}), Before((3, 8, 12), shapes=[other, shape]))
    assert layer.output_shape(shape, other) == shape
    x, y = torch.randn(1, *shape), torch.randn(1, *other)
    stride, sample = max(other[2] // shape[2], 1), max(shape[2] // other[2], 1)
    expected = x.clone()
    for c in range(min(shape[0], other[0])):
        for i in range(min(shape[1], other[1])):
            for j in range(min(shape[2], other[2])):
                expected[0, c, i * sample, j * sample] += y[0, c, i * stride, j * stride]
    torch.testing.assert_close(layer(x, y), expected, rtol=0, atol=0)


def test_the_batch_norm_formulas_differ(tmp_path: Path) -> None:
    """Small but visible: the recording cannot be matched with the wrong one, and both fold to themselves."""
    recording, _ = read_recording(DATA / "unit_conv.npz")
    x = torch.from_numpy(recording["input"])[None]
    results = {}
    for formula in ("cpu", "cuda"):
        network, _, _ = unit_network("conv", tmp_path, batch_norm=formula)
        results[formula] = all_outputs(network, x)[0]
        torch.testing.assert_close(all_outputs(network.fuse(), x)[0], results[formula], rtol=0, atol=2e-6)
    norm = unit_network("conv", tmp_path)[0].layers[0]
    mean, var = norm.norm.running_mean[:, None, None], norm.norm.running_var[:, None, None]
    gamma, beta = norm.norm.weight[:, None, None], norm.norm.bias[:, None, None]
    with torch.no_grad():
        raw = norm.conv(x)
    for formula, deviation in {"cpu": var.sqrt() + 1e-6, "cuda": (var + 1e-5).sqrt()}.items():
        expected = (raw - mean) / deviation * gamma + beta
        expected = torch.where(expected > 0, expected, 0.1 * expected)
        torch.testing.assert_close(results[formula], expected, rtol=0, atol=2e-6)
    assert (results["cpu"] - results["cuda"]).abs().max() > 5e-6


def darknet_weights(name: str, folder: Path) -> Path:
    """The weights that the recordings were made with."""
    if not CFG_FOLDER.is_dir():
        pytest.skip("needs Debian's darknet package for its cfgs, which is not installed")
    script = shared_path("conformance") / "darknet_weights.py"
    spec = importlib.util.spec_from_file_location("darknet_weights", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path = folder / f"{name}.weights"
    header = "64" if name.startswith("yolov3") else "32"  # as the author's files: older ones have a smaller counter
    module.write_weights(CFG_FOLDER / f"{name}.cfg", path, header=header, gains=module.load_gains(name))
    return path


# Recordings of whole networks on one picture: the layer that finds objects and the map before it, by index.
WHOLE = {"yolov1-tiny": [15], "yolov2-tiny-voc": [15], "yolo9000": [24], "yolov3-tiny": [16, 23]}
TOLERANCE = {"yolo9000": 1e-3}  # of logits: the larger the network, the more is summed in another order


@pytest.fixture(scope="module", params=WHOLE)
def on_dog(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Darknet, Tensor, Recording, dict[str, Any]]:
    name = request.param
    recording, meta = read_recording(shared_path("conformance") / "golden" / f"{name}__dog.npz")
    path = darknet_weights(name, tmp_path_factory.mktemp("weights"))
    with torch.device("meta"):
        network = Darknet(read_cfg(CFG_FOLDER / f"{name}.cfg"), batch_norm="cpu").eval()
    load_weights(network, path)
    path.unlink()
    pixels = torch.from_numpy(np.array(Image.open(DOG).convert("RGB"))).permute(2, 0, 1)
    assert tuple(pixels.shape[1:]) == (meta["ih"], meta["iw"])
    assert network.stretches == (meta["resize"] == "stretch")
    fit = stretch if network.stretches else letterbox
    return name, network, fit(pixels, network.image_size), recording, meta


def test_on_dog_input(on_dog: tuple) -> None:
    _, _, x, recording, _ = on_dog
    close(x.flatten()[torch.from_numpy(recording["input_idx"])], recording["input"], atol=1e-6)


@pytest.mark.parametrize("fused", [False, True], ids=["unfused", "fused"])
def test_on_dog_layers(on_dog: tuple, fused: bool) -> None:
    name, network, x, recording, meta = on_dog
    if fused:
        network = copy.deepcopy(network).fuse()
    outputs = all_outputs(network, x[None])
    tolerance = TOLERANCE.get(name, 1e-4)
    assert [layer.section.name for layer in network.layers] == [layer["type"] for layer in meta["layers"]]
    for index, output in enumerate(outputs):
        of = recorded(network, index)
        layer = meta["layers"][of]
        shape = layer["out"] if layer["type"] != "detection" else list(output.shape[1:])
        assert list(output.shape[1:]) == shape
        if name == "yolo9000" and layer["type"] == "region":
            continue  # Debian's own output is wrong here; what is right is compared below
        flat = output.flatten()
        samples = np.arange(64) * 2654435761 % layer["n"]  # as the recorder chose them
        close(flat[torch.from_numpy(samples)], recording["layer_samples"][of], atol=tolerance, rtol=1e-4)
        stats = torch.stack([flat.mean(), flat.std(), flat.min(), flat.max()])
        close(stats, recording["layer_stats"][of], atol=2 * tolerance, rtol=1e-4)
    for index in WHOLE[name]:
        key = f"det{index}"
        where = torch.from_numpy(recording[f"{key}_idx"]) if f"{key}_idx" in recording else slice(None)
        close(outputs[index].flatten()[where], recording[f"{key}_out"], atol=2e-4, rtol=1e-4)
        close(outputs[index - 1].flatten()[where], recording[f"{key}_logits"], atol=tolerance)


def test_on_dog_detections(on_dog: tuple) -> None:
    _, network, x, recording, meta = on_dog
    with torch.no_grad():
        features = network.forward_features(x[None])
    for name, options in meta["sets"].items():
        assert_same_detections(network, features, recording, name, options)
