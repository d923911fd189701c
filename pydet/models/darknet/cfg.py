"""Darknet's `.cfg` files: what a network is made of, as text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

ALIASES = {
    "network": "net",
    "conv": "convolutional",
    "conn": "connected",
    "max": "maxpool",
    "avg": "avgpool",
    "soft": "softmax",
}
# Official files have at most 20 kB; a bigger one is something else, such as weights.
MAX_CFG_BYTES = 1024 * 1024
# 4e5 and 0.8 are no integers: C's atoi would take them for 4 and 0.
INTEGER = re.compile(r"[+-]?\d{1,18}(?!\d|\.?\d*[eE][+-]?\d|\.0*[1-9])")
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


class CfgError(ValueError):
    """A cfg that cannot be read, or that does not describe a network; the message names the file and the place."""


@dataclass
class Section:
    """One `[name]` of a cfg and its options, in the order of the file. Two sections are equal if these are."""

    name: str
    options: dict[str, str] = field(default_factory=dict)
    # Where it stands, for errors only: "tiny.cfg, line 12, layer 3 [maxpool]".
    place: str = field(default="", compare=False)

    def error(self, message: str) -> CfgError:
        return CfgError(f"{self.place or f'[{self.name}]'}: {message}")

    def refuse_in_training(self, key: str) -> None:
        """Raises CfgError where a key that changes what is learned is set."""
        if self.integer(key, 0):
            raise self.error(f"{key}={self.text(key)} is not supported in training")

    def text(self, key: str, default: str | None = None) -> str:
        if key in self.options:
            return self.options[key]
        if default is None:
            raise self.error(f"the key '{key}' is missing")
        return default

    def integer(self, key: str, default: int | None = None, at_least: int | None = None) -> int:
        """The number that a value starts with: as C's atoi, what follows it (a remark, say) is ignored."""
        value = self._integer(key, self.text(key, None if default is None else str(default)))
        if at_least is not None and value < at_least:
            raise self.error(f"{key} must be at least {at_least}, got {value}")
        return value

    def integers(self, key: str) -> list[int]:
        return [self._integer(key, item) for item in self.text(key).split(",")]

    def number(self, key: str, default: float | None = None) -> float:
        return self._number(key, self.text(key, None if default is None else str(default)))

    def numbers(self, key: str) -> list[float]:
        return [self._number(key, item) for item in self.text(key).rstrip(",").split(",")]

    def _integer(self, key: str, value: str) -> int:
        match = INTEGER.match(value)
        if match is None:
            raise self.error(f"{key} must start with an integer of at most 18 digits, got {value[:40]!r}")
        return int(match[0])

    def _number(self, key: str, value: str) -> float:
        match = NUMBER.match(value)
        if match is None:
            raise self.error(f"{key} must start with a number, got {value[:40]!r}")
        if not math.isfinite(float(match[0])):
            raise self.error(f"{key} must be a number below 2^1024, got {match[0][:40]}")
        return float(match[0])


def parse_cfg(text: str, source: str = "cfg") -> list[Section]:
    """The sections of a cfg, read as Darknet reads them; `source` names it in errors.

    All white space inside a line is dropped, a line is a comment only if `#` or `;` comes first, and the first of
    two equal keys wins. Unlike Darknet, a line that is neither `[section]` nor `key=value` is an error: it is a typing
    mistake whose effect would be a silent default.
    """
    sections: list[Section] = []
    for number, original in enumerate(text.split("\n"), start=1):  # not at a form feed in a remark, too
        line = "".join(original.split())
        if not line or line[0] in "#;":
            continue
        if line[0] == "[":
            name, bracket, _ = line[1:].partition("]")
            if not bracket or not name:
                got = original.strip()[:40]
                raise CfgError(f"{source}, line {number}: a section must look like [name], got {got!r}")
            name = ALIASES.get(name, name)
            layer = f"layer {len(sections) - 1} " if sections else ""
            sections.append(Section(name, place=f"{source}, line {number}, {layer}[{name}]"))
            continue
        key, equals, value = line.partition("=")
        if not equals or not key or not value:
            raise CfgError(f"{source}, line {number}: expected [section] or key=value, got {original.strip()[:40]!r}")
        if not sections:
            raise CfgError(f"{source}, line {number}: '{key[:40]}' comes before the first [section]")
        sections[-1].options.setdefault(key, value)
    if not sections:
        raise CfgError(f"{source}: no [section] in it")
    return sections


def read_cfg(path: str | PathLike[str]) -> list[Section]:
    """`parse_cfg` of a file."""
    path = Path(path)
    if path.stat().st_size > MAX_CFG_BYTES:
        raise CfgError(f"{path}: {path.stat().st_size:,} bytes are too many for a cfg (at most {MAX_CFG_BYTES:,})")
    return parse_cfg(path.read_text(encoding="utf-8-sig", errors="replace"), source=str(path))


def format_cfg(sections: Iterable[Section]) -> str:
    """Text that `parse_cfg` reads back as equal sections."""
    blocks = [[f"[{s.name}]", *(f"{key}={value}" for key, value in s.options.items())] for s in sections]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"
