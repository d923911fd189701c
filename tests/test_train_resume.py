"""A training that was interrupted, however it was, ends with the bits of one that was not."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from data_files import write
from training_cases import BCCD, arguments, same_runs, small_settings, start

from pydet.cli import main
from pydet.files import alone_in
from pydet.training import CheckpointError, checkpoint, resume, train
from pydet.training.loop import Loop


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As in the processes of `start`: sums of floats depend on how many threads make them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that nobody interrupted."""
    result = train(small_settings(tmp_path_factory.mktemp("whole")))
    assert result.finished
    assert result.updates == 30
    return result.folder


class Crash(Exception):
    """The end of the process, as far as files can tell."""


def crash_in(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Makes that update never come to its end."""
    original = Loop.update

    def update(self: Loop, batch: object, stop: bool = False) -> object:
        if self.done + 1 == number:
            raise Crash
        return original(self, batch, stop)  # type: ignore[arg-type]

    monkeypatch.setattr(Loop, "update", update)


@pytest.mark.parametrize("number", [4, 8, 12])
def test_after_a_crash(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    settings = small_settings(tmp_path)
    with monkeypatch.context() as patch:
        crash_in(patch, number)
        with pytest.raises(Crash):
            train(settings)
    # What was done since the last checkpoint, less than one interval, is lost
    kept = checkpoint.load(tmp_path / "run" / "checkpoint.pt")
    assert kept.update == (number - 1) // 3 * 3
    torch.rand(7)  # whatever else has happened to the generator
    assert resume(tmp_path / "run").finished
    same_runs(whole, tmp_path / "run")


def test_in_bfloat16_with_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / name for name in ("whole", "broken")]
    settings = []
    for folder, workers in zip(folders, (0, 2), strict=True):
        folder.mkdir()
        settings.append(small_settings(folder, amp="bf16", workers=workers, epochs=6))
    train(settings[0])
    with monkeypatch.context() as patch:
        crash_in(patch, 5)
        with pytest.raises(Crash):
            train(settings[1])
    resume(folders[1] / "run")
    for name in ("losses.csv", "last.safetensors"):
        assert (folders[0] / "run" / name).read_bytes() == (folders[1] / "run" / name).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_after_ctrl_c(whole: Path, tmp_path: Path, number: signal.Signals) -> None:
    """The update is finished and kept: nothing at all is lost. The signal reaches what reads the pictures, too."""
    process = start(arguments(small_settings(tmp_path, checkpoint_every=1000, workers=1)))
    losses = tmp_path / "run" / "losses.csv"
    wait_for(lambda: losses.exists() and losses.read_text().count("\n") >= 4)
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=120)
    if process.returncode == 0:
        pytest.skip("it had ended before the signal came")
    assert process.returncode == 130, output
    assert f"go on with: pydet train --resume {tmp_path / 'run'}" in output
    done = losses.read_text().count("\n") - 1
    assert f"interrupted after update {done}" in output
    assert checkpoint.load(tmp_path / "run" / "checkpoint.pt").update == done
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    same_runs_but_interval(whole, tmp_path / "run")


def same_runs_but_interval(one: Path, other: Path) -> None:
    for name in ("last.safetensors", "best.safetensors", "losses.csv", "validation.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_after_kill_9_at_random_moments(whole: Path, tmp_path: Path) -> None:
    """Three times killed, at any moment: while it imports, trains, measures or writes."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    moments = random.Random(seed)
    run = tmp_path / "run"
    for _ in range(3):
        begun = (run / "checkpoint.pt").exists()
        before = checkpoint.load(run / "checkpoint.pt").update if begun else 0
        process = start(["train", "--resume", str(run)] if begun else arguments(small_settings(tmp_path)))
        wait_for(lambda: process.poll() is not None or updates_in(run) > before)  # noqa: B023
        time.sleep(moments.uniform(0, 1.5))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        # Whatever was being written, what is there is whole; at most one interval is lost
        if (run / "checkpoint.pt").exists():
            kept = checkpoint.load(run / "checkpoint.pt").update
            assert kept % 3 == 0
            assert updates_in(run) - kept <= 3
    if (run / "checkpoint.pt").exists():
        resume(run)
    else:
        train(small_settings(tmp_path))
    same_runs(whole, run)
    assert not list(run.glob(".*"))


def updates_in(run: Path) -> int:
    with contextlib.suppress(OSError):
        return (run / "losses.csv").read_text().count("\n") - 1
    return 0


def wait_for(condition: object, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it does not begin"
        time.sleep(0.02)


def test_a_finished_training_makes_its_report_again(whole: Path) -> None:
    before = (whole / "last.safetensors").read_bytes()
    (whole / "report" / "report.md").unlink()
    assert resume(whole).finished
    assert (whole / "report" / "report.md").exists()
    assert (whole / "last.safetensors").read_bytes() == before


def test_an_unfinished_checkpoint_takes_nobodys_place(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pt"
    kept = checkpoint.load(whole / "checkpoint.pt")
    kept.save(path)
    before = path.read_bytes()

    def half(content: object, file: Path) -> None:
        Path(file).write_bytes(before[: len(before) // 2])
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="No space"):
        kept.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_messages(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*arguments: str) -> str:
        assert main(["train", *arguments]) == 2
        return capsys.readouterr().err

    assert "no such file; there is nothing to resume" in refused("--resume", str(tmp_path / "none"))
    assert "leave out epochs" in refused("--resume", str(whole), "--epochs", "3")
    assert "leave out set" in refused("--resume", str(whole), "--set", "clip=1")
    for name, content in {"cut": (whole / "checkpoint.pt").read_bytes()[:1000], "text": b"hello"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "checkpoint.pt").write_bytes(content)
        assert "not a checkpoint of pydet train, or a damaged one" in refused("--resume", str(tmp_path / name))
    (tmp_path / "other").mkdir()
    torch.save({"format": 99}, tmp_path / "other" / "checkpoint.pt")
    assert "of another version of pydet" in refused("--resume", str(tmp_path / "other"))
    torch.save([1], tmp_path / "other" / "checkpoint.pt")
    assert "not a checkpoint of pydet train" in refused("--resume", str(tmp_path / "other"))
    again = ["--data", str(BCCD), "--out", str(whole)]
    assert "has a training already; go on with it by --resume" in refused(*again)
    write(tmp_path / "weights" / "last.safetensors", "")
    again[-1] = str(tmp_path / "weights")
    assert "weights: has last.safetensors of another training; name another --out" in refused(*again)
    again[-1] = str(tmp_path / "weights" / "last.safetensors")
    assert f"cannot write in the folder {again[-1]}: File exists" in refused(*again)


@pytest.mark.skipif(os.name == "nt", reason="POSIX locks")
def test_a_folder_is_for_one_training_at_a_time(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with alone_in(whole):
        assert main(["train", "--resume", str(whole)]) == 2
    assert f"{whole}: another process is at work in it" in capsys.readouterr().err


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({"format": 1, "settings": Payload()}, tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        checkpoint.load(tmp_path / "checkpoint.pt")
    assert not (tmp_path / "harm").exists()


def test_changed_data_is_refused(whole: Path, tmp_path: Path) -> None:
    kept = checkpoint.load(whole / "checkpoint.pt")
    checkpoint.Checkpoint(**{**vars(kept), "fingerprint": "0" * 64}).save(tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match="the data is no longer what this training began with"):
        resume(tmp_path)
