"""Many pictures by several processes: every picture once, in order, with the numbers of one process."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from training_cases import start

from pydet.cli import main
from pydet.detect_files import Report, show
from pydet.detector import Detections
from pydet.engines.engine import Outcome
from pydet.engines.ray_data import _in_order

DOG = Path(__file__).parent.parent / "pydet" / "assets" / "dog.jpg"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in, and the one thread that the other processes have: the last bits are theirs."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


def make_pictures(count: int) -> list[str]:
    """Dogs of different sizes, so that no two have the same boxes; two of them cannot be read."""
    Path("photos").mkdir()
    dog = Image.open(DOG)
    names = [f"{number:03}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        dog.resize((160 + 2 * number, 120 + number)).save(Path("photos", name))
    for number in (5, count - 2):
        Path("photos", names[number]).write_bytes(b"no picture")
    return names


def detect(out: str) -> list[str]:
    return ["detect", "photos", "--batch-size", "2", "--json", f"{out}.json", "--csv", f"{out}.csv", "--out", out]


def assert_equal_results(mine: str, theirs: str, count: int) -> None:
    """The same bytes in all files, and a picture of each that can be read."""
    for ending in ("json", "csv"):
        assert Path(f"{mine}.{ending}").read_bytes() == Path(f"{theirs}.{ending}").read_bytes()
    names = sorted(file.name for file in Path(mine).iterdir())
    assert len(names) == count - 2
    for name in names:
        assert Path(mine, name).read_bytes() == Path(theirs, name).read_bytes()


def test_two_processes_of_torchrun_detect_what_one_does(capsys: pytest.CaptureFixture[str]) -> None:
    names = make_pictures(15)  # the last batch is a half one, and its process has one batch more
    assert main(detect("one")) == 1
    alone = capsys.readouterr()
    process = start(detect("two"), 2)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1, output
    assert_equal_results("one", "two", len(names))
    assert alone.out in output  # every table once, in order
    assert alone.err.replace("in one", "in two") in output
    assert output.count("13 of 15 pictures done") == 1


def test_two_processes_of_torchrun_evaluate_what_one_does() -> None:
    names = make_pictures(9)
    content = {
        "images": [{"id": number, "file_name": f"photos/{name}"} for number, name in enumerate(names)],
        "annotations": [
            {"image_id": number, "category_id": 1, "bbox": [26, 42, 40, 71], "area": 2840, "iscrowd": 0}
            for number in range(len(names))
        ],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "car"}],
    }
    Path("a.json").write_text(json.dumps(content))
    arguments = ["evaluate", "a.json", "--images", ".", "--batch-size", "2"]
    assert main([*arguments, "--json", "one.json"]) == 1
    process = start([*arguments, "--json", "two.json"], 2)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1, output
    one, two = (json.loads(Path(name).read_text()) for name in ("one.json", "two.json"))
    assert (one.pop("speed")["processes"], two.pop("speed")["processes"]) == (1, 2)
    assert one == two
    assert len(one["problems"]) == 2
    assert 0 < one["metrics"]["AP"] < 1
    assert output.count("7 images, 7 annotated objects") == 1


def workers_of_ray(folder: Path) -> list[int]:
    """Those of this folder's run, which is where they work."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if (process / "cmdline").read_bytes().startswith(b"ray::MapWorker") and (process / "cwd").samefile(folder):
                found.append(int(process.name))
        except OSError:  # ended meanwhile, or no process
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="finds the workers in /proc")
def test_a_worker_of_ray_is_killed(folder: Path) -> None:
    pytest.importorskip("ray.data")
    names = make_pictures(80)
    assert main(detect("one")) == 1
    command = [sys.executable, "-m", "pydet", *detect("two"), "--engine", "ray"]
    with Path("said").open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=os.environ | {"RAY_ADDRESS": ""})
    try:
        deadline = time.monotonic() + 300
        while not (killed := workers_of_ray(folder) if list(Path("two").glob("0*.jpg")) else []):
            assert process.poll() is None, Path("said").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(killed[0], signal.SIGKILL)
        done = len(list(Path("two").glob("0*.jpg")))
        process.wait(timeout=300)
    finally:
        process.kill()
    output = Path("said").read_text()
    assert process.returncode == 1, output
    assert 0 < done < len(names) // 2
    for left in Path("two").glob(".*"):  # a picture that the killed worker was writing
        left.unlink()
    assert_equal_results("one", "two", len(names))
    assert "78 of 80 pictures done" in output
    headings = [line.split()[0] for line in output.splitlines() if line.startswith("photos/")]
    assert headings == [f"photos/{name}" for name in names if name not in ("005.jpg", "078.jpg")]


def row(number: int) -> dict[str, object]:
    return {"number": number, "outcomes": pickle.dumps([Outcome(None, (f"picture {number}",))])}


def test_a_share_that_is_missing_or_there_twice_is_found() -> None:
    assert [outcome.problems[0] for outcome in _in_order(iter([row(0), row(1)]), 2, ())] == ["picture 0", "picture 1"]
    for numbers, message in (((0, 0), "gave share 0 .* where share 1"), ((0,), "1 of the 2"), ((1, 0), "gave share 1")):
        with pytest.raises(RuntimeError, match=message):
            list(_in_order(iter(map(row, numbers)), 2, ()))


def test_results_are_not_kept_in_memory(capsys: pytest.CaptureFixture[str]) -> None:
    alive: list[weakref.ref[Detections]] = []
    most = 0

    def outcomes() -> Iterator[Outcome]:
        nonlocal most
        for number in range(50):
            empty = torch.zeros(0)
            found = Detections(empty.view(0, 4), empty.long(), empty, ("dog",), (4, 4), path=f"{number}.jpg")
            alive.append(weakref.ref(found))
            most = max(most, sum(each() is not None for each in alive))
            yield Outcome(found)

    report = Report()
    show(outcomes(), 50, report)
    assert report.done == 50
    assert most <= 2
    assert capsys.readouterr().out.count("nothing detected") == 50


def test_what_is_said_without_ray(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["detect", str(DOG), "--engine", "ray"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert 'pip install "pydet[ray]"' in error


@pytest.mark.parametrize(
    ("options", "world", "message"),
    [(["--device", "cuda:1"], "1", "Ray chooses which of the GPUs"), ([], "2", "which torchrun is not needed for")],
)
def test_what_ray_is_not_asked_for(
    options: list[str], world: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray.data")
    monkeypatch.setenv("WORLD_SIZE", world)
    assert main(["detect", str(DOG), "--engine", "ray", *options]) == 2
    assert message in capsys.readouterr().err
