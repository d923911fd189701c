"""Every format that pydet reads, for the fuzzer: real content, how it is read, and what must be true of the result."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from data_files import BCCD, FILES, LOADED, loaded, prepared, put
from PIL import Image
from safetensors.torch import save
from torch import nn

from pydet.commands.train import _pairs
from pydet.data import DataError
from pydet.image import ImageError, image_size, read_image
from pydet.losses import Targets
from pydet.models import (
    CfgError,
    Darknet,
    WeightsError,
    load_checkpoint,
    load_weights,
    read_cfg,
    save_checkpoint,
    save_weights,
)
from pydet.models.darknet import Section, format_cfg
from pydet.models.darknet.cfg import parse_cfg
from pydet.models.darknet.sections import (
    connected,
    convolution,
    dropout,
    local,
    maxpool,
    net,
    reorg,
    route,
    section,
    shortcut,
)
from pydet.models.registry import read_lines
from pydet.models.torchvision import read_state_dict
from pydet.models.yolov1 import grid
from pydet.models.yolov2 import head
from pydet.models.yolov3 import yolo
from pydet.processes import Processes
from pydet.training import Settings, SettingsError, read_settings
from pydet.training.checkpoint import Checkpoint, CheckpointError, plain
from pydet.training.checkpoint import load as load_training
from pydet.training.loop import Loop
from pydet.training.settings import as_toml, check_names
from pydet.training.train import _Run, settings_of
from pydet.wordtree import TreeError, WordTree, read_map

TREE = "animal -1\nthing -1\ncat 0\ndog 0\nPersian 2\nSiamese 2\n"
MOST_WORK = 10**7  # multiplications of a network that is run, not only built
# A bomb must be refused by what the file says, not by the memory that it takes: so it may as well be a small one.
MOST_PIXELS = 1 << 16


@dataclass(frozen=True)
class Format:
    """How a format is attacked.

    Attributes:
        name: of the file, as it lies in its folder.
        seeds: real content.
        read: the file; it checks what was read.
        errors: that a bad file may raise; the message must name the file.
        others: makes what must lie beside it.
    """

    name: str
    seeds: list[bytes]
    read: Callable[[Path], Any]
    errors: tuple[type[Exception], ...]
    others: Callable[[Path], None] = Path.mkdir


def own_network() -> Darknet:
    torch.manual_seed(0)
    tree = WordTree.parse(TREE, "fuzz")
    return Darknet([net((64, 64)), convolution(8, 3, 4), *head(6, ((1, 1), (2, 1)), 1, ".2")], tree=tree)


def cfgs() -> list[list[Section]]:
    """Small networks with every kind of layer."""
    anchors = ((8, 8), (16, 16), (30, 30))
    third = [convolution(4, 3, 2), convolution(4, 3), shortcut(-2), maxpool(2, 2), convolution(16, 1), route(-1, -2)]
    third[2].options |= {"alpha": ".5", "beta": "2"}
    third += [
        section("upsample", stride=2, scale="1.5"),
        convolution(21, 1, activation="linear"),
        yolo(2, anchors, (0, 1, 2), True),
    ]
    first = [section("crop", crop_height=28, crop_width=28), convolution(2, 3, 4), local(1, 3), dropout(".5")]
    first += [connected(5, "ramp"), *grid(2, 1, side=2)]
    second = [convolution(4, 3, 8), convolution(4, 1), reorg(2), route(-2), maxpool(2, 1), *head(6, ((1, 1),), 1, ".2")]
    return [own_network().sections, *([net((32, 32)), *layers] for layers in (first, second, third))]


def in_bytes(save: Callable[[Path], Any]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / "file")
        return (Path(folder) / "file").read_bytes()


def read_cfg_and_run(path: Path) -> None:
    sections = read_cfg(path)
    assert parse_cfg(format_cfg(sections)) == sections
    with torch.device("meta"):  # as `load` builds it: no memory
        network = Darknet(sections)
    if work(network) < MOST_WORK:
        torch.manual_seed(0)
        run(Darknet(sections))


def work(network: Darknet) -> int:
    """Multiplications and numbers of a forward pass, more or less."""
    shapes = {-1: (network.channels, *network.image_size)}
    found = prod(shapes[-1])
    for index, layer in enumerate(network.layers):
        shapes[index] = layer.output_shape(*[shapes[source] for source in layer.sources])
        weights = sum(tensor.numel() for tensor in layer.parameters())
        found += prod(shapes[index]) + weights * prod(shapes[index][1:])
        found += sum(head.num_classes for head in network.heads)
    return found


def run(network: Darknet) -> None:
    """Shapes are those that the layers say, a loss can be computed, and all of it is finite where the weights are
    no larger than those of a network that finds something."""
    usual = all(bool((tensor.abs() < 100).all()) for tensor in network.state_dict().values())
    factors = [getattr(layer, name, 1) for layer in network.layers for name in ("alpha", "beta", "scale")]
    usual = usual and all(abs(factor) < 100 for factor in factors)

    def finite(*tensors: torch.Tensor) -> bool:
        return not usual or all(bool(tensor.isfinite().all()) for tensor in tensors)

    def check(layer: nn.Module, given: Sequence[torch.Tensor], result: torch.Tensor) -> None:
        assert tuple(result.shape[1:]) == layer.output_shape(*[tuple(x.shape[1:]) for x in given])
        assert finite(result), layer

    for layer in network.layers:
        layer.register_forward_hook(check)
    height, width = network.image_size
    raw = network.eval().forward_features(torch.rand(1, network.channels, height, width))
    if not network.heads:
        return
    boxes, objectness, scores = network.decode(raw)
    assert boxes.shape == (1, objectness.shape[1], 4)
    assert scores.shape == (*objectness.shape, network.num_classes)
    assert finite(boxes, objectness, scores)
    box = torch.tensor([[width * 0.1, height * 0.1, width * 0.6, height * 0.5]])
    terms = network.loss(raw, Targets(box, torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64)))
    assert all(term.shape == () for term in terms.values())
    assert finite(*terms.values()), terms


def read_weights(path: Path) -> None:
    network = own_network()
    load_weights(network, path)
    save_weights(network, path.with_suffix(".again"))
    assert path.with_suffix(".again").read_bytes() == path.read_bytes()
    run(network)


def read_checkpoint(path: Path) -> None:
    network = load_checkpoint(path)
    assert all(isinstance(name, str) for name in network.class_names)
    if isinstance(network, Darknet) and work(network) < MOST_WORK:
        run(network)


def read_metadata(path: Path) -> None:
    """What a checkpoint says of itself, whose length is thus always right."""
    path.write_bytes(save(dict(own_network().state_dict()), {"pydet": path.read_bytes().decode(errors="replace")}))
    read_checkpoint(path)


def read_tree(path: Path) -> None:
    tree = WordTree.read(path)
    assert WordTree.parse(tree.text()) == tree
    assert sum(count for _, count in tree.groups()) == len(tree) == len(tree.tensor())
    assert all(tree.path(node)[-1] == node for node in range(len(tree)))


def read_map_of_six(path: Path) -> None:
    assert all(0 <= node < 6 for node in read_map(path, 6))


def read_names(path: Path) -> None:
    assert all(name.strip() == name != "" for name in read_lines(path))


def read_settings_wholly(path: Path) -> None:
    values = read_settings(path)
    with contextlib.suppress(SettingsError):  # which names the setting: it may be of the command line as well
        check_settings(Settings(**values), path)


def read_options(path: Path) -> None:
    """What follows `--set`; such errors name the command instead of a file."""
    values = _pairs(path.read_text(errors="replace").split("\n"))
    check_names(values, "train")
    check_settings(Settings(**values), path)


def check_settings(settings: Settings, path: Path) -> None:
    again = path.with_name("again.toml")
    again.write_text(as_toml(settings), encoding="utf-8")
    assert Settings(**read_settings(again)) == settings


def read_training(path: Path) -> None:
    """As far as `resume` goes before it looks at the data, and an update."""
    kept = load_training(path)
    settings = settings_of(kept, path)
    network = own_network()
    group = Processes()
    loop = Loop(network, settings, 10, group)
    run_of = SimpleNamespace(folder=path, group=group)
    _Run._restore(run_of, loop, kept)  # type: ignore[arg-type]
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    loop.optimizer.step()
    loop.average.update(network, 1)


def read_training_values(good: bytes, path: Path) -> None:
    """JSON of what differs from a good checkpoint: the pickle around it is always right."""

    def changed(good: Any, values: Any) -> Any:
        if not isinstance(good, dict) or not isinstance(values, dict):
            return values
        named = {int(name) if name.isdecimal() else name: value for name, value in values.items()}
        return good | {name: changed(good.get(name), value) for name, value in named.items()}

    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        values = None
    torch.save(changed(torch.load(io.BytesIO(good), weights_only=True), values), path)
    read_training(path)


def training() -> Checkpoint:
    """After an update, with all that a checkpoint can hold."""
    settings = Settings(data="x", ema=0.9)
    loop = Loop(own_network(), settings, 10, Processes())
    for parameter in loop.network.parameters():
        parameter.grad = torch.ones_like(parameter)
    loop.optimizer.step()
    loop.done = 1
    return Checkpoint(plain(settings), "x", generators={"cpu": torch.get_rng_state()}, best={}, **loop.state())


def read_picture(path: Path) -> None:
    height, width = image_size(path)
    picture = read_image(path)
    assert picture.dtype == torch.uint8
    assert picture.shape == (3, height, width)


def pictures() -> Iterator[tuple[str, list[bytes]]]:
    """Of every format, and of every kind of pixels that it can hold."""
    noise = random.Random(0).randbytes(3 * 12 * 9)
    image = Image.frombytes("RGB", (12, 9), noise)
    turned = image.getexif()
    turned[0x0112] = 6  # orientation
    for ending, options in {
        "jpg": {}, "png": {}, "gif": {}, "bmp": {}, "webp": {}, "ppm": {}, "tiff": {"compression": "tiff_lzw"},
    }.items():  # fmt: skip
        found = []
        for mode in ("RGB", "L", "P", "1", "RGBA", "LA", "I;16", "CMYK"):
            content = io.BytesIO()
            with contextlib.suppress(OSError, ValueError):  # this format cannot hold it
                image.convert("L" if mode == "I;16" else mode).convert(mode).save(
                    content, {"jpg": "jpeg"}.get(ending, ending), exif=turned, **options
                )
                found.append(content.getvalue())
        yield ending, found


def dataset_format(name: str) -> Format:
    """An annotation file among good others."""

    def read(path: Path) -> None:
        folder = path.parents[name.count("/")]
        loaded(folder, folder / LOADED.get(name, name))

    return Format(name, [in_bytes(lambda path: put(path, name))], read, (DataError,), prepared)


def take_little() -> None:
    """For the process of the fuzzer: larger pictures are refused, and small networks need no more threads."""
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS
    torch.set_num_threads(1)


def formats() -> dict[str, Format]:
    model, kept = own_network(), in_bytes(training().save)
    state = in_bytes(lambda path: torch.save(dict(model.state_dict()), path))
    old = in_bytes(lambda path: torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False))
    checkpoint = in_bytes(lambda path: save_checkpoint(model, path))
    metadata = json.loads(checkpoint[8 : 8 + int.from_bytes(checkpoint[:8], "little")])["__metadata__"]["pydet"]
    of_checkpoint = (WeightsError, CfgError, TreeError, ValueError)
    found = {
        "cfg": Format("own.cfg", [format_cfg(layers).encode() for layers in cfgs()], read_cfg_and_run, (CfgError,)),
        "weights": Format(
            "own.weights", [in_bytes(lambda path: save_weights(model, path))], read_weights, (WeightsError,),
        ),
        "tree": Format("own.tree", [TREE.encode()], read_tree, (TreeError,)),
        "map": Format("own.map", [b"0\n1\n5\n"], read_map_of_six, (TreeError,)),
        "names": Format("own.names", [b"cat\ndog\n"], read_names, (ValueError,)),
        "safetensors": Format("own.safetensors", [checkpoint], read_checkpoint, of_checkpoint),
        "safetensors' metadata": Format("own.safetensors", [metadata.encode()], read_metadata, of_checkpoint),
        "pth": Format("own.pth", [state, old], read_state_dict, (WeightsError,)),
        "checkpoint": Format("checkpoint.pt", [kept], read_training, (CheckpointError,)),
        "checkpoint's values": Format(
            "checkpoint.pt", [b'{"update": 3, "settings": {"seed": 1}}', b'{"optimizer": {"state": {}}}'],
            functools.partial(read_training_values, kept), (CheckpointError,),
        ),
        "toml": Format("own.toml", [as_toml(Settings(data="x")).encode()], read_settings_wholly, (SettingsError,)),
        "set": Format("train", [b"ema=0.9", b"steps=[0.5, 1]\nscales=[1, 1]"], read_options, (SettingsError,)),
    }  # fmt: skip
    found |= {f"data: {name}": dataset_format(name) for name in FILES}
    found["data: voc/Annotations/a.xml"].seeds.extend(
        file.read_bytes().replace(b"640", b"100").replace(b"480", b"80") for file in BCCD.glob("Annotations/*1.xml")
    )
    return found | {name: Format(f"own.{name}", seeds, read_picture, (ImageError,)) for name, seeds in pictures()}
