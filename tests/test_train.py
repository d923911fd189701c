"""pydet train: settings, where it starts, what it says, that it learns."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from data_files import picture
from PIL import Image
from training_cases import BCCD, arguments, small_sections, small_settings, write_cfg

import pydet
from pydet.cli import main
from pydet.commands.train import settings_from
from pydet.data import DataError, load_dataset
from pydet.data.augment import Augmentation
from pydet.data.augment_darknet import ColourJitter, DarknetCrop, DarknetPlace
from pydet.losses import Targets
from pydet.models import MODELS, Darknet, WeightsError, load_checkpoint, save_weights
from pydet.models.darknet.cfg import CfgError, format_cfg, parse_cfg
from pydet.models.darknet.sections import section
from pydet.models.registry import ASSETS, find
from pydet.processes import Processes, check_device, processes
from pydet.training import NotFinite, Settings, SettingsError, defaults, read_settings, train
from pydet.training.batches import augmentation, input_size, parts
from pydet.training.ema import MovingAverage
from pydet.training.log import Table, read_table
from pydet.training.loop import Loop, deterministic
from pydet.training.rates import Cosine, rates_of
from pydet.training.report import report
from pydet.training.settings import as_toml
from pydet.training.start import read_source, take


def test_it_learns_real_pictures_by_heart(tmp_path: Path) -> None:
    """Three pictures of blood cells, and a detector of 60,000 numbers that finds them again."""
    settings = small_settings(
        tmp_path,
        cfg=str(write_cfg(tmp_path, size=(96, 128), filters=16)),
        augmentation="none",
        multi_scale=False,
        val_split="train",
        test_split="train",
        parts=1,
        epochs=150,
        batch_size=3,
        learning_rate=0.01,
        ema=0.9,
        batch_norm_momentum=0.1,
        evaluate_every=1000,
        checkpoint_every=1000,
    )
    cfg = Path(settings.cfg)
    cfg.write_text(cfg.read_text().replace("probability=.1", "probability=0"))
    result = train(settings)
    assert result.evaluation is not None
    assert result.evaluation.metrics["AP50"] > 0.9, result.evaluation.table()
    # What it wrote is a detector like any other
    found = pydet.load(weights=result.folder / "best.safetensors").detect(
        str(BCCD / "JPEGImages" / "BloodImage_00001.jpg"), threshold=0.5
    )
    assert {"RBC", "WBC"} >= set(found.names)
    assert len(found) >= 8


def test_the_report(tmp_path: Path) -> None:
    result = train(small_settings(tmp_path, epochs=4))
    report = result.folder / "report"
    text = (report / "report.md").read_text()
    assert "class  objects     AP   AP50" in text
    for line in text.splitlines():
        if line.startswith("!["):
            with Image.open(report / line.partition("(")[2][:-1]) as picture:
                assert min(picture.size) > 300
    assert text.count("![") == 4  # curves, confusions, losses, the picture of the test split
    rows = read_table(result.folder / "losses.csv")
    assert [int(row["update"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(math.isclose(float(r["loss"]), sum(float(r[n]) for n in list(r)[4:]), rel_tol=1e-6) for r in rows)
    assert read_settings(result.folder / "settings.toml") == dataclasses.asdict(small_settings(tmp_path, epochs=4)) | {
        "steps": [],
        "scales": [],
    }


def test_a_loss_that_is_no_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = small_settings(tmp_path, learning_rate=1e20, clip=0.0, checkpoint_every=1, parts=1)
    assert main(arguments(settings)) == 1
    said = capsys.readouterr().err
    assert "train: the loss is no longer a number in update 2: " in said
    assert "nan" in said
    assert len({name for name in ("00007", "00338", "00343", "00001") if name in said}) in (1, 2)
    assert "keeps the last checkpoint" in said
    # The update that went wrong changed nothing
    assert all(math.isfinite(float(row["loss"])) for row in read_table(tmp_path / "run" / "losses.csv"))


def test_the_pictures_of_the_part_that_went_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Darknet.loss

    def loss(self: Darknet, raw: Any, targets: Any, seen: Any = None) -> dict[str, torch.Tensor]:
        terms = original(self, raw, targets, seen)
        return {name: term / 0 if len(targets.boxes) == 18 else term for name, term in terms.items()}

    monkeypatch.setattr(Darknet, "loss", loss)
    with pytest.raises(NotFinite, match=r"its pictures: \S*BloodImage_00007.jpg\. ") as error:
        train(small_settings(tmp_path, parts=2, augmentation="none", data=str(BCCD), train_split="train+test"))
    assert "inf" in str(error.value)


@pytest.mark.parametrize("clip", [10.0, 0.0])
def test_the_gradient_that_is_no_number(clip: float, tmp_path: Path) -> None:
    settings = small_settings(tmp_path, clip=clip)
    network = Darknet(small_sections(), class_names=["a", "b", "c"])
    loop = Loop(network, settings, 10, Processes())
    batch = make_batch(2)
    loop.update(batch)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items() if "running" not in name}
    first = next(network.parameters())
    first.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(Exception, match="norm of the gradient"):
        loop.update(batch)
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in before.items())


def make_batch(count: int) -> Any:
    from pydet.data import Batch

    random = torch.Generator().manual_seed(1)
    images = [torch.rand(3, 64, 96, generator=random) for _ in range(count)]
    boxes = torch.tensor([[8.0, 8, 30, 40], [40, 10, 90, 60], [10, 30, 20, 50]])
    counts = torch.tensor([2, 1, 0, 0][:count])
    rows = int(counts.sum())
    targets = Targets(boxes[:rows], torch.tensor([0, 2, 1])[:rows], counts)
    return Batch(images, targets, torch.arange(count))


def test_parts_of_a_batch() -> None:
    batch = make_batch(4)
    first, second = parts(batch, 2)
    assert first.targets.counts.tolist() == [2, 1]
    assert second.targets.counts.tolist() == [0, 0]
    assert torch.equal(first.targets.boxes, batch.targets.boxes)
    assert second.targets.boxes.shape == (0, 4)
    assert second.indices.tolist() == [2, 3]
    assert [len(part.images) for part in parts(batch, 3)] == [2, 2]


def test_parts_have_the_gradient_of_the_whole(tmp_path: Path) -> None:
    """Without batch normalisation and dropout, which see the parts."""
    gradients = []
    for count in (1, 2, 4):
        torch.manual_seed(0)
        network = Darknet(small_sections(), class_names=["a", "b", "c"])
        for layer in network.layers:
            layer.eval()
            layer.train = lambda mode=True, layer=layer: layer  # type: ignore[method-assign,assignment,misc]
        settings = small_settings(tmp_path, parts=count, batch_size=4, clip=0.0, weight_decay=0.0)
        loop = Loop(network, settings, 10, Processes())
        outcome = loop.update(make_batch(4))
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
        assert outcome.loss == pytest.approx(sum(outcome.terms.values()))
    for other in gradients[1:]:
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-4, atol=1e-5)


def test_moving_average() -> None:
    network = Darknet(small_sections(), class_names=["a", "b", "c"])
    average = MovingAverage(network, 0.8)
    expected = {name: tensor.double().clone() for name, tensor in network.state_dict().items()}
    for update in range(1, 60):
        with torch.no_grad():
            for tensor in network.state_dict().values():
                tensor.add_(0.01 * update)
        average.update(network, update)
        kept = min(0.8, (1 + update) / (10 + update))
        for name, tensor in network.state_dict().items():
            expected[name] = kept * expected[name] + (1 - kept) * tensor.double()
    for name, tensor in average.network.state_dict().items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-5)
    assert MovingAverage(network, 0.0).network is network


def test_cosine() -> None:
    rates = Cosine(0.1, 100, warmup=10, power=1, final=0.02)
    assert rates.rate(100) == pytest.approx(0.002)
    assert rates.rate(50) == pytest.approx(0.1 * 0.51)
    assert rates.rate(5) == pytest.approx(0.05 * (0.02 + 0.98 * (1 + math.cos(math.pi * 0.05)) / 2))
    assert rates.rate(1000) == rates.rate(100)


def test_steps_are_parts_of_all_updates() -> None:
    settings = Settings(learning_rate=1.0, steps=(0.5, 0.75), scales=(0.1, 0.5), warmup=1000)
    rates = rates_of(settings, 200)  # the warm-up is cut to a tenth
    assert [rates.rate(n) for n in (99, 100, 150, 200)] == pytest.approx([1, 0.1, 0.05, 0.05])
    assert rates.rate(10) == pytest.approx(0.5**4)
    turned = rates_of(Settings(learning_rate=1.0, steps=(0.75, 0.5), scales=(0.5, 0.1), warmup=1000), 200)
    assert [turned.rate(n) for n in range(1, 201)] == [rates.rate(n) for n in range(1, 201)]
    constant = rates_of(Settings(learning_rate=0.3, schedule="constant", steps=(0.5,), scales=(0.1,)), 200)
    assert constant.rate(200) == 0.3


def test_defaults_are_the_papers() -> None:
    """Numbers of the papers, and of yolov3.cfg."""
    assert defaults("yolov2", False)["epochs"] == 160
    assert defaults("yolov2", False)["steps"] == (0.375, 0.5625)
    retinanet = defaults("retinanet-resnet50", False)
    assert (retinanet["learning_rate"], retinanet["batch_size"], retinanet["weight_decay"]) == (0.01, 16, 0.0001)
    assert defaults("ssd300", False)["learning_rate"] == 0.001
    assert defaults("yolov1-tiny", False)["batch_size"] == 64
    yolov3 = defaults("yolov3-spp", False)
    assert round(yolov3["steps"][0] * 500_200) == 400_000
    for name in MODELS:
        for fine_tuning in (False, True):
            Settings(**defaults(name, fine_tuning))


def test_fine_tuning_is_for_weights_that_find_something() -> None:
    tuned = settings_from({"model": "yolov3-tiny"}, None, [])
    assert (tuned.schedule, tuned.batch_size, tuned.augmentation) == ("cosine", 8, "mild")
    for changed in ({"weights": "none"}, {"backbone_only": True}, {"model": "yolov3"}):
        scratch = settings_from(changed, None, [])
        assert (scratch.schedule, scratch.batch_size, scratch.augmentation) == ("steps", 64, "paper")


def test_another_batch_takes_no_more_memory() -> None:
    """yolov3.cfg has 16 parts of 4 pictures."""
    for batch_size, number in ((8, 2), (4, 1), (3, 1), (6, 2), (7, 7), (100, 25), (64, 16), (1, 1)):
        assert settings_from({"model": "yolov3", "batch_size": batch_size}, None, []).parts == number
    assert settings_from({"model": "yolov3", "batch_size": 8, "parts": 8}, None, []).parts == 8
    assert settings_from({"model": "yolov3-tiny", "batch_size": 16}, None, []).parts == 1  # as it is in fine-tuning


def test_options_win_over_the_file_over_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text('epochs = 7\nbatch_size = 16\naugmentation = "flip"\nsteps = [1, 0.5]\nscales = [0.5, 1]\n')
    pairs = ["momentum=.5", "clip=10.", "data=some where"]
    settings = settings_from({"batch_size": 4, "model": "yolov3-tiny"}, path, pairs)
    assert (settings.epochs, settings.batch_size, settings.augmentation) == (7, 4, "flip")
    assert (settings.momentum, settings.clip) == (0.5, 10.0)
    assert (settings.data, settings.steps) == ("some where", (1.0, 0.5))
    assert settings.ema == 0.998
    path.write_text(as_toml(settings))
    assert settings_from({}, path, []) == settings


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "nowhere"], "nowhere: no such file or folder"),
        ([], "train: there is no data set; name one: --data FOLDER"),
        (["yolov9", "--data", str(BCCD)], "unknown model 'yolov9'; known ones are"),
        (["--data", str(BCCD), "--epochs", "0"], "train: epochs must be at least 1, got 0"),
        (["--data", str(BCCD), "--set", "learning_rat=1"], "no setting 'learning_rat'; is learning_rate meant?"),
        (["--data", str(BCCD), "--set", "zzz=1"], "no setting 'zzz'; known are model, cfg,"),
        (["--data", str(BCCD), "--set", "clip"], "--set wants NAME=VALUE, got 'clip'"),
        (["--data", str(BCCD), "--set", "momentum=fast"], "train: momentum must be a finite number, got 'fast'"),
        (["--data", str(BCCD), "--seed", str(1 << 63)], "train: seed must be in 0..2^63 - 1, got 9223372036854775808"),
        (["--data", str(BCCD), "--set", "momentum=1.5"], "train: momentum must be in 0..1, below 1, got 1.5"),
        (["--data", str(BCCD), "--set", "square=1"], "train: square must be true or false, got 1"),
        (["--data", str(BCCD), "--set", "epochs=true"], "train: epochs must be a whole number, got True"),
        (["--data", str(BCCD), "--set", "steps=3"], "train: steps must be a list of numbers, got 3"),
        (["--data", str(BCCD), "--set", "steps=[0.5]"], "train: 1 steps need as many scales, got 0"),
        (["--data", str(BCCD), "--set", "steps=[2]", "--set", "scales=[1]"], "steps must be parts of all updates"),
        (["--data", str(BCCD), "--set", "steps=[1]", "--set", "scales=[-1]"], "train: scales must be at least 0 each"),
        (["--data", str(BCCD), "--set", "learning_rate=inf"], "train: learning_rate must be a finite number, got inf"),
        (["--data", str(BCCD), "--set", "schedule=linear"], "train: schedule must be one of steps, cosine, constant"),
        (["--data", str(BCCD), "--batch-size", "7", "--parts", "2"], "batch_size 7 must be a multiple of parts, got 2"),
        (["--data", str(BCCD), "--size", "100"], "train: size must be a multiple of 32, got 100"),
        (["ssd300", "--data", str(BCCD), "--size", "320"], "ssd300 works at 300 pixels only, got size 320"),
        (["ssd300", "--data", str(BCCD), "--set", "augmentation=mild"], "augmentation mild is for YOLO; ssd300 has"),
        (["--data", str(BCCD), "--val-split", "dev"], "no split named 'dev'; it has: test, train"),
        (["--data", str(BCCD), "--weights", "x.weights"], "x.weights"),
        (["--data", str(BCCD), "--weights", "x.onnx"], "weights must be a .weights, .pth or .safetensors file"),
        (["--data", str(BCCD), "--config", "none.toml"], "none.toml: cannot be read (No such file or directory)"),
        (["--data", str(BCCD), "--device", "cuda:9"], "device cuda:9: torch"),
        (["--data", str(BCCD), "--cfg", "none.cfg"], "none.cfg"),
        (["--data", str(BCCD), "--cfg", "four.cfg"], "is for 4 classes, the data has 3: Platelets, RBC, WBC"),
        (["--data", str(BCCD), "--set", "width=16"], "width is for ssd and retinanet; write a cfg for another yolov3"),
        (["ssd300", "--data", str(BCCD), "--set", "width=15"], "train: width must be a multiple of 4, got 15"),
        (["--data", "labelled"], "pictures with a label as a whole, without boxes, are for YOLO9000; labelled"),
    ],
)
def test_messages(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "four.cfg").write_text(format_cfg(small_sections(classes=4)))
    for name in ("cat", "dog"):
        picture(tmp_path / "labelled" / name / "a.jpg")
    assert main(["train", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") < 3
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("*.pt"))


@pytest.mark.parametrize("device", ["cuda:x", "gpu", "cpu:0", "cuda:-1", ""])
def test_a_device_is_cpu_or_a_gpu(device: str) -> None:
    with pytest.raises(ValueError, match=f"device must be cpu, cuda or cuda:N, got '{device}'"):
        check_device(device)


def test_no_gpu_is_shared_by_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="device cuda:1: with 2 processes it is cpu or cuda"), processes("cuda:1"):
        pass


def test_training_leaves_torchs_determinism_as_it_was() -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with deterministic(torch.device("cpu")):
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_report_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    pictures, network = load_dataset(BCCD, limit=1), Darknet(small_sections(), class_names=["a", "b", "c"]).eval()
    problems = report(tmp_path / "report", tmp_path, network, pictures, None, "nothing")
    assert problems == ["the report has no plots: plots need matplotlib: pip install 'pydet[plots]'"]
    assert "training.png" not in (tmp_path / "report" / "report.md").read_text()


def test_a_file_that_is_no_toml(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    for content in (b"epochs = = 3", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(SettingsError, match="not a TOML file"):
            read_settings(path)
    path.write_bytes(b"\xef\xbb\xbfepochs = 3\r\nclip = 1\r\n")  # as some editors on Windows save it
    assert read_settings(path) == {"epochs": 3, "clip": 1}
    path.write_text("epoch = 3")
    with pytest.raises(SettingsError, match=r"no setting 'epoch'; is epochs meant\?"):
        read_settings(path)


def test_a_cfg_says_how_pictures_change(tmp_path: Path) -> None:
    """jitter of its last layer, hue, saturation and exposure of [net]; [yolo] places pictures, the others crop them."""
    region = "[region]\nclasses=1\nnum=1\nanchors=1,1\n"
    detection = "[connected]\noutput=11\n[detection]\nclasses=1\nside=1\nnum=2\ncoords=4\n"
    yolo = "[yolo]\nclasses=1\nnum=1\nanchors=9,9\n"
    plain, changed = ColourJitter(0, 1, 1), ColourJitter(0.05, 1.25, 2)
    cases: list[tuple[str, Augmentation, Augmentation]] = [
        (yolo, DarknetPlace(0.2, (0.25, 2), plain), DarknetPlace(0.1, (0.25, 2), changed)),
        (region, DarknetCrop(0.2, plain), DarknetCrop(0.1, changed)),
        (detection, DarknetCrop(0.2, plain), DarknetCrop(0.1, changed)),
    ]
    before = "\n[convolutional]\nfilters=6\nsize=1\nactivation=linear\n"
    for head, default, other in cases:
        net, colours = "[net]\nwidth=32\nheight=32\nchannels=3\n", "hue=.05\nsaturation=1.25\nexposure=2\n"
        settings = Settings(cfg="mine.cfg")
        assert augmentation(settings, Darknet(parse_cfg(net + before + head))) == default
        assert augmentation(settings, Darknet(parse_cfg(net + colours + before + head + "jitter=.1\n"))) == other
        for bad in (head + "jitter=1", "[net]\nsaturation=0"):
            sections = parse_cfg((net + before + head).replace(bad.rpartition("\n")[0], bad))
            with pytest.raises(CfgError, match=r"(jitter=1|saturation=0) cannot be used in training"):
                augmentation(settings, Darknet(sections))


def test_input_sizes() -> None:
    wide, tall = torch.tensor([[480, 640]] * 3), torch.tensor([[640, 480]] * 3)
    tuned = Settings(square=False)
    assert input_size(tuned, (416, 416), True, wide) == (320, 416)  # 312 and what fills up the cells
    assert input_size(tuned, (416, 416), True, tall) == (416, 320)
    assert input_size(Settings(square=False, size=640), (416, 416), True, wide) == (480, 640)
    assert input_size(Settings(size=320), (416, 416), True, wide) == (320, 320)
    assert input_size(Settings(), (96, 128), True, wide) == (96, 128)
    assert input_size(tuned, (448, 448), False, wide) == (448, 448)


def test_a_table_forgets_what_came_after(tmp_path: Path) -> None:
    path = tmp_path / "losses.csv"
    table = Table(path, 0)
    for update in range(1, 6):
        table.add({"update": update, "loss": update / 2} | ({"prior": 1} if update < 3 else {}))
    with path.open("a") as file:
        file.write("6,3.")  # a crash
    resumed = Table(path, 3)
    resumed.add({"update": 4, "loss": 7, "new": 1})
    assert path.read_text() == "update,loss,prior\n1,0.5,1\n2,1.0,1\n3,1.5,\n4,7,\n"
    Table(path, 0).add({"update": 1})
    assert path.read_text() == "update\n1\n"


class TestStart:
    """Where the numbers come from."""

    def test_all_of_the_same_classes(self, tmp_path: Path) -> None:
        settings = Settings(model="yolov3-tiny")
        source = read_source(ASSETS / "yolov3-tiny.safetensors", settings)
        network = find("yolov3-tiny").build()
        assert "starts with 55 of 59 tensors" in take(network, source)
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, source.tensors[name]), name

    def test_the_head_of_other_classes(self) -> None:
        source = read_source(ASSETS / "yolov3-tiny.safetensors", Settings())
        network = find("yolov3-tiny").build(["cell", "Dog"])
        said = take(network, source)
        assert "the head in part (4 tensors)" in said
        old, new = source.tensors["layers.15.conv.weight"], network.state_dict()["layers.15.conv.weight"]
        dog = find("yolov3-tiny").class_names().index("dog")
        for anchor in range(3):
            mine, theirs = new[7 * anchor : 7 * anchor + 7], old[85 * anchor : 85 * anchor + 85]
            assert torch.equal(mine[:5], theirs[:5])  # where, and whether
            assert not mine[5].any()  # nobody knows a cell
            assert torch.equal(mine[6], theirs[5 + dog])

    def test_only_the_backbone(self) -> None:
        source = read_source(ASSETS / "yolov3-tiny.safetensors", Settings())
        network = find("yolov3-tiny").build(["cell"])
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        take(network, source, "yolov3-tiny")
        for name, tensor in network.state_dict().items():
            of_backbone = int(name.split(".")[1]) < 15
            assert torch.equal(tensor, source.tensors[name] if of_backbone else before[name]), name

    def test_the_first_layers_of_a_darknet_file(self, tmp_path: Path) -> None:
        sections = small_sections()
        first = Darknet(sections[:4])
        save_weights(first, tmp_path / "first.weights")
        save_weights(first, tmp_path / "first.conv.3")  # as Darknet's author names them
        settings = Settings(cfg=str(write_cfg(tmp_path)))
        assert not read_source(tmp_path / "first.conv.3", settings).class_names
        scratch = settings_from({"cfg": settings.cfg, "weights": str(tmp_path / "first.conv.3")}, None, [])
        assert scratch.augmentation == "paper"
        source = read_source(tmp_path / "first.weights", settings)
        network = Darknet(sections, class_names=["a", "b", "c"])
        assert "(3 layers)" in take(network, source)
        for name, tensor in first.state_dict().items():
            assert torch.equal(network.state_dict()[name], tensor)
        with (tmp_path / "first.weights").open("ab") as file:
            file.write(b"\0\0\0\0")
        with pytest.raises(WeightsError, match=r"too short|too long"):
            read_source(tmp_path / "first.weights", settings)

    def test_imagenet_backbones(self, tmp_path: Path) -> None:
        """Names as torchvision's classifiers have them."""
        retinanet = find("retinanet-resnet50").build(["a", "b"])
        body = retinanet.backbone.body  # type: ignore[union-attr]
        state = {name: torch.rand(tensor.shape) for name, tensor in body.state_dict().items()}
        torch.save(state | {"fc.weight": torch.rand(10, 2048)}, tmp_path / "resnet.pth")
        take(retinanet, read_source(tmp_path / "resnet.pth", Settings(model="retinanet-resnet50")))
        assert all(torch.equal(tensor, state[name]) for name, tensor in body.state_dict().items())

        ssd = find("ssd300").build(["background", "a"])
        places = {0: "features.0", 5: "features.5", 21: "features.21", 24: "extra.0.1", 28: "extra.0.5"}
        own = ssd.backbone.state_dict()  # type: ignore[union-attr]
        state = {f"features.{n}.bias": torch.rand(own[f"{place}.bias"].shape) for n, place in places.items()}
        state["features.0.weight"] = torch.rand(64, 3, 3, 3)
        torch.save(state, tmp_path / "vgg.pth")
        take(ssd, read_source(tmp_path / "vgg.pth", Settings(model="ssd300")))
        for number, place in places.items():
            assert torch.equal(ssd.backbone.state_dict()[f"{place}.bias"], state[f"features.{number}.bias"])

    @pytest.mark.parametrize("model", ["ssd300", "retinanet-resnet50"])
    def test_heads_of_torchvision(self, model: str) -> None:
        from pydet.training.start import Source

        theirs = find(model).build(["__background__", "x", "y", "z"])
        names = ["__background__", "z", "new"] if model == "ssd300" else ["z", "new"]
        network = find(model).build(names)
        take(network, Source(theirs.state_dict(), theirs.class_names, "test"))
        name = "head.classification_head." + ("module_list.1.bias" if model == "ssd300" else "cls_logits.bias")
        old, new = theirs.state_dict()[name].view(-1, 4), network.state_dict()[name].view(-1, len(names))
        assert torch.equal(new[:, names.index("z")], old[:, 3])
        if model == "ssd300":
            assert torch.equal(new[:, 0], old[:, 0])
            assert not new[:, 2].any()
        else:
            assert new[:, 1].tolist() == pytest.approx([-math.log(99)] * 9)

    def test_nothing_fits(self) -> None:
        source = read_source(ASSETS / "yolov3-tiny.safetensors", Settings())
        with pytest.raises(WeightsError, match=r"only \d of its 59 tensors fit the network"):
            take(Darknet(small_sections(), class_names=["a", "b", "c"]), source)

    def test_a_file_of_another_kind(self, tmp_path: Path) -> None:
        (tmp_path / "x.pth").write_bytes(b"")
        with pytest.raises(WeightsError, match=r"yolov3-tiny has Darknet's weights, not a .pth file"):
            read_source(tmp_path / "x.pth", Settings())
        (tmp_path / "x.weights").write_bytes(b"")
        with pytest.raises(WeightsError, match=r"ssd300 has torchvision's weights, not a .weights file"):
            read_source(tmp_path / "x.weights", Settings(model="ssd300"))


def test_no_val_split(tmp_path: Path) -> None:
    settings = small_settings(tmp_path, val_split="", test_split="test", epochs=2)
    result = train(settings)
    assert result.evaluation is not None
    assert not (result.folder / "best.safetensors").exists()
    assert load_checkpoint(result.folder / "last.safetensors").class_names == ["Platelets", "RBC", "WBC"]


def test_joint_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """YOLO9000: pictures with boxes, and crops with nothing but a class, which the tree knows and no box has."""
    (tmp_path / "cells.tree").write_text("cell -1\nRBC 0\nWBC 0\nPlatelets 0\neosinophil 2\n")
    sections = small_sections(classes=5)[:-1]
    shape = {"classes": 5, "coords": 4, "num": 3, "softmax": 1, "tree": str(tmp_path / "cells.tree")}
    region = section("region", anchors="1,1, 2,2, 3,3", rescore=1, bias_match=1, **shape)
    (tmp_path / "joint.cfg").write_text(format_cfg([*sections, region]))
    for number in range(3):
        picture(tmp_path / "crops" / "eosinophil" / f"{number}.jpg")
    seen: list[list[int]] = []
    original = Darknet.loss

    def loss(self: Darknet, raw: Any, targets: Targets, seen_so_far: Any = None) -> dict[str, torch.Tensor]:
        labels = [-1] * len(targets.counts) if targets.image_labels is None else targets.image_labels.tolist()
        for count, label in zip(targets.counts.tolist(), labels, strict=True):
            assert (label == 4) == (count == 0)
            seen.append(label)
        assert set(targets.labels.tolist()) <= {1, 2, 3}
        return original(self, raw, targets, seen_so_far)

    monkeypatch.setattr(Darknet, "loss", loss)
    changed = {"cfg": str(tmp_path / "joint.cfg"), "labelled": str(tmp_path / "crops"), "augmentation": "none"}
    settings = small_settings(tmp_path, epochs=4, **changed)
    result = train(settings)
    assert result.updates == 12
    assert sorted(seen) == [-1] * 12 + [4] * 12
    assert result.evaluation is not None
    assert result.evaluation.class_names == ("cell", "RBC", "WBC", "Platelets", "eosinophil")
    picture(tmp_path / "crops" / "spider" / "a.jpg")
    with pytest.raises(DataError, match="the class 'spider' of whole pictures is not in the tree"):
        train(dataclasses.replace(settings, out=str(tmp_path / "other")))
