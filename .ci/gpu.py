"""All that needs a GPU, on a machine without a network: `make gpu`, in less than 8 minutes.

    python3 .ci/gpu.py [--only build,tests,sanitizer,benchmarks]

Builds with this Python and its torch for the GPU at hand, tests, runs compute-sanitizer, races. What is said goes to
build/gpu/; where all is well, benchmarks/results/<gpu>.json has the times. What is not installed (torchvision,
compute-sanitizer, ...) is left out, and said.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.resolve()
FOLDER = ROOT / "build" / "gpu"
SITE = FOLDER / "site"
SECONDS = 470.0
START = time.monotonic()
TOOLS = {"memcheck": ["--leak-check=no"], "racecheck": [], "initcheck": []}
OPTIONAL = ("hypothesis", "pybind11", "triton")
PACKAGES = ("torch", "triton", "torchvision", "numpy")


@dataclass
class Outcome:
    """Of a section: whether it went well (None: it was left out), what to say of it, how long it took."""

    ok: bool | None
    words: str
    details: dict[str, Any] = field(default_factory=dict)


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SITE), "PYTHONUNBUFFERED": "1", **more}


def start(log: Path, command: list[str], folder: Path, **more: str) -> subprocess.Popen[bytes]:
    print(f"+ {' '.join(command)}   > {log.relative_to(ROOT)}", flush=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment(**more),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that it can be ended with all that it started
        )


def finish(process: subprocess.Popen[bytes], seconds: float) -> int:
    """Its exit status; 124 where it took longer than it may."""
    try:
        return process.wait(max(min(seconds, SECONDS - (time.monotonic() - START)), 1))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return 124


def tail(log: Path, lines: int = 25) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def gpu_facts() -> dict[str, str]:
    """Asked in another process: this one needs no torch."""
    ask = (
        "import json, torch; p = torch.cuda.get_device_properties(0);"
        "print(json.dumps({'gpu': p.name, 'arch': f'{p.major}.{p.minor}', 'cuda': torch.version.cuda,"
        "'multiprocessors': p.multi_processor_count, 'memory': p.total_memory}))"
    )
    found = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False)
    if found.returncode:
        sys.exit(f"make gpu: torch sees no GPU here: {found.stderr.strip().splitlines()[-1:]}")
    return json.loads(found.stdout)


def output_of(command: list[str]) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def facts_of(gpu: dict[str, str]) -> dict[str, Any]:
    nvcc = output_of([shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc", "--version"]) or ""
    release = re.search(r"release ([\d.]+)", nvcc)
    driver = output_of(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    return {
        "date": datetime.date.today().isoformat(),
        # A copy of the files alone has no history: then the one who made it says which commit it is.
        "commit": os.environ.get("COMMIT") or output_of(["git", "rev-parse", "HEAD"]),
        **gpu,
        "driver": driver.splitlines()[0] if driver else None,
        "python": sys.version.split()[0],
        "versions": {package: version(package) for package in PACKAGES} | {"nvcc": release[1] if release else None},
    }


def build(gpu: dict[str, str]) -> Outcome:
    shutil.rmtree(SITE, ignore_errors=True)
    for old in ROOT.glob("build/lib*"):
        shutil.rmtree(old)
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-build-isolation", "--no-deps", "-v"]
    log = FOLDER / "build.log"
    process = start(log, [*command, "--target", str(SITE), "."], ROOT, TORCH_CUDA_ARCH_LIST=gpu["arch"])
    if finish(process, 240):
        return Outcome(False, f"does not build:\n{tail(log)}")
    choices = (SITE / "pydet" / "_build.txt").read_text().strip()
    return Outcome(True, choices)


def tests() -> Outcome:
    """Those marked gpu, of files for which all is installed."""
    files, without = [], []
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        text = path.read_text()
        if "mark.gpu" in text:
            missing = [p for p in OPTIONAL if re.search(rf"^(import|from) {p}\b", text, re.M) and not find_spec(p)]
            without += [f"without {path.name}, which needs {missing[0]}"] if missing else []
            files += [] if missing else [path.name]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rs", "--tb=short", "-p", "no:cacheprovider"]
    log = FOLDER / "tests.log"
    status = finish(start(log, [*command, *files], ROOT / "tests"), 200)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", tail(log, 1))}
    words = ", ".join([*(f"{number} {word}" for word, number in counts.items()), *without]) or "no summary"
    return Outcome(status == 0, words + ("" if status == 0 else f"; exit {status}:\n{tail(log)}"), counts)


def complaints(report: str) -> list[str]:
    """Lines of a report of compute-sanitizer that name a kernel of ours. torch's own ones are not ours to judge."""
    return [line for line in report.splitlines() if line.startswith("=========") and "pydet::" in line]


def sanitizer() -> Outcome:
    """Its tools beside each other: most of their time is the loading of torch."""
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if program is None:
        return Outcome(None, "compute-sanitizer is not here")
    running = {}
    for tool, options in TOOLS.items():
        command = [program, f"--tool={tool}", "--show-backtrace=no", "--print-limit=50", *options]
        # Without torch's cache of memory each tensor is an allocation with an end, and its first bytes are unwritten.
        script = [sys.executable, "gpu_small.py", "cuda"]
        log = FOLDER / f"{tool}.log"
        running[tool] = start(log, [*command, *script], ROOT / "tests", PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    found: dict[str, str] = {}
    for tool, process in running.items():
        status, log = finish(process, 150), FOLDER / f"{tool}.log"
        report = log.read_text(errors="replace")
        ours = complaints(report)
        if ours:
            found[tool] = f"{len(ours)} complaints, the first: {ours[0]}"
        elif re.search(r"(ERROR|RACECHECK) SUMMARY: ", report) is None:
            found[tool] = f"did not run to its end (exit {status}): {tail(log, 3)}"
        else:
            found[tool] = "nothing found"
    ran = {tool: words for tool, words in found.items() if not words.startswith("did not run")}
    clean = all(words == "nothing found" for words in ran.values()) if ran else None
    return Outcome(clean, "; ".join(f"{tool}: {words}" for tool, words in found.items()), found)


def benchmarks() -> Outcome:
    log, results = FOLDER / "benchmarks.log", FOLDER / "races.json"
    results.unlink(missing_ok=True)
    left = SECONDS - (time.monotonic() - START) - 20
    if left < 20:
        return Outcome(None, "no time was left")
    script = [sys.executable, "benchmarks/gpu/run.py", str(results), "--seconds", str(min(left * 0.8, 170))]
    # From elsewhere: the pydet of the working tree has no library.
    status = finish(start(log, [script[0], str(ROOT / script[1]), *script[2:]], FOLDER), left)
    if not results.exists():
        return Outcome(False, f"exit {status}:\n{tail(log)}")
    return Outcome(status == 0, log.read_text(errors="replace"), json.loads(results.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="build,tests,sanitizer,benchmarks")
    only = parser.parse_args().only.split(",")
    FOLDER.mkdir(parents=True, exist_ok=True)
    gpu = gpu_facts()
    facts = facts_of(gpu)
    print(json.dumps(facts, indent=1), flush=True)
    sections = {"build": lambda: build(gpu), "tests": tests, "sanitizer": sanitizer, "benchmarks": benchmarks}
    outcomes: dict[str, Outcome] = {}
    for name in only:
        began = time.monotonic()
        outcome = outcomes[name] = sections[name]()
        state = {True: "ok", False: "FAILED", None: "left out"}[outcome.ok]
        print(f"=== {name}: {state} in {time.monotonic() - began:.0f} s\n{outcome.words}", flush=True)
        if name == "build" and outcome.ok is False:
            break
    results = facts | {name: outcome.details for name, outcome in outcomes.items() if outcome.details}
    text = json.dumps(results, indent=1) + "\n"
    (FOLDER / "results.json").write_text(text)
    good = all(outcome.ok is not False for outcome in outcomes.values())
    if good and "benchmarks" in outcomes and outcomes["benchmarks"].ok:  # no number when the tests are red
        name = re.sub(r"[^a-z0-9]+", "-", gpu["gpu"].lower()).strip("-")
        (ROOT / "benchmarks" / "results" / f"{name}.json").write_text(text)
        print(f"written: benchmarks/results/{name}.json")
    print(f"=== {'all is well' if good else 'FAILED'} after {time.monotonic() - START:.0f} s")
    sys.exit(not good)


if __name__ == "__main__":
    main()
