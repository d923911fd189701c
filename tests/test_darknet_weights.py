"""`.weights` files and checkpoints: read, written with the same bytes, and refused in words."""

from __future__ import annotations

import copy
import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import shared_path
from safetensors import safe_open
from safetensors.torch import save_file

from pydet import models
from pydet.models import checkpoint, convert
from pydet.models.darknet import Darknet, WeightsError, load_weights, parse_cfg, save_weights

# 2 filters of 3x3x3 with batch normalisation: 2 + 3 * 2 + 54 numbers; then 8 filters of 2 with a bias: 8 + 16.
CFG = """[net]\nwidth=8\nheight=8
[convolutional]\nbatch_normalize=1\nfilters=2\nsize=3\npad=1\nactivation=leaky
[maxpool]\nsize=2\nstride=2
[convolutional]\nfilters=8\nactivation=linear
[yolo]\nmask=1\nanchors=1,2,3,4\nclasses=3\nnum=2
"""
COUNTS = (2 + 3 * 2 + 54, 8 + 16)
TOTAL = sum(COUNTS)
NEW_HEADER = struct.pack("<iiiQ", 0, 2, 0, 2**40 + 7)


def small(cfg: str = CFG, **options: object) -> Darknet:
    return Darknet(parse_cfg(cfg, "small.cfg"), **options).eval()


def numbers(count: int = TOTAL) -> np.ndarray:
    return np.random.default_rng(0).random(count, dtype=np.float32)


def write(path: Path, header: bytes = NEW_HEADER, count: int = TOTAL) -> Path:
    path.write_bytes(header + numbers(count).tobytes())
    return path


def test_order_of_the_numbers(tmp_path: Path) -> None:
    """bias, gamma, mean, variance, weights; or bias, weights."""
    network, values = small(), torch.from_numpy(numbers())
    load_weights(network, write(tmp_path / "a.weights"))
    first, _, second, _ = network.layers
    norm = first.norm
    for i, part in enumerate([norm.bias, norm.weight, norm.running_mean, norm.running_var]):
        assert torch.equal(part, values[2 * i : 2 * i + 2])
    assert torch.equal(first.conv.weight, values[8:62].view(2, 3, 3, 3))
    assert torch.equal(second.conv.bias, values[62:70])
    assert torch.equal(second.conv.weight, values[70:].view(8, 2, 1, 1))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (NEW_HEADER, (0, 2, 0, 2**40 + 7)),
        (struct.pack("<iiiQ", 1, 0, 5, 3), (1, 0, 5, 3)),
        (struct.pack("<iiii", 0, 1, 0, 32013312), (0, 1, 0, 32013312)),
        (struct.pack("<iiii", 2001, 0, 0, -1), (2001, 0, 0, -1)),
        (struct.pack("<iiii", 0, 1000, 0, 9), (0, 1000, 0, 9)),
    ],
)
def test_headers_and_bytes_survive(header: bytes, expected: tuple[int, ...], tmp_path: Path) -> None:
    path = write(tmp_path / "a.weights", header)
    network = small()
    load_weights(network, path)
    assert network.weights_header == expected
    save_weights(network, tmp_path / "b.weights")
    assert (tmp_path / "b.weights").read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.weights", "b.weights"]


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (0, r"too short: layer 0 \[convolutional\] needs 62 numbers, 0 are left"),
        (61, r"too short: layer 0 \[convolutional\] needs 62 numbers, 61 are left"),
        (62, r"too short: layer 2 \[convolutional\] needs 24 numbers, 0 are left"),
        (TOTAL - 1, r"too short: layer 2 \[convolutional\] needs 24 numbers, 23 are left. The network takes 86"),
        (TOTAL + 1, r"too long: 1 numbers are left after layer 2 \[convolutional\]. .*takes 86 numbers \(364 b"),
        (10 * TOTAL, "too long: 774 numbers are left"),
    ],
)
def test_files_of_another_length(count: int, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.weights", count=count)
    network = small()
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(WeightsError, match=r"a\.weights: " + message):
        load_weights(network, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_file_cut_inside_of_a_number(tmp_path: Path) -> None:
    path = tmp_path / "a.weights"
    path.write_bytes(write(path).read_bytes()[:-2])
    with pytest.raises(WeightsError, match=r"needs 24 numbers, 23.5 are left"):
        load_weights(small(), path)


@pytest.mark.parametrize("size", [0, 11, 12, 15, 19])
def test_files_that_end_in_the_header(size: int, tmp_path: Path) -> None:
    (tmp_path / "a.weights").write_bytes(NEW_HEADER[:size])
    with pytest.raises(WeightsError, match=r"a\.weights: not a Darknet weights file: it ends inside of the header"):
        load_weights(small(), tmp_path / "a.weights")


def test_fused_networks_are_neither_saved_nor_loaded(tmp_path: Path) -> None:
    network = small().fuse()
    for save in (save_weights, checkpoint.save_checkpoint):
        with pytest.raises(WeightsError, match="batch normalisation has been folded away"):
            save(network, tmp_path / "a.weights")
    with pytest.raises(WeightsError, match="fused network"):
        load_weights(network, write(tmp_path / "b.weights"))
    assert not (tmp_path / "a.weights").exists()


def test_layers_that_are_not_loaded(tmp_path: Path) -> None:
    cfg = CFG.replace("filters=8", "filters=8\ndontload=1")
    network = small(cfg)
    before = network.layers[2].conv.weight.clone()
    load_weights(network, write(tmp_path / "a.weights", count=COUNTS[0]))
    assert torch.equal(network.layers[2].conv.weight, before)
    (tmp_path / "small.cfg").write_text(cfg)
    with pytest.raises(WeightsError, match=r"layers\.2\.conv.* is not in it: its layer has dontload=1"):
        models.load(cfg=tmp_path / "small.cfg", weights=tmp_path / "a.weights")


def test_any_layer_can_be_left_out(tmp_path: Path) -> None:
    network = Darknet(parse_cfg("[net]\nheight=4\nwidth=4\n[connected]\noutput=2\ndontload=1\n[local]\nfilters=3\n"))
    load_weights(network, write(tmp_path / "a.weights", count=3 * 1 + 3 * 2))
    save_weights(network, tmp_path / "b.weights")
    assert (tmp_path / "b.weights").read_bytes() == (tmp_path / "a.weights").read_bytes()


def test_a_network_without_numbers(tmp_path: Path) -> None:
    network = Darknet(parse_cfg("[net]\nheight=4\nwidth=4\n[maxpool]\n"))
    load_weights(network, write(tmp_path / "a.weights", count=0))
    with pytest.raises(WeightsError, match=r"b\.weights: too long: 1 numbers are left after the header"):
        load_weights(network, write(tmp_path / "b.weights", count=1))


def official() -> Path:
    return shared_path("data/weights") / "yolov3-tiny.weights"


def test_official_tiny_is_written_byte_by_byte(tmp_path: Path) -> None:
    network = models.load("yolov3-tiny", weights=official(), fuse=False)
    save_weights(network, tmp_path / "b.weights")
    assert (tmp_path / "b.weights").read_bytes() == official().read_bytes()


def test_official_tiny_through_a_checkpoint(tmp_path: Path) -> None:
    """A float32 checkpoint keeps every bit and the header, so that Darknet can have its file back."""
    network = models.load("yolov3-tiny", weights=official(), fuse=False)
    checkpoint.save_checkpoint(network, tmp_path / "a.safetensors")
    save_weights(models.load(weights=tmp_path / "a.safetensors", fuse=False), tmp_path / "b.weights")
    assert (tmp_path / "b.weights").read_bytes() == official().read_bytes()


SMALL = ["yolov1-tiny", "yolov2-tiny", "yolov2-tiny-voc", "yolov3-tiny"]
LARGE = ["yolov1", "yolov2", "yolov2-voc", "yolo9000", "yolov3", "yolov3-spp"]


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_networks_are_written_byte_by_byte(name: str, tmp_path: Path) -> None:
    from test_darknet_network import darknet_weights

    path = darknet_weights(name, tmp_path)
    assert path.stat().st_size == models.MODELS[name].weights.size
    save_weights(models.load(name, weights=path, fuse=False), tmp_path / "b.weights")
    assert (tmp_path / "b.weights").read_bytes() == path.read_bytes()


def test_embedded_checkpoint_is_the_official_file() -> None:
    """In float16 for the convolutions, exact for the rest."""
    embedded = models.load("yolov3-tiny", fuse=False)
    for name, tensor in models.load("yolov3-tiny", weights=official(), fuse=False).state_dict().items():
        kept = embedded.state_dict()[name]
        assert kept.dtype == torch.float32
        assert torch.equal(kept, tensor.half().float() if tensor.dim() == 4 else tensor), name
    with safe_open(models.ASSETS / "yolov3-tiny.safetensors", framework="pt") as file:
        metadata = json.loads(file.metadata()["pydet"])
    digest = "sha256:dccea06f59b781ec1234ddf8d1e94b9519a97f4245748a7d4db75d5b7080a42c"
    assert metadata["sources"] == {"yolov3-tiny.weights": digest}


def test_the_conversion_gives_the_embedded_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "tiny.safetensors"
    convert.main(["yolov3-tiny", str(official()), str(output)])
    assert output.read_bytes() == (models.ASSETS / "yolov3-tiny.safetensors").read_bytes()
    assert "17,752,288 bytes" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"convert: .*none\.weights"):
        convert.main(["yolov3-tiny", str(tmp_path / "none.weights"), str(output)])


def test_checkpoints_describe_themselves(tmp_path: Path) -> None:
    network = small(class_names=["cat", "dög", "cow"], image_size=(16, 24))
    network.weights_header = (0, 2, 0, 99)
    checkpoint.save_checkpoint(network, tmp_path / "a.safetensors")
    loaded = models.load(weights=tmp_path / "a.safetensors", fuse=False)
    assert (loaded.class_names, loaded.image_size) == (["cat", "dög", "cow"], (16, 24))
    assert loaded.weights_header == (0, 2, 0, 99)
    assert loaded.sections == network.sections
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    again = models.load(weights=tmp_path / "a.safetensors", image_size=8, class_names=["a", "b", "c"])
    assert (again.image_size, again.class_names, again.fused) == ((8, 8), ["a", "b", "c"], True)


def test_checkpoint_for_another_cfg(tmp_path: Path) -> None:
    checkpoint.save_checkpoint(small(), tmp_path / "a.safetensors")
    (tmp_path / "b.cfg").write_text(CFG.replace("mask=1", "mask=0"))
    assert models.load(weights=tmp_path / "a.safetensors", cfg=tmp_path / "b.cfg").heads[0].mask == [0]
    for change, message in {
        (
            "filters=2",
            "filters=4",
        ): r"a\.safetensors: layers\.0\..*weight has shape \[2, 3, 3, 3\], the cfg needs \[4, 3,",
        ("batch_normalize=1", "batch_normalize=0"): r"layers\.0\.conv\.bias is missing",
        ("[maxpool]\nsize=2\nstride=2\n", ""): r"layers\.1\.conv\.weight is missing",
    }.items():
        (tmp_path / "b.cfg").write_text(CFG.replace(*change))
        with pytest.raises(WeightsError, match=message):
            models.load(weights=tmp_path / "a.safetensors", cfg=tmp_path / "b.cfg")


def test_damaged_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    checkpoint.save_checkpoint(small(), path)
    whole = path.read_bytes()
    for damaged in (b"", b"garbage" * 100, whole[:5], whole[:300], whole[:-1], whole + b"\0", b"\xff" * 8 + whole[8:]):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"a\.safetensors: not a safetensors file, or a damaged one"):
            models.load(weights=path)
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match="not one of pydet"):
        models.load(weights=path)
    save_file({"x": torch.zeros(2)}, path, metadata={"pydet": "[1"})
    with pytest.raises(WeightsError, match="damaged"):
        models.load(weights=path)


def test_half_precision_that_would_overflow(tmp_path: Path) -> None:
    network = small()
    with torch.no_grad():
        network.layers[0].conv.weight[0, 0, 0, 0] = 1e5
    with pytest.raises(WeightsError, match=r"layers\.0\.conv\.weight has numbers that torch\.float16 cannot hold"):
        checkpoint.save_checkpoint(network, tmp_path / "a.safetensors", torch.float16)
    with pytest.raises(ValueError, match=r"dtype must be torch\.float16 or torch\.float32, got torch\.bfloat16"):
        checkpoint.save_checkpoint(network, tmp_path / "a.safetensors", torch.bfloat16)


SSD_FILE = "ssd300_vgg16_coco-b556d3b4.pth"


def test_load_says_what_to_do(tmp_path: Path) -> None:
    for name, hint in [
        ("YOLOv3_tiny", "is yolov3-tiny meant? "),
        ("yolov3tiny", "is yolov3-tiny meant? "),
        ("runs/best.safetensors", "a file is named by weights=, on the command line --weights; "),
        ("my.cfg", "a file is named by cfg=, on the command line --cfg; "),
        ("yolov8", ""),
    ]:
        with pytest.raises(ValueError, match=rf"unknown model '{name}'; {re.escape(hint)}known ones are"):
            models.load(name)
    with pytest.raises(ValueError, match=r"unknown model 'yolov9'; known ones are .*yolov3, yolov3-spp, yolov3-tiny"):
        models.load("yolov9")
    with pytest.raises(
        ValueError, match=r"yolov3\.weights \(248,007,048 bytes\) at https://pjreddie.*weights='yolov3\.w"
    ):
        models.load("yolov3")
    with pytest.raises(ValueError, match=r"cfg='a\.cfg' needs weights="):
        models.load(cfg="a.cfg")
    with pytest.raises(ValueError, match=r"weights must be a \.weights, \.pth or \.safetensors file, got 'a\.onnx'"):
        models.load(weights="a.onnx")
    for name in ("none.weights", "none.safetensors"):
        with pytest.raises(FileNotFoundError, match=name):
            models.load(weights=tmp_path / name)
    for name, where in (("yolov3.weights", "pjreddie.com/darknet/yolo/"), (SSD_FILE, "download.pytorch.org/models/")):
        with pytest.raises(
            FileNotFoundError, match=rf"{name}: no such file; its author offers {name} .*https://{where}"
        ):
            models.load("ssd300" if name == SSD_FILE else None, weights=tmp_path / name)
    with pytest.raises(ValueError, match="class_names must be 80 names, one per class, got 1"):
        models.load(class_names=["one"])
    with pytest.raises(WeightsError, match=r"layer 15 \[convolutional\] needs|too long"):
        models.load(weights=official(), class_names=["one"])
    with pytest.raises(ValueError, match="batch_norm must be one of cuda, cpu, got 'gpu'"):
        models.load(batch_norm="gpu")


CONNECTED = "[net]\nheight=2\nwidth=2\n[connected]\noutput=3\nactivation=linear\n"


def test_old_files_have_the_weights_of_connected_layers_transposed(tmp_path: Path) -> None:
    """Both formats of one network: W[out][in] since versions count from 0, W[in][out] before."""
    weights = np.arange(36, dtype="<f4").reshape(3, 12)
    bias = np.array([0.5, 1, 2], dtype="<f4")
    x = torch.rand(1, 3, 2, 2)
    results = []
    for major, stored in ((0, weights), (2001, weights.T)):
        header = np.array([major, 1, 0, 7], dtype="<i4")
        path = tmp_path / f"{major}.weights"
        path.write_bytes(header.tobytes() + bias.tobytes() + np.ascontiguousarray(stored).tobytes())
        network = Darknet(parse_cfg(CONNECTED)).eval()
        load_weights(network, path)
        save_weights(network, tmp_path / "again.weights")
        assert (tmp_path / "again.weights").read_bytes() == path.read_bytes()
        results.append(network.forward_features(x)[0])
    assert torch.equal(*results)
    expected = x.flatten().double() @ torch.from_numpy(weights).double().T + torch.from_numpy(bias)
    torch.testing.assert_close(results[0].flatten().double(), expected, rtol=1e-5, atol=1e-5)
