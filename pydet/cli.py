"""The command `pydet`. Torch is imported only where there is work for it, so that help and mistakes answer quickly."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from pydet import __version__
from pydet.commands import anchors, convert, detect, evaluate, export, info, models, train
from pydet.commands.options import INTERRUPTED, NOT_STARTED, SOME_FAILED, say
from pydet.memory import keep_freed_memory

_COMMANDS = (detect, evaluate, train, anchors, models, convert, export, info)  # in the order of the help


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    warnings.filterwarnings("ignore", module=r"PIL\.")  # about oddities of files that are read all the same
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed when Python began
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name may hold what the terminal cannot show
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.run is None:
        parser.print_help()
        return NOT_STARTED
    try:
        with keep_freed_memory(), _interruptible():
            code: int = options.run(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # `pydet detect ... | head`: nobody reads on, and Python would complain at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SOME_FAILED
    except OSError as error:  # by itself the system says "[Errno 2] No such file or directory: 'x.weights'"
        say(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
        return NOT_STARTED
    except (ValueError, ImportError) as error:
        say(str(error))
        return NOT_STARTED
    except RuntimeError as error:
        # In the words of torch's two allocators: the error of an operator of ours has no type of its own.
        if "CUDA out of memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        say("out of memory; a smaller --batch-size or --size needs less")
        return NOT_STARTED


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends in KeyboardInterrupt also where a library made an error of its own of it.

    torch does, while safetensors reads: ValueError "could not determine the shape of object type".
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler or (
        threading.current_thread() is not threading.main_thread()
    ):
        yield  # who has called us treats it, or nobody: a job in the background ignores it
        return
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, ask)
    try:
        yield
    except Exception as error:
        if not asked.is_set() or isinstance(error, BrokenPipeError):
            raise
        raise KeyboardInterrupt from error
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pydet", description="Object detection with the classic one-stage detectors.")
    parser.add_argument("--version", action="version", version=f"pydet {__version__}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in _COMMANDS:
        command.add(commands)
    return parser
