"""Races the operators on a GPU: `python benchmarks/gpu/run.py results.json`, part of `make gpu`.

--device cpu --scale 0.001    a stand-in, to try this program where there is no GPU
--only TEXT                   races whose name has it
--seconds N                   no race and no torch.compile is begun after that time
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from timer import Arguments, Function, bandwidths, copies_of, race
from workloads import TORCHVISION, WORKLOADS, Workload

from pydet import ops
from pydet.ops._backend import _triton_operator as triton_launcher

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from gpu_checks import Graph

MOST_GRAPHS = 64
COMPILED = "compiled reference"
REPLAYED = "pydet, graph replay"
OURS = ("pydet", REPLAYED)
"""What an aim is measured by. Triton's kernels are timed too, but serve only where there is no compiled one."""


def contenders_of(work: Workload) -> dict[str, Function]:
    """By name; "pydet" is what serves the device."""
    calls: dict[str, Function] = {"pydet": work.function}
    if TORCHVISION is not None and work.peer is not None:
        calls["torchvision"] = work.peer(TORCHVISION)
    if work.with_reference:
        calls["reference"] = work.reference
    return {name: functools.partial(work.call, function) for name, function in calls.items()}


def replays(function: Function, copies: list[Arguments], device: str) -> Function:
    graphs = {id(args[0]): Graph(function, args, device) for args in copies}
    return lambda *args: graphs[id(args[0])].replay()


def compare(work: Workload, contenders: dict[str, Function], args: Arguments) -> dict[str, str]:
    """Those that are left out of the race, and why."""
    expected = contenders["pydet"](*args)
    left_out = {}
    for name, function in contenders.items():
        try:
            if not work.equal(expected, function(*args)):
                left_out[name] = "its result is another one"
        except Exception as error:  # of another library: whatever it is, the race goes on without it
            left_out[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
    return left_out


def judged(aims: dict[str, float], percent: float | None, medians: dict[str, float]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    best = min(medians[name] for name in OURS if name in medians)
    for aim, wanted in aims.items():
        reached: float | None
        if aim == "percent":
            reached = percent
        elif aim == "seconds":
            reached = best
        else:
            reached = medians[aim] / best if aim in medians else None
        met = reached is not None and (reached <= wanted if aim == "seconds" else reached >= wanted)
        found[aim] = {"wanted": wanted, "reached": reached, "met": met if reached is not None else None}
    return found


def run(work: Workload, device: str, scale: float, rates: dict[str, float], budget: float) -> dict[str, Any]:
    kind = torch.device(device).type
    serves, why = ops.backend_of(work.operator, kind)
    if serves == "reference":
        return {"skipped": f"{work.operator} has no kernel for this device: {why}"}
    torch.manual_seed(0)
    copies = copies_of(work.make_inputs(scale, device))
    contenders = contenders_of(work)
    if work.graph:
        copies = copies[:MOST_GRAPHS]
        contenders[REPLAYED] = replays(contenders["pydet"], copies, device)
    left_out = compare(work, contenders, copies[0])
    medians = race({n: f for n, f in contenders.items() if n not in left_out}, copies, device, budget)
    if kind == "cuda" and serves == "compiled" and triton_launcher(work.operator):
        with ops.set_backend("triton"):
            medians |= race({"pydet, Triton": contenders["pydet"]}, copies, device, budget / 2)
    result: dict[str, Any] = {"served_by": serves, "median_seconds": medians}
    percent = None
    if moved := work.moved(copies[0], contenders["pydet"](*copies[0])):
        percent = 100 * moved / medians["pydet"] / rates[work.ceiling]
        result |= {"bytes": moved, f"percent_of_{work.ceiling}": percent}
    return result | {"left_out": left_out, "aims": judged(work.aims, percent, medians)}


def race_compiled_reference(work: Workload, device: str, scale: float, budget: float, result: dict[str, Any]) -> None:
    """Adds the reference as torch.compile makes it to the result of its race: it takes long, so it comes last."""
    torch.manual_seed(0)
    copies = copies_of(work.make_inputs(scale, device))
    contenders = {"pydet": work.function, COMPILED: torch.compile(work.reference)}
    contenders = {name: functools.partial(work.call, function) for name, function in contenders.items()}
    result["left_out"] |= compare(work, contenders, copies[0])
    if COMPILED not in result["left_out"]:
        result["median_seconds"][COMPILED] = race(contenders, copies, device, budget)[COMPILED]


def readable(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


def line(name: str, result: dict[str, Any]) -> str:
    if "median_seconds" not in result:
        return f"{name:66s} {result.get('skipped') or result.get('failed')}"
    medians = result["median_seconds"]
    parts = [f"{name:66s} {readable(medians['pydet']):>9s}"]
    parts += [f"{result[key]:.0f} % of {key.split('_')[-1]}" for key in result if key.startswith("percent")]
    parts += [f"{n} {readable(s)} ({s / medians['pydet']:.3g}x)" for n, s in medians.items() if n != "pydet"]
    parts += [f"without {n}: {why}" for n, why in result["left_out"].items()]
    for aim, found in result["aims"].items():
        if found["met"] is False:
            parts.append(f"MISSED {aim}: {found['reached']:.3g}, wanted {found['wanted']:.3g}")
    return "; ".join(parts)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--only", default="")
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--budget", type=float, default=1.0, help="seconds for each race")
    options = parser.parse_args(arguments)
    deadline = time.perf_counter() + options.seconds
    rates = bandwidths(options.device, int(2**30 * options.scale))
    print(", ".join(f"{kind} {rate / 1e12:.2f} TB/s" for kind, rate in rates.items()), flush=True)
    races: dict[str, dict[str, Any]] = {}
    results = {"bytes_per_second": rates, "races": races}

    def save(name: str) -> None:  # at once: who runs out of time keeps what there is
        print(line(name, races[name]), flush=True)
        options.out.write_text(json.dumps(results, indent=1) + "\n")

    chosen = [work for work in WORKLOADS if options.only in work.name]
    for work in chosen:
        if time.perf_counter() > deadline:
            races[work.name] = {"skipped": "no time was left"}
            continue
        try:
            races[work.name] = run(work, options.device, options.scale, rates, options.budget)
        except Exception as error:  # one that fails does not take the others' results with it
            races[work.name] = {"failed": f"{type(error).__name__}: {error}"}
        save(work.name)
        if options.device != "cpu":
            torch.cuda.empty_cache()
    for work in (w for w in chosen if w.with_reference and "median_seconds" in races[w.name]):
        if time.perf_counter() > deadline:
            races[work.name]["left_out"][COMPILED] = "no time was left"
            continue
        race_compiled_reference(work, options.device, options.scale, options.budget, races[work.name])
        save(work.name)
    return results


if __name__ == "__main__":
    sys.exit(any("failed" in race for race in main()["races"].values()))
