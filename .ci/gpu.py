"""All that needs a GPU, on a machine without a network: `make gpu`, in less than 8 minutes.

    python3 .ci/gpu.py [--only build,tests,sanitizer,benchmarks]

Builds with this Python and its torch for the GPU at hand, tests, runs compute-sanitizer, races. What is said goes to
build/gpu/; where all is well, benchmarks/results/<gpu>.json has the times. What is not installed (torchvision,
compute-sanitizer, ...) is left out, and said.
"""

from __future__ import annotations

import argparse
import atexit
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
SANITIZED_BY = 345.0
"""What is not done then is cut off: the races, which need the GPU for themselves, have the rest."""
START = time.monotonic()
TOOLS = {"memcheck": ["--leak-check=no"], "racecheck": [], "initcheck": []}
# Beside each other: the first mostly waits for Triton's compiler, the second for the CPU's reference.
PARTS = ("triton", "(equals_reference or gradient) and not triton", "not (equals_reference or gradient or triton)")
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


def stop(process: subprocess.Popen[bytes]) -> None:
    """With all that it started; nothing where it has ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def start(log: Path, command: list[str], folder: Path, **more: str) -> subprocess.Popen[bytes]:
    print(f"+ {' '.join(command)}   > {log.relative_to(ROOT)}", flush=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(**more),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that it can be ended with all that it started
        )
    atexit.register(stop, process)
    return process


def finish(process: subprocess.Popen[bytes], seconds: float) -> int:
    """Its exit status; 124 where it took longer than it may."""
    try:
        return process.wait(max(min(seconds, SECONDS - (time.monotonic() - START)), 1))
    except subprocess.TimeoutExpired:
        stop(process)
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
    if finish(process, 200):
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
    logs = [FOLDER / f"tests{number}.log" for number, _ in enumerate(PARTS)]
    running = [
        start(log, [*command, "-k", part, *files], ROOT / "tests") for log, part in zip(logs, PARTS, strict=True)
    ]
    until = time.monotonic() + 200
    statuses = [finish(process, until - time.monotonic()) for process in running]
    counts: dict[str, int] = {}
    for log in logs:
        for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", tail(log, 1)):
            counts[word] = counts.get(word, 0) + int(number)
    words = ", ".join([*(f"{number} {word}" for word, number in counts.items()), *without]) or "no summary"
    for log, status in zip(logs, statuses, strict=True):
        words += f"\n{log.name}, exit {status}:\n{tail(log)}" if status else ""
    return Outcome(not any(statuses), words, counts)


def complaints(report: str) -> list[str]:
    """Lines of a report of compute-sanitizer that name a kernel of ours. torch's own ones are not ours to judge."""
    return [line for line in report.splitlines() if line.startswith("=========") and "pydet::" in line]


def verdict(status: int, report: str) -> tuple[bool | None, str]:
    """Of one tool: None where it has not seen everything, which is no fault of ours unless a program of ours failed."""
    ours = complaints(report)
    last = " / ".join(report.splitlines()[-3:])
    if ours:
        return False, f"{len(ours)} complaints, the first: {ours[0]}"
    if "Traceback (most recent call last)" in report:
        return False, f"gpu_small.py failed: {last}"
    if status or re.search(r"(ERROR|RACECHECK) SUMMARY: ", report) is None:
        return None, f"did not run to its end (exit {status}): {last}"
    return True, "nothing found"


def start_sanitizer() -> dict[str, subprocess.Popen[bytes]]:
    """Its tools beside each other and beside the tests: most of their time is the loading of torch."""
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    running: dict[str, subprocess.Popen[bytes]] = {}
    for tool, options in TOOLS.items() if program else ():
        command = [str(program), f"--tool={tool}", "--show-backtrace=no", "--print-limit=50", *options]
        # Without torch's cache of memory each tensor is an allocation with an end, and its first bytes are unwritten.
        script = [sys.executable, "gpu_small.py", "cuda"]
        log = FOLDER / f"{tool}.log"
        running[tool] = start(log, [*command, *script], ROOT / "tests", PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    return running


def sanitizer(running: dict[str, subprocess.Popen[bytes]]) -> Outcome:
    if not running:
        return Outcome(None, "compute-sanitizer is not here")
    found: dict[str, tuple[bool | None, str]] = {}
    for tool, process in running.items():
        status = finish(process, SANITIZED_BY - (time.monotonic() - START))
        found[tool] = verdict(status, (FOLDER / f"{tool}.log").read_text(errors="replace"))
    states = [state for state, _ in found.values()]
    words = {tool: said for tool, (_, said) in found.items()}
    clean = False if False in states else True if True in states else None
    return Outcome(clean, "; ".join(f"{tool}: {said}" for tool, said in words.items()), words)


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
    sanitizing: dict[str, subprocess.Popen[bytes]] = {}
    sections = {
        "build": lambda: build(gpu),
        "tests": tests,
        "sanitizer": lambda: sanitizer(sanitizing),
        "benchmarks": benchmarks,
    }
    outcomes: dict[str, Outcome] = {}
    for name in only:
        began = time.monotonic()
        if name in ("tests", "sanitizer") and "sanitizer" in only and not sanitizing:
            sanitizing |= start_sanitizer()
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
