"""What the benchmarks write and show: the file of results, memory, claims, the README's table and plot."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import claims
import memory
import numpy as np
import pytest
import report
import results
import torch
from race import Ratio, Result

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def a_run(**changes: object) -> results.Run:
    record = {"seconds": {"pydet": 1e-3, "reference": 1e-2}, "yardstick": "reference"}
    races = {"test_a": record | {"ratio": {"neighbours": 0.1, "fastest": 0.11}}}
    return {"form": "short", "cpu": "Fast 9000", "cpu_level": "avx2", "threads": 4, "races": races, **changes}


def test_a_run_takes_the_place_of_the_one_before_it(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    for run in (a_run(date="1"), a_run(cpu="Other 1"), a_run(form="full", date="2"), a_run(date="3")):
        results.add(path, run)
    runs = results.read(path)
    assert [(run["cpu"], run["form"], run.get("date")) for run in runs] == [
        ("Other 1", "short", None),
        ("Fast 9000", "full", "2"),
        ("Fast 9000", "short", "3"),
    ]
    assert results.shown(runs)["date"] == "2"
    assert results.result(runs[-1]["races"]["test_a"]).ratio == Ratio(0.1, 0.11)


@pytest.mark.skipif(memory.extra_bytes(lambda: None) is None, reason="the kernel or libc does not say")
@pytest.mark.parametrize("megabytes", [8, 64])
def test_extra_memory_is_what_is_neither_input_nor_result(megabytes: int) -> None:
    """In a process of its own: what tests before it left in the heap is not to be counted."""
    script = f"""
    import numpy as np, torch, memory
    n = {megabytes} << 20
    for function in (
        lambda: None,
        lambda: torch.ones(n // 4).sum(),
        lambda: (torch.ones(n // 8), [torch.ones(n // 8), {{"x": np.ones(n // 8)}}]),
        lambda: bytes(bytearray(b"x") * n)[0],
        lambda: torch.arange(n // 8).double().sort()[1],
    ):
        function()
        print(memory.extra_bytes(function))
    """
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ | {"PYTHONPATH": str(BENCHMARKS)},
        capture_output=True,
        text=True,
        check=True,
    )
    nothing, temporary, result, twice, sort = map(int, child.stdout.split())
    n, slack = megabytes << 20, 2 << 20
    assert nothing <= slack
    assert abs(temporary - n) <= slack
    assert result <= slack
    assert abs(twice - 2 * n) <= slack
    assert sort >= 2 * n - slack  # numbers, converted, sorted; the indices are the result


def test_result_bytes() -> None:
    assert (
        memory.result_bytes((torch.zeros(3), [np.zeros(5)], {"a": torch.zeros(2, dtype=torch.int64)}, 7))
        == 12 + 40 + 16
    )


def test_claims_say_what_is_reached() -> None:
    races = {
        "test_nms[clustered-100]": Result({"pydet": 1e-6, "torchvision": 3.9e-6}),
        "test_nms[clustered-10]": Result({"pydet": 4e-6}),
        claims.MILLION: Result({"pydet": 2.5}, extra_bytes={"pydet": 35_000_000}),
        claims.MATCHING: Result({"pydet": 1e-3, "torchvision": 0.04}, extra_bytes={"pydet": None}),
    }
    assert [(c.race, c.promised, pytest.approx(c.found), c.kept) for c in claims.claims_of(races)] == [
        ("test_nms[clustered-100]", 4, 3.9, False),
        (claims.MATCHING, 30, 40, True),
        ("test_nms[clustered-10]", 5, 4, True),
        (claims.MILLION, 2e6, 2.5e6, False),
        (claims.MILLION, 200, 35, True),
    ]


def test_claims_and_rows_name_races_that_exist() -> None:
    """A renamed benchmark must not take its promise away unseen."""
    command = [sys.executable, "-m", "pytest", str(BENCHMARKS), "--collect-only", "-q", "-p", "no:cacheprovider"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = {line.split("::", 1)[1] for line in listed.splitlines() if "::" in line}
    promised = {row[0] for table in (claims.TIMES_AS_FAST, claims.SECONDS, claims.EXTRA_BYTES) for row in table}
    assert promised | set(report.ROWS) <= names


def test_table_and_bars_are_those_of_the_run() -> None:
    seconds = {"pydet": 1e-3, "torchvision": 0.01, "lsnms": 0.004, "cv2.dnn": 0.5, "reference": 2.0}
    seconds |= {"copying as many bytes": 0.6e-3, "one sigmoid": 1e-5}
    races = {name: {"seconds": {"pydet": 1.0}, "moved": None} for name in report.ROWS}
    races["test_nms[clustered-100]"] = {"seconds": seconds, "moved": 100}
    races["test_yolo_decode[8-76]"] = {"seconds": {"pydet": 1.0, "reference": 3.0}}
    run = a_run(races=races, versions={"torch": "2.99"}, date="2030-01-01")
    table = report.speed_table(run)
    assert (
        "| `nms`, 100 boxes | 1 ms, 60% of the speed of a copy | 10 ms (10×) | lsnms 4 ms (4×) | 2 s (2e+03×) |"
        in table
    )
    assert "| `yolo_decode`, 8 maps of 255 × 76 × 76 | 1 s |  |  | 3 s (3×) |" in table
    assert "Medians on Fast 9000 (avx2), 4 threads, torch 2.99, 2030-01-01" in table
    assert report.bars(run) == [
        ("nms, 100 boxes", "lsnms", pytest.approx(4)),
        ("yolo_decode, 8 maps of 255 × 76 × 76", "reference", pytest.approx(3)),
    ]


def test_detectors_have_a_table_of_their_own() -> None:
    seconds = {"pydet": 0.0301, "post-processing": 0.0004, "bf16": 0.0123, "onnxruntime": 0.0254, "network": 0.028}
    races = {"test_detector[yolov3-tiny]": {"seconds": seconds}, "test_nms[1]": {"seconds": {"pydet": 1.0}}}
    table = report.detector_table(a_run(races=races))
    assert "| yolov3-tiny | 30.1 | 0.4 | 12.3 | 25.4 |  |  |  |  |  |\n" in table
    assert "nms" not in table
    assert report.detector_table(a_run()) == ""


def test_readme_has_the_committed_numbers() -> None:
    readme = report.README.read_text(encoding="utf-8")
    assert report.with_table(readme, results.shown(results.read(report.RESULTS))) == readme
