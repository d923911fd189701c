"""Damaged files of every format that pydet reads: each is read, or refused by the documented error that names it.

`python tests/fuzz.py --seconds 10` takes 10 seconds for each format and prints executions and findings; inputs that
found something are kept in build/fuzz. Real files are mutated at random, with words that mean something to a format.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from test_data_fuzz import FILES, loaded, prepared

from pydet.data import DataError
from pydet.image import ImageError, image_size, read_image
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
from pydet.models.darknet import format_cfg
from pydet.models.darknet.sections import convolution, net
from pydet.models.registry import read_lines
from pydet.models.torchvision import read_state_dict
from pydet.models.yolov2 import head
from pydet.training import Settings, SettingsError, read_settings
from pydet.training.checkpoint import Checkpoint, CheckpointError, plain
from pydet.training.checkpoint import load as load_training
from pydet.training.settings import as_toml
from pydet.training.train import settings_of
from pydet.wordtree import TreeError, WordTree, read_map

SLOW = 5.0  # seconds of the processor for one file
TREE = "animal -1\nthing -1\ncat 0\ndog 0\nPersian 2\nSiamese 2\n"
WORDS = [
    *(b"", b"0", b"-1", b"1e999", b"nan", b"99999999999999999999", b"2147483648", b"0000000000000000009", b"\xc2\xb2"),
    *(b"\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\n", b"\r", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"{", b"}"),
    *(b'"', b"null", b"true", b"[", b"]", b"<", b"&x;", b"=", b",", b"F16", b"I64", b"[yolo]", b"[route]", b"../"),
]


@dataclass(frozen=True)
class Format:
    """How a format is attacked.

    Attributes:
        name: of the file, as it lies in its folder.
        seeds: real content.
        read: the file; it may check what was read.
        errors: that a bad file may raise; the message must name the file.
    """

    name: str
    seeds: list[bytes]
    read: Callable[[Path], Any]
    errors: tuple[type[Exception], ...]


@dataclass
class Outcome:
    """Of a format: how many files were read and refused, and what else happened: what, and by which content."""

    executions: int = 0
    refused: int = 0
    findings: dict[str, bytes] = field(default_factory=dict)


def network() -> Darknet:
    torch.manual_seed(0)
    tree = WordTree.parse(TREE, "fuzz")
    return Darknet([net((64, 64)), convolution(8, 3, 4), *head(6, ((1, 1), (2, 1)), 1, ".2")], tree=tree)


def in_bytes(save: Callable[[Path], Any]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / "file")
        return (Path(folder) / "file").read_bytes()


def read_cfg_and_build(path: Path) -> None:
    with torch.device("meta"):  # as `load` builds it: no memory
        Darknet(read_cfg(path))


def read_settings_wholly(path: Path) -> None:
    values = read_settings(path)
    with contextlib.suppress(SettingsError):  # which names the setting: it may be of the command line as well
        Settings(**values)


def read_map_of_six(path: Path) -> None:
    assert all(0 <= node < 6 for node in read_map(path, 6))


def read_picture(path: Path) -> None:
    height, width = image_size(path)
    picture = read_image(path)
    assert picture.shape == (3, height, width)


def read_names(path: Path) -> None:
    assert all(isinstance(name, str) for name in read_lines(path))


def pictures() -> Iterator[tuple[str, bytes]]:
    noise = random.Random(0).randbytes(3 * 12 * 9)
    image = Image.frombytes("RGB", (12, 9), noise)
    for ending, options in {
        "jpg": {}, "png": {}, "gif": {}, "bmp": {}, "webp": {}, "ppm": {}, "tiff": {"compression": "tiff_lzw"},
    }.items():  # fmt: skip
        content = io.BytesIO()
        image.save(content, {"jpg": "jpeg"}.get(ending, ending), exif=image.getexif(), **options)
        yield ending, content.getvalue()


def dataset_format(name: str) -> Format:
    """An annotation file among good others; `loaded` checks what comes of it."""

    def read(path: Path) -> None:
        folder = path.parents[name.count("/")]
        loaded(folder, {"a.xml": folder, "images/a.txt": folder / "data.yaml"}.get(name, path))

    def made(path: Path) -> None:
        prepared(path.parent)
        content = FILES[name]
        path.write_bytes(content) if isinstance(content, bytes) else content(path)

    return Format(name, [in_bytes(made)], read, (DataError,))


def formats() -> dict[str, Format]:
    model = network()
    training = Checkpoint(plain(Settings(data="x")), "x", 1, dict(model.state_dict()), None, {"a": [1]}, {}, {})
    state = in_bytes(lambda path: torch.save(dict(model.state_dict()), path))
    old = in_bytes(lambda path: torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False))
    found = {
        "cfg": Format("own.cfg", [format_cfg(model.sections).encode()], read_cfg_and_build, (CfgError,)),
        "weights": Format(
            "own.weights", [in_bytes(lambda path: save_weights(model, path))],
            lambda path: load_weights(network(), path), (WeightsError,),
        ),
        "tree": Format("own.tree", [TREE.encode()], WordTree.read, (TreeError,)),
        "map": Format("own.map", [b"0\n1\n5\n"], read_map_of_six, (TreeError,)),
        "names": Format("own.names", [b"cat\ndog\n"], read_names, (ValueError,)),
        "safetensors": Format(
            "own.safetensors", [in_bytes(lambda path: save_checkpoint(model, path))], load_checkpoint,
            (WeightsError, CfgError, TreeError, ValueError),
        ),
        "pth": Format("own.pth", [state, old], read_state_dict, (WeightsError,)),
        "checkpoint": Format(
            "checkpoint.pt", [in_bytes(training.save)], lambda path: settings_of(load_training(path), path),
            (CheckpointError,),
        ),
        "toml": Format("own.toml", [as_toml(Settings(data="x")).encode()], read_settings_wholly, (SettingsError,)),
    }  # fmt: skip
    found |= {f"data: {name}": dataset_format(name) for name in FILES}
    return found | {name: Format(f"own.{name}", [content], read_picture, (ImageError,)) for name, content in pictures()}


def mutated(content: bytes, draw: random.Random) -> bytes:
    """With 1 to 4 changes; most lie where the structure is: at the beginning or the end."""
    raw = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(raw) + 1)
        near = draw.randrange(300)
        place = draw.choice((place, place, min(place, near), max(place, len(raw) - near)))
        length = draw.choice((0, 1, 1, 2, 4, 8))
        kind = draw.randrange(6)
        if kind == 0:
            raw[place : place + length] = draw.choice(WORDS)
        elif kind == 1:
            raw[place : place + length] = draw.randbytes(draw.randint(0, 4))
        elif kind == 2 and place < len(raw):
            raw[place] ^= 1 << draw.randrange(8)
        elif kind == 3:
            del raw[place : place + draw.choice((1, 8, 100, len(raw)))]
        elif kind == 4:
            start = draw.randrange(len(raw) + 1)
            raw[place:place] = raw[start : start + draw.choice((1, 8, 40))]
        else:
            raw = bytearray(b" ".join(number_for_number(bytes(raw).split(b" "), draw)))
    return bytes(raw)


def number_for_number(words: list[bytes], draw: random.Random) -> list[bytes]:
    """One of the words is another; formats that are text get other numbers by it."""
    words[draw.randrange(len(words))] = draw.choice(WORDS)
    return words


def attack(target: Format, folder: Path, draw: random.Random, seconds: float, most: int = sys.maxsize) -> Outcome:
    """Until the seconds or as many executions are over."""
    outcome = Outcome()
    prepared(folder)
    if target.name == "a.xml":  # a folder of XML files, nothing else
        for other in ("data.yaml", "x.data", "list.txt"):
            (folder / other).unlink()
    path = folder / target.name
    end = time.monotonic() + seconds
    while time.monotonic() < end and outcome.executions < most:
        content = target.seeds[0] if not outcome.executions else mutated(draw.choice(target.seeds), draw)
        path.write_bytes(content)
        outcome.executions += 1
        began = time.process_time()
        try:
            target.read(path)
        except target.errors as error:
            outcome.refused += 1
            if path.name not in str(error):
                outcome.findings.setdefault(f"does not name the file: {error}"[:90], content)
            if outcome.executions == 1:
                outcome.findings[f"refuses a good file: {error}"] = content
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__} in {Path(place.filename).name}:{place.lineno}: {error}"
            outcome.findings.setdefault(what.split("\n")[0][:160], content)
        if time.process_time() - began > SLOW:
            outcome.findings.setdefault(f"takes more than {SLOW} s", content)
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each format")
    parser.add_argument("--seed", type=int, default=None, help="none: another one in every run")
    parser.add_argument("--only", default="", help="formats whose name has this in it")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    kept = Path("build/fuzz")
    failed = executions = 0
    print(f"seed {seed}\n{'format':20}{'executions':>12}{'refused':>10}{'findings':>10}")
    for name, target in formats().items():
        if options.only not in name:
            continue
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            outcome = attack(target, Path(folder) / "data", random.Random(f"{seed} {name}"), options.seconds)
        print(f"{name:20}{outcome.executions:12,}{outcome.refused:10,}{len(outcome.findings):10}", flush=True)
        for number, (what, content) in enumerate(outcome.findings.items()):
            kept.mkdir(parents=True, exist_ok=True)
            place = kept / f"{number}-{Path(target.name).name}"
            place.write_bytes(content)
            print(f"  {place}: {what}")
        failed += len(outcome.findings)
        executions += outcome.executions
    print(f"{executions:,} executions, {failed} findings")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
