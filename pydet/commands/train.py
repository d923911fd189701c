"""The command `pydet train`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydet.commands.options import ALL_DONE, INTERRUPTED, SOME_FAILED, add_command, say

if TYPE_CHECKING:
    from pydet.training import Result, Settings

_TRAIN = """\
Trains a detector on your own pictures, for the classes that are annotated on them. What it keeps in --out:
  best.safetensors    the weights that were best on the val split; use them with pydet detect --weights
  last.safetensors    those of the last checkpoint
  report/report.md    what was reached: tables, curves, pictures with the truth beside what is found
  losses.csv, validation.csv, settings.toml; for TensorBoard, where it is installed, tensorboard/
  checkpoint.pt       for --resume, which goes on after Ctrl-C or a crash as if there had been none
To measure on a val or test split it needs: pip install 'pydet[evaluate]'; for the plots of the report 'pydet[plots]'.

By several processes: torchrun --nproc-per-node N -m pydet train ..."""

_DATA = "data set: COCO JSON, VOC, YOLO or Darknet files, as pydet evaluate takes it"
_WEIGHTS = "start from these weights (.safetensors, .weights, .pth), or none (default: those of pydet, if any)"
_CFG = "Darknet .cfg of your own model, instead of MODEL; one with max_batches is trained as it says"
_CONFIG = "TOML file of settings; such as settings.toml of a run; options given here win"
_SET = "any other setting, such as momentum=0.95 or schedule=cosine"
_PARTS = "forward and backward passes of an update: less memory"
_RESUME = "go on with the training in this folder"


def add(commands: Any) -> None:
    """Adds the command to those of the parser.

    Options that are left out are None: then the config file, or the detector's defaults, say what they are.
    """
    parser = add_command(commands, "train", _run, "train a detector on your own pictures", _TRAIN)
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="which detector, see pydet models (default: yolov3-tiny)")
    add("--data", metavar="PATH", help=_DATA)
    add("--epochs", type=int, metavar="N", help="how often every picture is seen")
    add("--out", metavar="DIR", help="folder of the run (default: runs/MODEL, or as the cfg is called)")
    add("--resume", metavar="DIR", help=_RESUME)
    add("--config", metavar="FILE", help=_CONFIG)
    add("--set", action="append", default=[], metavar="NAME=VALUE", help=_SET)
    data = parser.add_argument_group("data")
    data.add_argument("--images", metavar="DIR", help="folder of the pictures, where it cannot be guessed")
    data.add_argument(
        "--labelled", metavar="DIR", help="a folder of pictures for each class: YOLO9000's joint training"
    )
    data.add_argument("--train-split", metavar="NAME", help="trained on: train, train+val, ... (default: train)")
    data.add_argument("--val-split", metavar="NAME", help="measured on the way (default: val, if there is one)")
    data.add_argument("--test-split", metavar="NAME", help="measured at the end (default: test, if there is one)")
    model = parser.add_argument_group("model")
    model.add_argument("--weights", metavar="FILE", help=_WEIGHTS)
    model.add_argument("--backbone-only", action="store_const", const=True, help="take only the backbone from them")
    model.add_argument("--cfg", metavar="FILE", help=_CFG)
    model.add_argument("--size", type=int, metavar="N", help="longer side of the network's input in pixels")
    updates = parser.add_argument_group("updates")
    updates.add_argument("--batch-size", type=int, metavar="N", help="pictures of an update, of all processes together")
    updates.add_argument("--parts", type=int, metavar="N", help=_PARTS)
    updates.add_argument("--learning-rate", type=float, metavar="X", help="the highest one")
    updates.add_argument("--amp", metavar="KIND", help="auto, bf16 or off: convolutions in bfloat16")
    updates.add_argument("--device", metavar="NAME", help="cpu (default), cuda or cuda:N")
    updates.add_argument("--workers", type=int, metavar="N", help="processes that read pictures")
    updates.add_argument("--seed", type=int, metavar="N", help="of all that is random (default: 0)")


_OWN = ("run", "resume", "config", "set")  # of the command, not settings


def _run(options: argparse.Namespace) -> int:
    from pydet.training import NotFinite

    try:
        result = _trained(options)
    except NotFinite as error:
        say(str(error))
        return SOME_FAILED
    said = f"the weights, and a report, are in {result.folder}{os.sep}"
    if not result.finished:
        said = f"interrupted after update {result.updates}; go on with: pydet train --resume {result.folder}"
    if result.first:
        say(said)
    return ALL_DONE if result.finished else INTERRUPTED


def _trained(options: argparse.Namespace) -> Result:
    from pydet.training import SettingsError, resume, train

    given = {name: value for name, value in vars(options).items() if name not in _OWN and value is not None}
    if options.resume is not None:
        others = [name for name in given if name != "device"]
        if others or options.config or options.set:
            names = ", ".join(others or ["config" if options.config else "set"])
            raise SettingsError(f"train: --resume goes on with the settings of the run; leave out {names}")
        return resume(options.resume, options.device)
    return train(settings_from(given, options.config, options.set))


def settings_from(given: dict[str, Any], config: str | Path | None, pairs: list[str]) -> Settings:
    """Settings of the command line, on those of a file, on those of a cfg of one's own or the detector's defaults."""
    from pydet.models.registry import find
    from pydet.training import Settings, SettingsError, defaults, read_settings
    from pydet.training.cfg import settings_of_cfg
    from pydet.training.settings import check_names, parts_of
    from pydet.training.start import read_source, start_weights

    values: dict[str, Any] = {}
    for more in (read_settings(config) if config else {}, _pairs(pairs) | given):
        # Who names epochs means them, whatever was said of updates before.
        values |= ({"updates": 0} if "epochs" in more else {}) | more
    check_names(values, "train")
    asked = ("model", "cfg", "weights", "backbone_only", "batch_size")
    wanted = Settings(**{name: value for name, value in values.items() if name in asked})
    if not wanted.cfg:
        find(wanted.model)
    path = start_weights(wanted)
    fine_tuning = path is not None and not wanted.backbone_only and bool(read_source(path, wanted).class_names)
    found = settings_of_cfg(wanted.cfg) if wanted.cfg else {}
    if not found:
        found = defaults("" if wanted.cfg else wanted.model, fine_tuning)
    if "batch_size" in values and found["parts"] > 1:  # a part has no more pictures, and takes no more memory
        found["parts"] = parts_of(wanted.batch_size, max(found["batch_size"] // found["parts"], 1))
    try:
        return Settings(**found | values)
    except SettingsError as error:
        if not wanted.cfg:
            raise
        raise SettingsError(f"{error}; what no option says is from {wanted.cfg}") from None


def _pairs(pairs: list[str]) -> dict[str, Any]:
    """NAME=VALUE as TOML has it; a value that is none in TOML is a text."""
    from pydet.training import SettingsError
    from pydet.training.settings import parse_toml

    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise SettingsError(f"train: --set wants NAME=VALUE, got {pair!r}")
        found[name.strip().replace("-", "_")] = parse_toml(value.strip())
    return found
