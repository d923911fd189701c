"""What a time depends on besides the code: the processor, the threads, the versions of the libraries."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import torch

from pydet import _library

LIBRARIES = (
    "torch",
    "torchvision",
    "opencv-python-headless",
    "powerboxes",
    "lsnms",
    "onnxruntime",
    "openvino",
    "numpy",
)


def description() -> dict[str, str | int]:
    return {"cpu": cpu_name(), "cpu_level": _library.cpu_level(), "threads": torch.get_num_threads()}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Of the checkout, with a + where files differ from it."""

    def git(*command: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(["git", *command], capture_output=True, text=True, cwd=folder, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "HEAD") + ("+" if changed else "")


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
