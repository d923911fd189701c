"""`make gpu` without a GPU: its races run on the CPU, small, and what it says of reports is right."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parent.parent


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{path.parent.name.strip('.')}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def gpu_script() -> ModuleType:
    return module(ROOT / ".ci" / "gpu.py")


@pytest.fixture
def benchmark_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "gpu")
    return module(ROOT / "benchmarks" / "gpu" / "run.py")


def test_every_race_runs(tmp_path: Path) -> None:
    script, out = ROOT / "benchmarks" / "gpu" / "run.py", tmp_path / "races.json"
    options = ["--device", "cpu", "--scale", "0.0003", "--budget", "0.01", "--seconds", "3000"]
    eager = {**os.environ, "TORCH_COMPILE_DISABLE": "1"}  # the compiled reference then is the reference
    command = [sys.executable, str(script), str(out), *options]
    process = subprocess.run(command, env=eager, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    results = json.loads(out.read_text())
    assert set(results["bytes_per_second"]) == {"copy", "fill"}
    assert len(results["races"]) >= 15
    for name, race in results["races"].items():
        assert race["left_out"] == {}, name
        assert race["median_seconds"]["pydet"] > 0
        assert f"\n{name} " in process.stdout
    assert "compiled reference" in results["races"]["box_iou 10k x 10k"]["median_seconds"]


def test_races_leave_out_who_is_wrong(benchmark_module: ModuleType) -> None:
    work = next(w for w in benchmark_module.WORKLOADS if w.operator == "box_iou")
    args = work.make_inputs(1e-4, "cpu")

    def absent(*args: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no kernel image\nand more")

    contenders = {"pydet": work.function, "wrong": lambda a, b: work.function(a, b) + 1, "absent": absent}
    left_out = benchmark_module.compare(work, contenders, args)
    assert left_out == {"wrong": "its result is another one", "absent": "RuntimeError: no kernel image"}


def test_a_few_boxes_may_be_others_and_no_more(benchmark_module: ModuleType) -> None:
    same_boxes, same_detections = (getattr(sys.modules["inputs"], f"same_{what}") for what in ("boxes", "detections"))
    kept = torch.arange(1000)
    assert same_boxes(kept, torch.cat([kept[:-4], torch.tensor([2000, 2001])]))
    assert not same_boxes(kept, kept[:-11])
    assert not same_boxes(kept, kept + 20)
    images = [(torch.rand(100, 4), torch.rand(100), torch.arange(100) % 7) for _ in range(2)]
    boxes, scores, labels = (torch.stack(values) for values in zip(*images, strict=True))
    padded = boxes, scores, labels, labels, torch.tensor([100, 100])
    assert same_detections(padded, images)
    assert same_detections(padded, [images[0], tuple(values[:-1] for values in images[1])])
    assert not same_detections(padded, images[::-1])
    assert not same_detections(padded, [images[0], (images[1][0], images[1][1], images[1][2] + 1)])


def test_aims_are_judged(benchmark_module: ModuleType) -> None:
    medians = {"pydet": 2e-4, "pydet, graph replay": 5e-5, "pydet, Triton": 1e-6, "torchvision": 3e-4}
    judged = benchmark_module.judged({"percent": 85, "seconds": 6e-5, "torchvision": 10}, 84.0, medians)
    assert [aim["met"] for aim in judged.values()] == [False, True, False]
    assert judged["torchvision"]["reached"] == pytest.approx(6)
    assert benchmark_module.judged({"torchvision": 5}, None, {"pydet": 1.0})["torchvision"]["met"] is None


def test_copies_fill_more_than_the_cache(benchmark_module: ModuleType) -> None:
    args = torch.zeros(1000, 4), "xyxy", torch.zeros(1000, requires_grad=True)
    copies = benchmark_module.copies_of(args, 200_000)
    assert len(copies) == 10
    assert len({copy[0].data_ptr() for copy in copies}) == 10
    assert all(copy[1] == "xyxy" and copy[2].requires_grad and copy[2].is_leaf for copy in copies)


REPORT = """\
========= COMPUTE-SANITIZER
========= Invalid __global__ read of size 4 bytes
=========     at {kernel}<float>(const T1 *, long, T1 *)+0x70
=========     by thread (31,0,0) in block (0,0,0)
========= ERROR SUMMARY: 1 error
"""


@pytest.mark.parametrize(("kernel", "ours"), [("void pydet::<unnamed>::nms_kernel", 1), ("void at::native::sort", 0)])
def test_sanitizer_reports(gpu_script: ModuleType, kernel: str, ours: int) -> None:
    assert len(gpu_script.complaints(REPORT.format(kernel=kernel))) == ours


@pytest.mark.parametrize(
    ("status", "report", "good", "said"),
    [
        (0, "nms\n========= ERROR SUMMARY: 0 errors\n", True, "nothing found"),
        (0, "nms\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", True, "nothing found"),
        (
            0,
            REPORT.format(kernel="void pydet::<unnamed>::nms_kernel"),
            False,
            "1 complaints, the first: =========     at",
        ),
        (0, REPORT.format(kernel="void at::native::sort"), True, "nothing found"),
        (1, "Traceback (most recent call last):\nKeyError\n========= ERROR SUMMARY: 0 errors\n", False, "KeyError"),
        (1, "========= ERROR SUMMARY: 0 errors\n", None, "did not run to its end (exit 1)"),
        (124, "box_iou\nnms\n", None, "did not run to its end (exit 124): box_iou / nms"),
    ],
)
def test_sanitizer_is_judged(gpu_script: ModuleType, status: int, report: str, good: bool | None, said: str) -> None:
    found, words = gpu_script.verdict(status, report)
    assert found is good
    assert said in words


def test_make_gpu_says_what_is_missing() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert shutil.which("make")
    process = subprocess.run(
        ["make", "gpu", f"PYTHON={sys.executable}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert process.returncode != 0
    assert "make gpu: torch sees no GPU here" in process.stdout + process.stderr
