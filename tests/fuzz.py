"""Damaged files of every format that pydet reads: each is read, or refused by the documented error that names it.

`python tests/fuzz.py --seconds 10` takes 10 seconds for each format and prints executions and findings; inputs that
found something are kept in build/fuzz. Real files are mutated at random, with words that mean something to a format.
Where atheris is installed, what reaches code that nothing before has reached is kept, too, and mutated further.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import random
import re
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

try:
    import atheris
except ImportError:  # it is not there for every Python
    atheris = None

if TYPE_CHECKING:
    from fuzz_formats import Format

SLOW = 5.0  # seconds of the processor for one file
MOST_MEMORY = 1024  # MiB
KEPT = Path("build/fuzz")
INSTRUMENTED = ["pydet", "PIL", "tomllib", "yaml"]
WORDS = [
    *(b"", b"0", b"-1", b"1e999", b"nan", b"99999999999999999999", b"2147483648", b"0000000000000000009", b"\xc2\xb2"),
    *(b"\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\n", b"\r", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"{", b"}"),
    *(b'"', b"null", b"true", b"[", b"]", b"<", b"&x;", b"=", b",", b"F16", b"I64", b"[yolo]", b"[route]", b"../"),
    *(b"&a [*a, *a]", b"!!int ", b"!!timestamp ", b"2001-99-99", b"[" * 2000, b"<a>" * 2000, b"9" * 5000),
    b'"model": "ssd300", ',
]


@dataclass
class Outcome:
    """Of a format: how many files were read and refused, and what else happened: where, what, and by which content."""

    executions: int = 0
    refused: int = 0
    findings: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    def found(self, where: str, what: object, content: bytes) -> None:
        self.findings.setdefault(where, (f"{what}".split("\n")[0][:160], content))


def mutated(content: bytes, draw: random.Random) -> bytes:
    """With 1 to 4 changes; most lie where the structure is: at the beginning or the end."""
    raw = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(raw) + 1)
        near = draw.randrange(300)
        place = draw.choice((place, place, min(place, near), max(place, len(raw) - near)))
        length = draw.choice((0, 1, 1, 2, 4, 8))
        kind = draw.randrange(6)
        if kind == 0:
            raw[place : place + length] = draw.choice(WORDS)
        elif kind == 1:
            raw[place : place + length] = draw.randbytes(draw.randint(0, 4))
        elif kind == 2 and place < len(raw):
            raw[place] ^= 1 << draw.randrange(8)
        elif kind == 3:
            del raw[place : place + draw.choice((1, 8, 100, len(raw)))]
        elif kind == 4:
            start = draw.randrange(len(raw) + 1)
            raw[place:place] = raw[start : start + draw.choice((1, 8, 40))]
        else:
            raw = bytearray(word_for_word(bytes(raw), draw))
    return bytes(raw)


def word_for_word(content: bytes, draw: random.Random) -> bytes:
    """One of the words is another, or has changed its place; formats that are text get other numbers by it."""
    words = re.split(rb"([\s=,:<>\[\]{}\"/]+)", content)  # every second one is what lies between them
    words[draw.randrange(0, len(words), 2)] = draw.choice((draw.choice(WORDS), draw.choice(words)))
    return b"".join(words)


def execute(target: Format, path: Path, content: bytes, outcome: Outcome) -> None:
    """One file: what happened is counted in the outcome."""
    path.write_bytes(content)
    outcome.executions += 1
    began = time.process_time()
    try:
        target.read(path)
    except target.errors as error:
        outcome.refused += 1
        if path.name not in str(error):
            outcome.found(f"does not name the file: {place_of(error)}", error, content)
        if content in target.seeds:
            outcome.found("refuses a good file", error, content)
    except Exception as error:
        outcome.found(f"{type(error).__name__} in {place_of(error)}", error, content)
    if time.process_time() - began > SLOW:
        outcome.found("is slow", f"takes more than {SLOW} s", content)


def place_of(error: Exception) -> str:
    """The last line of pydet, or of its tests, that it came through."""
    own = Path(__file__).parents[1]
    places = traceback.extract_tb(error.__traceback__)
    place = [place for place in places if Path(place.filename).is_relative_to(own)][-1]
    return f"{Path(place.filename).name}:{place.lineno}"


def attack(target: Format, folder: Path, draw: random.Random, seconds: float, most: int = sys.maxsize) -> Outcome:
    """Until the seconds or as many executions are over."""
    outcome = Outcome()
    target.others(folder)
    end = time.monotonic() + seconds
    while time.monotonic() < end and outcome.executions < most:
        good = outcome.executions < len(target.seeds)
        content = target.seeds[outcome.executions] if good else mutated(draw.choice(target.seeds), draw)
        execute(target, folder / target.name, content, outcome)
    return outcome


def attack_with_feedback(name: str, target: Format, folder: Path, draw: random.Random, seconds: float) -> Outcome:
    """As `attack`, in a process of its own, which may crash or be ended for the memory that it takes."""
    target.others(folder)
    corpus = KEPT / "corpus" / name.replace("/", "-")
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    end = time.monotonic() + seconds

    def run() -> None:
        outcome = Outcome()

        def one(content: bytes) -> None:
            execute(target, folder / target.name, content, outcome)
            if time.monotonic() > end:  # libFuzzer would end the process without a word
                send.send(outcome)
                os._exit(0)

        def mutate(content: bytes, size: int, seed: int) -> bytes:
            return mutated(content, random.Random(seed))[:size] if seed % 2 else atheris.Mutate(content, size)

        longest = max(5000, *(2 * len(seed) for seed in target.seeds))
        limits = [f"-rss_limit_mb={MOST_MEMORY}", f"-timeout={12 * SLOW:.0f}", f"-max_len={longest}"]
        options = [f"-seed={draw.randrange(1, 2**32)}", "-verbosity=0", f"-artifact_prefix={folder}/"]
        atheris.Setup([sys.argv[0], *limits, *options, str(corpus)], one, custom_mutator=mutate)
        atheris.Fuzz()

    child = context.Process(target=run)
    child.start()
    send.close()
    try:
        outcome: Outcome = receive.recv()
    except EOFError:
        outcome = Outcome()
    child.join()
    if child.exitcode:
        outcome.found("ends the process", f"exit code {child.exitcode}", (folder / target.name).read_bytes())
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each format")
    parser.add_argument("--seed", type=int, default=None, help="none: another one in every run")
    parser.add_argument("--only", default="", help="formats whose name has this in it")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with atheris.instrument_imports(include=INSTRUMENTED) if atheris else contextlib.nullcontext():
        from fuzz_formats import formats, take_little
    take_little()
    if atheris:
        from torch._weights_only_unpickler import Unpickler

        Unpickler.load = atheris.instrument_func(Unpickler.load)
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    failed = executions = 0
    print(f"seed {seed}\n{'format':30}{'executions':>12}{'refused':>10}{'findings':>10}")
    for name, target in formats().items():
        if options.only not in name:
            continue
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            given = target, Path(folder) / "data", random.Random(f"{seed} {name}"), options.seconds
            outcome = attack_with_feedback(name, *given) if atheris else attack(*given)
        print(f"{name:30}{outcome.executions:12,}{outcome.refused:10,}{len(outcome.findings):10}", flush=True)
        for number, (where, (what, content)) in enumerate(outcome.findings.items()):
            KEPT.mkdir(parents=True, exist_ok=True)
            place = KEPT / f"{number}-{name}".replace("/", "-")
            place.write_bytes(content)
            print(f"  {place}: {where}: {what}")
        failed += len(outcome.findings)
        executions += outcome.executions
    print(f"{executions:,} executions, {failed} findings")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
