"""Everything that can be set about a training: defaults from the papers, a TOML file, the command line."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCHEDULES = ("steps", "cosine", "constant")
AMP = ("auto", "bf16", "off")
AUGMENTATIONS = ("paper", "mild", "flip", "none")


class SettingsError(ValueError):
    """A setting that makes no sense, or a file of settings that cannot be used; the message names it."""


@dataclass(frozen=True)
class Settings:
    """What `pydet train` does. A name here is a key of the TOML file, and with hyphens an option of the command.

    Attributes:
        model: of `pydet models`.
        cfg: a Darknet cfg of one's own, instead of `model`. The command takes its training, too, from a [net] section
            with max_batches.
        data: the data set: a file or folder that `load_dataset` knows.
        images: the folder of its pictures, where that cannot be guessed.
        labelled: a folder with a folder of pictures for each class, which have no boxes: YOLO9000's joint training.
        train_split, val_split, test_split: what is trained on, what is measured now and then to choose the best
            weights, and what is measured at the end. "": the default: train, val and test, where the data has them.
        out: the folder of the run; "": runs/MODEL.
        weights: where training starts: "auto" for the weights that come with pydet, where it has some, "none" for
            random numbers, or a file.
        backbone_only: take only the backbone from these weights.
        epochs: how often every picture is seen.
        updates: how many there are, instead of `epochs`; 0: as many as these make.
        batch_size: pictures of an update, of all processes together.
        parts: so many forward and backward passes make an update: less memory, the same gradient (except for batch
            normalisation, and for what SSD divides by).
        size: the longer side of the network's input, for RetinaNet the shorter one; 0: the detector's own.
        width: channels of the first stage of SSD's or RetinaNet's backbone, for a smaller one; 0: 64, as published.
        square: whether the input is square, or as the cfg has it; else it has the shape of most of the pictures.
        multi_scale: a size between 10/13 and 19/13 of `size` is drawn every 10 updates (YOLOv2, section 2), all square.
        learning_rate, momentum, weight_decay: of SGD; the decay is for weights, not for biases and normalisation.
        schedule: of the learning rate. "steps": times the scales from these parts of all updates on; "cosine": down to
            `final_rate` of it; "constant".
        steps, scales, final_rate: see there.
        warmup: updates before which the rate is learning_rate (n / warmup)^warmup_power; at most a tenth of all, where
            `epochs` say how many these are.
        clip: largest norm of the gradient; 0: no limit.
        ema: how much of the average of the weights stays at each update; 0: no average. It is what is measured and
            kept.
        batch_norm_momentum: how much of a batch's statistics enters the running ones.
        amp: "bf16": convolutions in bfloat16; "auto": where the machine has instructions for it; "off".
        augmentation: "paper": the detector's, or what `cfg` says of it; "mild": small changes of place, size and
            colour; "flip"; "none".
        vertical_flip: turn pictures upside down half of the time: for pictures that have no up and down.
        device: "cpu", "cuda" or "cuda:N".
        workers: processes that read pictures, for each that trains; -1: chosen by the number of processors.
        seed: of all that is random.
        checkpoint_every: updates between two checkpoints; 0: an epoch, at least 100, at most 500.
        evaluate_every: epochs between two measurements on the val split; 0: a fifth of all.
    """

    model: str = "yolov3-tiny"
    cfg: str = ""
    data: str = ""
    images: str = ""
    labelled: str = ""
    train_split: str = ""
    val_split: str = ""
    test_split: str = ""
    out: str = ""
    weights: str = "auto"
    backbone_only: bool = False
    epochs: int = 100
    updates: int = 0
    batch_size: int = 64
    parts: int = 1
    size: int = 0
    width: int = 0
    square: bool = True
    multi_scale: bool = False
    learning_rate: float = 0.001
    momentum: float = 0.9
    weight_decay: float = 0.0005
    schedule: str = "steps"
    steps: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()
    final_rate: float = 0.02
    warmup: int = 0
    warmup_power: float = 4.0
    clip: float = 0.0
    ema: float = 0.0
    batch_norm_momentum: float = 0.01
    amp: str = "auto"
    augmentation: str = "paper"
    vertical_flip: bool = False
    device: str = "cpu"
    workers: int = -1
    seed: int = 0
    checkpoint_every: int = 0
    evaluate_every: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _checked(field.name, getattr(self, field.name), str(field.type)))
        for name, (fine, rule) in _RULES.items():
            if not fine(getattr(self, name)):
                raise SettingsError(f"train: {name} must be {rule}, got {getattr(self, name)!r}")
        if len(self.steps) != len(self.scales):
            raise SettingsError(f"train: {len(self.steps)} steps need as many scales, got {len(self.scales)}")
        if self.batch_size % self.parts:
            raise SettingsError(f"train: batch_size {self.batch_size} must be a multiple of parts, got {self.parts}")


def _choice(choices: tuple[str, ...]) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: value in choices), "one of " + ", ".join(choices)


def _least(least: float) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: value >= least), f"at least {least}"


_POSITIVE: tuple[Callable[[Any], bool], str] = (lambda value: value > 0), "greater than 0"
_FRACTION: tuple[Callable[[Any], bool], str] = (lambda value: 0 <= value < 1), "in 0..1, below 1"
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "epochs": _least(1),
    "updates": _least(0),
    "batch_size": _least(1),
    "parts": _least(1),
    "size": _least(0),
    "width": ((lambda width: width % 4 == 0 and width >= 0), "a multiple of 4"),
    "learning_rate": _POSITIVE,
    "momentum": _FRACTION,
    "weight_decay": _least(0),
    "schedule": _choice(SCHEDULES),
    "steps": ((lambda steps: all(0 < step <= 1 for step in steps)), "parts of all updates, in 0..1"),
    "scales": ((lambda scales: all(scale >= 0 for scale in scales)), "at least 0 each"),
    "final_rate": _FRACTION,
    "warmup": _least(0),
    "warmup_power": _POSITIVE,
    "clip": _least(0),
    "ema": _FRACTION,
    "batch_norm_momentum": _FRACTION,
    "amp": _choice(AMP),
    "augmentation": _choice(AUGMENTATIONS),
    "workers": _least(-1),
    "seed": ((lambda seed: 0 <= seed < 1 << 63), "in 0..2^63 - 1"),
    "checkpoint_every": _least(0),
    "evaluate_every": _least(0),
}


def _checked(name: str, value: Any, kind: str) -> Any:
    """The value as the type that the attribute has; TOML's 1 is a float where one is wanted."""
    wrong = SettingsError(f"train: {name} must be {_KINDS[kind]}, got {value!r}")
    if kind.startswith("tuple"):
        if not isinstance(value, (list, tuple)):
            raise wrong
        return tuple(_checked(name, item, "float") for item in value)
    if isinstance(value, bool) != (kind == "bool"):
        raise wrong
    if kind == "float" and isinstance(value, (int, float)):
        if not abs(value) <= sys.float_info.max:  # TOML has inf and nan, too
            raise wrong
        return float(value)
    if type(value).__name__ != kind:
        raise wrong
    return value


_KINDS = {
    "str": "a text",
    "bool": "true or false",
    "int": "a whole number",
    "float": "a finite number",
    "tuple[float, ...]": "a list of numbers",
}

# From the papers, or the author's cfgs where these say more. Steps are parts of all updates, so that they keep their
# place where somebody trains for fewer epochs.
_DARKNET = {"batch_size": 64, "weight_decay": 0.0005, "learning_rate": 0.001, "warmup": 1000}
_PAPERS: dict[str, dict[str, Any]] = {
    # Section 2.2: .01 for 75 epochs, .001 for 30, .0001 for 30, and slowly up to it at the beginning.
    "yolov1": _DARKNET
    | {"parts": 8, "epochs": 135, "learning_rate": 0.01, "steps": (75 / 135, 105 / 135), "scales": (0.1, 0.1)},
    # Section 2: 160 epochs, from .001 on, a tenth of it at 60 and 90.
    "yolov2": _DARKNET
    | {"parts": 8, "epochs": 160, "steps": (60 / 160, 90 / 160), "scales": (0.1, 0.1), "multi_scale": True},
    "yolo9000": _DARKNET | {"parts": 8, "epochs": 160, "steps": (60 / 160, 90 / 160), "scales": (0.1, 0.1)},
    # yolov3.cfg: 500,200 updates of 64 COCO pictures, a tenth at 400,000 and at 450,000.
    "yolov3": _DARKNET
    | {"parts": 16, "epochs": 273, "steps": (400 / 500.2, 450 / 500.2), "scales": (0.1, 0.1), "multi_scale": True},
    # Sections 3.1 and 3.4: VOC07+12, 120,000 updates of 32, a tenth at 80,000 and 100,000.
    "ssd": {"batch_size": 32, "parts": 4, "epochs": 232, "learning_rate": 0.001, "weight_decay": 0.0005}
    | {"steps": (8 / 12, 10 / 12), "scales": (0.1, 0.1), "warmup": 500, "warmup_power": 1.0, "clip": 35.0},
    # Section 4.1: 90,000 updates of 16, a tenth at 60,000 and 80,000.
    "retinanet": {"batch_size": 16, "parts": 8, "epochs": 12, "learning_rate": 0.01, "weight_decay": 0.0001}
    | {"steps": (6 / 9, 8 / 9), "scales": (0.1, 0.1), "warmup": 500, "warmup_power": 1.0, "clip": 35.0},
}
# From weights that find objects already. The papers do not say; measured with yolov3-tiny on blood cells.
_FINE_TUNING: dict[str, Any] = {
    "batch_size": 8,
    "parts": 1,
    "epochs": 20,
    "learning_rate": 0.001,
    "schedule": "cosine",
    "steps": (),
    "scales": (),
    "warmup": 50,
    "warmup_power": 1.0,
    "ema": 0.998,
    "batch_norm_momentum": 0.03,
    "multi_scale": False,
    "square": False,
}


def defaults(model: str, fine_tuning: bool) -> dict[str, Any]:
    """What is set for a detector where the user says nothing: its paper's training, or one for weights that are good.

    Args:
        model: of `pydet models`; "" for a cfg of one's own that says nothing of training: it is taken for a YOLOv3.
        fine_tuning: whether training starts from a detector's weights, head and all.
    """
    kin = next((name for name in _PAPERS if model.startswith(name)), "yolov3")
    found = dict(_PAPERS[kin])
    if fine_tuning:
        found |= _FINE_TUNING | ({"augmentation": "mild"} if kin.startswith("yolo") else {})
    return found


def parts_of(batch_size: int, most: int) -> int:
    """The fewest parts of equally many pictures, of at most so many each."""
    return next(n for n in range(1, batch_size + 1) if batch_size % n == 0 and batch_size // n <= most)


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings of a TOML file.

    Raises:
        SettingsError: the file cannot be read, or a key is unknown.
    """
    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, a list in a list in a list ...
        raise SettingsError(f"{path}: not a TOML file: {error}") from None
    check_names(found, str(path))
    return found


def as_toml(settings: Settings) -> str:
    """What `read_settings` reads."""

    def text(value: Any) -> str:
        words = json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
        return words.replace("\x7f", "\\u007f")  # which JSON takes as it is, and TOML does not

    return "".join(f"{name} = {text(value)}\n" for name, value in dataclasses.asdict(settings).items())


def parse_toml(value: str) -> Any:
    """A value as TOML has it, and .5 and 5., which it has not; what is none there is a text."""
    if re.fullmatch(r"[+-]?(\.\d+|\d+\.)", value):
        return float(value)
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        return value


def check_names(values: Mapping[str, Any], source: str) -> None:
    """Raises SettingsError for a name that no setting has, with one that is alike."""
    known = [field.name for field in dataclasses.fields(Settings)]
    for name in values:
        if name not in known:
            alike = difflib.get_close_matches(name, known, 1)
            hint = f"; is {alike[0]} meant?" if alike else f"; known are {', '.join(known)}"
            raise SettingsError(f"{source}: there is no setting {name!r}{hint}")
