"""Files are written whole or not at all: on a full disk, killed, interrupted; through links, to pipes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from pydet import models
from pydet.cli import main
from pydet.detect_files import picture_targets
from pydet.detector import Detections
from pydet.files import whole_file
from pydet.models import Darknet
from pydet.models.darknet import format_cfg
from pydet.models.darknet.sections import convolution, net
from pydet.models.yolov2 import head
from pydet.outputs import csv_file, save_picture, write_json
from pydet.training.checkpoint import Checkpoint
from pydet.training.log import Table

ROOM = 1024  # bytes; no file below is as small

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX limits, signals and links")


@contextlib.contextmanager
def full_disk(room: int = ROOM) -> Iterator[None]:
    """A file can have no more bytes than there is room for; what writes more is told so, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def network() -> Darknet:
    torch.manual_seed(0)
    return Darknet([net((64, 64)), convolution(8, 3, 4), convolution(8, 3, 8), *head(6, ((1, 1), (2, 1)), 1, ".2")])


def save_training(path: Path) -> None:
    Checkpoint({}, "", 1, dict(network().state_dict()), None, {}, {}, {}).save(path)


def plot(path: Path) -> None:
    pytest.importorskip("matplotlib")
    from pydet.anchors import Anchors
    from pydet.plots import plot_elbow

    plot_elbow(Anchors(torch.ones(1, 2), 0.5, [0.5], (64, 64)), path)


def table(path: Path, pictures: list[Detections]) -> None:
    with csv_file(path) as add:
        for found in pictures:
            add(found)


def export(path: Path) -> None:
    pytest.importorskip("onnxscript")
    from pydet.onnx import export_onnx

    export_onnx(network().eval(), path)


def detections(count: int) -> list[Detections]:
    return [Detections(torch.ones(count, 4), torch.zeros(count).long(), torch.ones(count), ("cat",), (9, 9), "a.jpg")]


def noise() -> Image.Image:
    return Image.frombytes("RGB", (64, 64), bytes(torch.randint(256, (64 * 64 * 3,), dtype=torch.uint8).tolist()))


def rows(path: Path) -> None:
    table = Table(path, 0)
    for update in range(500):
        table.add({"update": update})


WRITERS: dict[str, Callable[[Path], None]] = {
    "checkpoint.pt": save_training,
    "network.safetensors": lambda path: models.save_checkpoint(network(), path),
    "network.weights": lambda path: models.save_weights(network(), path),
    "results.json": lambda path: write_json(path, list(range(1000))),
    "table.csv": lambda path: table(path, detections(200)),
    "picture.tif": lambda path: save_picture(noise(), path),
    "picture.jpg": lambda path: save_picture(noise(), path),
    "picture.png": lambda path: save_picture(noise(), path),
    "plot.png": plot,
    "network.onnx": export,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_old_file_and_says_so(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"old")
    with full_disk(), pytest.raises(OSError, match="cannot write ") as caught:
        WRITERS[name](path)
    assert str(caught.value) == f"cannot write {path}: File too large"
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    WRITERS[name](path)
    assert path.stat().st_size > ROOM  # or the disk was not full
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_ends_a_table_with_a_sentence(tmp_path: Path) -> None:
    with full_disk(), pytest.raises(OSError, match=r"cannot write .*losses\.csv: File too large$"):
        rows(tmp_path / "losses.csv")


def test_the_command_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.cfg").write_text(format_cfg(network().sections))
    models.save_weights(network(), "good.weights")
    Image.new("RGB", (500, 400), (90, 120, 150)).save("a.png")
    noise().save("b.png")
    found = ["--cfg", "good.cfg", "--weights", "good.weights", "--threshold", "0"]
    with full_disk():
        assert main(["convert", "--cfg", "good.cfg", "good.weights", "new.safetensors"]) == 2
        assert capsys.readouterr().err == "pydet: cannot write new.safetensors: File too large\n"
        assert main(["detect", "a.png", "b.png", "--json", "r.json", *found]) == 1
        error = capsys.readouterr().err
    assert "2 of 2 pictures done" in error
    for name in ("r.json", Path("detections/a.png"), Path("detections/b.png")):
        assert f"  cannot write {name}: File too large\n" in error
    assert not Path("r.json").exists()
    assert not list(Path("detections").iterdir())


def test_errors_that_are_not_of_the_disk_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^mine$"), whole_file(tmp_path / "a"):
        raise RuntimeError("mine")
    with pytest.raises(FileNotFoundError, match=r"cannot write .*none/a: No such file or directory$"):
        write_json(tmp_path / "none" / "a", [])
    assert not list(tmp_path.iterdir())


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "results.json"
    write_json(target, [1, 2])
    with pytest.raises(TypeError):
        write_json(target, [3, object()])
    with contextlib.suppress(KeyboardInterrupt), whole_file(target) as temporary:
        temporary.write_text("[1, 2, 3")
        raise KeyboardInterrupt
    assert json.loads(target.read_text()) == [1, 2]
    assert list(tmp_path.iterdir()) == [target]


def test_killed_in_the_middle(tmp_path: Path) -> None:
    target = tmp_path / "results.json"
    target.write_text("old")
    program = (
        "import os, sys; from pydet.files import whole_file\n"
        "with whole_file(sys.argv[1]) as file: file.write_text('half'); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(target)])
    assert done.returncode == -signal.SIGKILL
    assert target.read_text() == "old"
    assert [path.read_text() for path in tmp_path.glob(".results.json.*")] == ["half"]


def test_ctrl_c_while_many_files_are_converted(tmp_path: Path) -> None:
    """Every file that is there is whole, and nothing else is there, whenever the signal comes."""
    models.save_checkpoint(network(), tmp_path / "good.safetensors")
    program = (
        "import sys; from pydet.cli import main\n"
        "try:\n"
        "    for number in range(100000):\n"
        "        code = main(['convert', '--cfg', sys.argv[3], sys.argv[1], sys.argv[2] % number])\n"
        "        if code: sys.exit(code)\n"
        "except KeyboardInterrupt: sys.exit(130)  # it came between two of them"
    )
    cfg = tmp_path / "good.cfg"
    cfg.write_text(format_cfg(network().sections))
    made = tmp_path / "made"
    made.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "good.safetensors"), str(made / "%06d.safetensors"), str(cfg)],
        stdout=subprocess.DEVNULL, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(list(made.glob("0*"))) < 5 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    files = list(made.iterdir())
    assert len(files) >= 5
    assert len({file.read_bytes() for file in files}) == 1
    assert all(file.name.endswith(".safetensors") and not file.name.startswith(".") for file in files)


def test_permissions(tmp_path: Path) -> None:
    write_json(tmp_path / "ours.json", [])
    (tmp_path / "theirs.json").touch()
    assert (tmp_path / "ours.json").stat().st_mode == (tmp_path / "theirs.json").stat().st_mode
    (tmp_path / "ours.json").chmod(0o640)
    write_json(tmp_path / "ours.json", [1])
    assert stat.S_IMODE((tmp_path / "ours.json").stat().st_mode) == 0o640
    mask = os.umask(0o077)
    try:
        write_json(tmp_path / "closed.json", [])
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "closed.json").stat().st_mode) == 0o600


def test_links_stay_links(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.json").symlink_to("disk/real.json")
    for content in ([1], [2]):  # the first time it leads to nothing
        write_json(tmp_path / "link.json", content)
        assert (tmp_path / "link.json").is_symlink()
        assert json.loads((tmp_path / "disk/real.json").read_text()) == content
    assert len(list((tmp_path / "disk").iterdir())) == 1


def test_a_link_to_an_input_is_no_place_for_a_picture(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "a.png").write_bytes(b"input")
    (tmp_path / "out/a.png").symlink_to("../a.png")
    assert picture_targets([str(tmp_path / "a.png")], tmp_path / "out") == [tmp_path / "out/a-2.png"]


@pytest.mark.parametrize("to", ["a pipe", "a file"])
def test_standard_output(to: str, tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from pydet.outputs import write_json\n"
        "print('before'); write_json(Path('/dev/stdout'), [1]); write_json(Path('/dev/null'), [2])"
    )
    if to == "a pipe":
        said = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True).stdout
    else:
        with (tmp_path / "out").open("wb") as file:
            subprocess.run([sys.executable, "-c", program], stdout=file, check=True)
        said = (tmp_path / "out").read_bytes()
    assert said == b"before\n[1]\n"
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert Path("/dev/stdout").is_symlink()


def test_a_named_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", str(tmp_path / "pipe")], stdout=subprocess.PIPE)
    write_json(tmp_path / "pipe", [1])
    assert reader.communicate(timeout=60)[0] == b"[1]\n"
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
