"""Every Python and shell block of the README and the documentation runs, page by page, in a folder with real files.

A block that cannot run here has a line before it, `<!-- not run by the tests: REASON -->`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pydet import ops
from pydet.models import MODELS, save_checkpoint
from pydet.models.registry import ASSETS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:^ *<!-- not run by the tests: ([^\n]{10,}) -->\n)?^( *)```(\w*)[^\n]*\n(.*?)^\2```$", re.DOTALL | re.MULTILINE
)
LANGUAGES = ("python", "sh")


def blocks(page: Path) -> list[tuple[int, str, str, bool]]:
    """Line, language and text of each block of code, and whether it is to run."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        reason, indent, language, code = match.groups()
        code = "".join(line.removeprefix(indent) for line in code.splitlines(keepends=True))
        found.append((text.count("\n", 0, match.start(4)) + 1, language, code, reason is None))
    return found


RUN = {page: [block[:3] for block in blocks(page) if block[3]] for page in PAGES}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the pages speak of: dog.jpg, a folder of pictures, a data set, a checkpoint, and the command `pydet`."""
    shutil.copy(ASSETS / "dog.jpg", tmp_path)
    (tmp_path / "holiday").mkdir()
    shutil.copy(ASSETS / "dog.jpg", tmp_path / "holiday" / "beach.jpg")
    shutil.copytree(ROOT / "tests" / "data" / "bccd", tmp_path / "blood")
    for file in (tmp_path / "blood" / "Annotations").glob(
        "*.xml"
    ):  # two of its boxes are bad: pydet's status is 1 then
        text = file.read_text(encoding="utf-8")
        flat = r"<object>(?:(?!</object>).)*<xmin>(\d+)</xmin>(?:(?!</object>).)*<xmax>\1</xmax>.*?</object>"
        file.write_text(re.sub(flat, "", text, flags=re.DOTALL), encoding="utf-8")
    trained = tmp_path / "runs" / "yolov3-tiny" / "best.safetensors"
    trained.parent.mkdir(parents=True)
    save_checkpoint(MODELS["yolov3-tiny"].build(["Platelets", "RBC", "WBC"]), trained)
    command = tmp_path / "bin" / "pydet"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m pydet "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names_of_the_readme() -> dict[str, Any]:
    """What its first blocks speak of without making it: boxes and scores of the user's own."""
    return {
        "torch": torch,
        "boxes": torch.tensor([[0.0, 0, 10, 10], [1.0, 1, 11, 11]]),
        "scores": torch.tensor([0.9, 0.8]),
    }


@pytest.mark.filterwarnings("ignore::pydet.data.dataset.DataWarning")
@pytest.mark.parametrize("page", [page for page in PAGES if RUN[page]], ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_run(page: Path, folder: Path) -> None:
    names: dict[str, Any] = {"__name__": "__main__"} | (names_of_the_readme() if page.name == "README.md" else {})
    for line, language, code in RUN[page]:
        if language == "python":
            exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)
        elif language == "sh":
            result = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", code], cwd=folder, capture_output=True, text=True
            )
            assert result.returncode == 0, f"{page}:{line}\n{result.stdout}{result.stderr}"


def test_every_block_says_its_language() -> None:
    for page in PAGES:
        for line, language, *_ in blocks(page):
            assert language in LANGUAGES, f"{page}:{line}: a block must be one of {LANGUAGES}, got {language!r}"


def test_blocks_that_cannot_run_are_few() -> None:
    """A reason is written quickly: this is how many have one now."""
    everything = [block for page in PAGES for block in blocks(page)]
    left_out = len(everything) - sum(map(len, RUN.values()))
    assert left_out < len(everything) / 2


def test_every_operator_has_its_page() -> None:
    documented = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "operators").glob("*.md"))
    of_pages = set(re.findall(r"^::: pydet\.ops\.\w+\.(\w+)$", documented, re.MULTILINE))
    assert of_pages == {name for name in ops.__all__ if callable(getattr(ops, name))}


def test_every_detector_is_there() -> None:
    text = (ROOT / "docs" / "detectors.md").read_text(encoding="utf-8")
    assert sorted(" ".join(re.findall(r"<!-- facts: (.+) -->", text)).split()) == sorted(MODELS)
