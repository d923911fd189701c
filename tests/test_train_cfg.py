"""A cfg of one's own with max_batches is trained as it says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from training_cases import BCCD, small_sections

from pydet.cli import main
from pydet.commands.train import settings_from
from pydet.models import Darknet, WeightsError, save_weights
from pydet.models.darknet.cfg import CfgError, format_cfg, parse_cfg
from pydet.training import (
    CheckpointError,
    Policy,
    Settings,
    SettingsError,
    defaults,
    read_settings,
    resume,
    settings_of_cfg,
    train,
)
from pydet.training.batches import input_size
from pydet.training.log import read_table
from pydet.training.loop import Loop
from pydet.training.rates import rates_of
from pydet.training.start import read_source, take

# The [net] sections of four of Darknet's cfgs, without the size of the input.
YOLOV1 = """batch=64 subdivisions=64 momentum=0.9 decay=0.0005 learning_rate=0.0005 policy=steps
  steps=200,400,600,20000,30000 scales=2.5,2,2,.1,.1 max_batches=40000"""
YOLOV2 = """batch=64 subdivisions=8 momentum=0.9 decay=0.0005 learning_rate=0.001 burn_in=1000 max_batches=80200
  policy=steps steps=40000,60000 scales=.1,.1"""
TINY_VOC = """batch=64 subdivisions=8 momentum=0.9 decay=0.0005 learning_rate=0.001 max_batches=40200 policy=steps
  steps=-1,100,20000,30000 scales=.1,10,.1,.1"""
YOLOV3 = """batch=64 subdivisions=16 momentum=0.9 decay=0.0005 angle=0 learning_rate=0.001 burn_in=1000
  max_batches=500200 policy=steps steps=400000,450000 scales=.1,.1"""


def write(folder: Path, net: str, head: str = "") -> str:
    """The small detector of the other tests, with these options more in its first and its last section."""
    path = folder / "mine.cfg"
    sections = small_sections()
    for section, more in ((sections[0], net), (sections[-1], head)):
        section.options |= dict(pair.split("=") for pair in more.split())
    path.write_text(format_cfg(sections))
    return str(path)


@pytest.mark.parametrize(
    "net",
    [
        YOLOV1,
        YOLOV2,
        TINY_VOC,
        YOLOV3,
        "batch=8 max_batches=50",
        "batch=8 max_batches=50 burn_in=40 power=2 learning_rate=.5",
        "batch=8 max_batches=50 policy=steps steps=10,5,30,50,51 scales=.5,.25,3,.5,7",
    ],
)
def test_its_rates(net: str, tmp_path: Path) -> None:
    """Policy is compared with the real Darknet's rates in tests/test_darknet_training.py."""
    settings = settings_from({"cfg": write(tmp_path, net)}, None, [])
    rates = rates_of(settings, settings.updates)
    section = parse_cfg("[net]\n" + "\n".join(net.split()))[0]
    policy = Policy.of(section)
    assert settings.updates == section.integer("max_batches")
    near = {n + d for n in (1, *policy.steps, policy.burn_in, settings.updates) for d in (-1, 0, 1)}
    for update in sorted(n for n in near | {*range(1, 100)} if 1 <= n <= settings.updates):
        assert rates.rate(update) == pytest.approx(policy.rate(update), rel=1e-12), update


def test_all_else_that_it_says(tmp_path: Path) -> None:
    found = settings_from({"cfg": write(tmp_path, YOLOV3, "random=1")}, None, [])
    assert (found.batch_size, found.parts, found.momentum, found.weight_decay) == (64, 16, 0.9, 0.0005)
    assert (found.multi_scale, found.augmentation, found.square, found.ema, found.clip) == (True, "paper", True, 0, 0)
    # What it leaves out is as in Darknet's parser.c
    found = settings_from({"cfg": write(tmp_path, "batch=6 max_batches=9")}, None, [])
    assert (found.batch_size, found.parts, found.momentum, found.weight_decay) == (6, 1, 0.9, 0.0001)
    assert (found.learning_rate, found.warmup, found.multi_scale) == (0.001, 0, False)
    # As published for detection, with batch=1: so many as in yolov3.cfg
    found = settings_from({"cfg": write(tmp_path, "max_batches=9 decay=.01")}, None, [])
    assert (found.batch_size, found.parts, found.weight_decay) == (64, 16, 0.01)
    # Nothing about training
    cfg = write(tmp_path, "momentum=.3")
    assert settings_of_cfg(cfg) == {}
    assert settings_from({"cfg": cfg}, None, []) == Settings(cfg=cfg, **defaults("", fine_tuning=False))


def test_what_is_said_elsewhere_wins(tmp_path: Path) -> None:
    cfg = write(tmp_path, YOLOV3)
    found = settings_from({"cfg": cfg, "epochs": 4, "batch_size": 8}, None, ["momentum=0.5"])
    assert (found.updates, found.epochs, found.batch_size, found.parts, found.momentum) == (0, 4, 8, 2, 0.5)
    rates = rates_of(found, 1000)  # the steps keep their places, the warm-up is a tenth
    assert [rates.rate(n) for n in (100, 799, 801, 901)] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5])
    config = tmp_path / "my.toml"
    config.write_text(f"cfg = {cfg!r}\nupdates = 70\nepochs = 3")
    assert settings_from({}, config, []).updates == 70  # as settings.toml of a run says it
    assert settings_from({}, config, ["epochs=5"]).updates == 0
    assert settings_from({"epochs": 5}, config, ["updates=6"]).updates == 6


def test_the_command_trains_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = "batch=2 subdivisions=2 max_batches=7 learning_rate=.01 burn_in=3 policy=steps steps=5 scales=.1 mosaic=1"
    cfg = write(tmp_path, net, "iou_loss=ciou")
    run = tmp_path / "run"
    words = ["--cfg", cfg, "--data", str(BCCD), "--out", str(run), "--workers", "0", "--amp", "off"]
    assert main(["train", *words]) == 0
    printed = capsys.readouterr().out
    assert "updates 1 to 7 of 2 pictures, 4.667 epochs" in printed  # there are three pictures
    assert "not read here, and changes nothing: mosaic=1 of [net], iou_loss=ciou of [yolo]" in printed
    rows = read_table(run / "losses.csv")
    rates = [0.01 * (1 / 3) ** 4, 0.01 * (2 / 3) ** 4, 0.01, 0.01, 0.001, 0.001, 0.001]
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx(rates, rel=1e-5)
    assert settings_from({}, run / "settings.toml", []) == Settings(**read_settings(run / "settings.toml"))


@pytest.mark.parametrize(
    ("net", "error", "message"),
    [
        ("adam=1", CfgError, r"mine\.cfg, line 1, \[net\]: adam=1 is not supported in training, which is by SGD"),
        ("policy=poly", SettingsError, "train: schedule must be one of steps, cosine, constant, got 'poly'"),
        ("policy=sgdr", CfgError, "policy must be one of .*, got 'sgdr'"),
        ("policy=steps", CfgError, "the key 'steps' is missing"),
        ("policy=steps steps=3,4 scales=.1", CfgError, "every one of steps must have its scale"),
        ("batch=0", CfgError, "batch must be at least 1, got 0"),
        ("subdivisions=16", SettingsError, "batch_size 8 must be a multiple of parts, got 16"),
        ("batch=8 subdivisions=3", SettingsError, "batch_size 8 must be a multiple of parts, got 3"),
        ("decay=-1", SettingsError, "weight_decay must be at least 0"),
        ("momentum=1", SettingsError, "momentum must be in 0..1, below 1"),
        ("burn_in=-1", SettingsError, "warmup must be at least 0"),
        ("max_batches=-3", CfgError, "max_batches must be at least 0, got -3"),
    ],
)
def test_what_cannot_be_done(net: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        settings_from({"cfg": write(tmp_path, "batch=8 max_batches=50 " + net)}, None, [])
    if net == "subdivisions=16":
        assert settings_from({"cfg": str(tmp_path / "mine.cfg"), "batch_size": 3}, None, []).parts == 3
    if net == "policy=poly":
        assert settings_from({"cfg": str(tmp_path / "mine.cfg")}, None, ["schedule=cosine"]).schedule == "cosine"


def test_options_are_checked_with_what_it_says(tmp_path: Path) -> None:
    """Not with the defaults that would hold without it."""
    cfg = write(tmp_path, "batch=96 subdivisions=48 max_batches=10 policy=steps steps=5,8 scales=.1,.1")
    assert settings_from({"cfg": cfg, "parts": 3}, None, []).parts == 3
    assert settings_from({"cfg": cfg}, None, ["scales=[0.5, 0.25]"]).scales == (0.5, 0.25)
    with pytest.raises(SettingsError, match=r"batch_size 96 must be a multiple of parts, got 7; .* from .*mine\.cfg"):
        settings_from({"cfg": cfg, "parts": 7}, None, [])


def test_going_on_from_its_own_weights(tmp_path: Path) -> None:
    """A class is its place: what is trained has names, and the cfg has none."""
    cfg = write(tmp_path, "batch=2 max_batches=3")
    trained = Darknet(parse_cfg(Path(cfg).read_text()))
    save_weights(trained, tmp_path / "mine.weights")
    network = Darknet(parse_cfg(Path(cfg).read_text()), class_names=["RBC", "WBC", "Platelets"])
    settings = settings_from({"cfg": cfg}, None, [])
    said = take(network, read_source(tmp_path / "mine.weights", settings))
    assert "in part" not in said
    for name, tensor in trained.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name


@pytest.mark.parametrize("option", ["stopbackward=1", "learning_rate=0.1"])
def test_layers_that_learn_otherwise_are_refused(option: str, tmp_path: Path) -> None:
    cfg = write(tmp_path, "batch=2 max_batches=3", option)
    with pytest.raises(CfgError, match=rf"\[yolo\]: {option} .*is not supported in training"):
        train(settings_from({"cfg": cfg, "data": str(BCCD), "out": str(tmp_path / "run")}, None, []))


def test_a_backbone_is_that_of_a_model(tmp_path: Path) -> None:
    cfg = write(tmp_path, "batch=2 max_batches=3")
    save_weights(Darknet(parse_cfg(Path(cfg).read_text())), tmp_path / "mine.weights")
    given = {"cfg": cfg, "data": str(BCCD), "out": str(tmp_path / "run"), "backbone_only": True, "workers": 0}
    with pytest.raises(WeightsError, match="backbone_only is for the models of pydet"):
        train(settings_from(given | {"weights": str(tmp_path / "mine.weights")}, None, []))


def test_resume_with_another_cfg(tmp_path: Path) -> None:
    cfg = Path(write(tmp_path, "batch=2 max_batches=3"))
    given = {"cfg": str(cfg), "data": str(BCCD), "out": str(tmp_path / "run"), "workers": 0}
    train(settings_from(given, None, ["val_split=test"]))
    cfg.write_bytes(b"# a remark\r\n" + cfg.read_bytes().replace(b"\n", b"\r\n"))
    resume(tmp_path / "run")
    cfg.write_text(cfg.read_text().replace("ignore_thresh=.7", "ignore_thresh=.1"))
    with pytest.raises(CheckpointError, match=r"the cfg is no longer what this training began with: .*mine\.cfg"):
        resume(tmp_path / "run")


def test_its_own_size_need_not_be_a_multiple_of_32() -> None:
    sizes = torch.tensor([[480, 640]])
    assert input_size(Settings(cfg="mine.cfg"), (80, 80), True, sizes) == (80, 80)
    with pytest.raises(SettingsError, match="size must be a multiple of 32, got 80"):
        input_size(Settings(cfg="mine.cfg", multi_scale=True), (80, 80), True, sizes)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_cannot_be_read(workers: int, tmp_path: Path) -> None:
    """One sentence, and the processes that read end with the training."""
    data = tmp_path / "bccd"
    shutil.copytree(BCCD, data)
    broken = next((data / "JPEGImages").glob("*00001.jpg"))
    broken.write_bytes(broken.read_bytes()[:3000])
    cfg = write(tmp_path, "batch=2 max_batches=30")
    words = ["train", "--cfg", cfg, "--data", str(data), "--out", str(tmp_path / "run"), "--workers", str(workers)]
    split = [*words, "--train-split", "train+test", "--val-split", "test"]
    done = subprocess.run([sys.executable, "-m", "pydet", *split], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert re.fullmatch(r"pydet: \S*BloodImage_00001\.jpg: truncated image .*\n", done.stderr), done.stderr


def test_a_cfg_that_is_edited_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a checkpoint keeps of it is what the training began with."""
    cfg = Path(write(tmp_path, "batch=2 max_batches=3"))
    text, original = cfg.read_text(), Loop.update

    def update(*args: Any) -> Any:
        cfg.write_text("nonsense")
        return original(*args)

    monkeypatch.setattr(Loop, "update", update)
    train(settings_from({"cfg": str(cfg), "data": str(BCCD), "out": str(tmp_path / "run"), "workers": 0}, None, []))
    cfg.write_text(text)
    assert resume(tmp_path / "run").finished
