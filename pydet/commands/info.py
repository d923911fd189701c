"""The command `pydet info`."""

from __future__ import annotations

import argparse
from typing import Any

from pydet.commands.options import ALL_DONE, add_command


def add(commands: Any) -> None:
    """Adds the command to those of the parser."""
    add_command(
        commands, "info", _run, "show versions, libraries and backends", "Shows what is installed and used here."
    )


def _run(options: argparse.Namespace) -> int:
    from pydet.info import info

    print(info())
    return ALL_DONE
