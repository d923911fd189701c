"""patch_torchvision where there is no torchvision; what it does where there is one is in test_torchvision_patch.py."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pydet import ops


def test_says_that_torchvision_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["pydet.ops.patch_torchvision"], "_originals", {})
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match=r"patch_torchvision: torchvision cannot be imported .*; pip install"):
        ops.patch_torchvision()


def test_import_of_pydet_does_not_import_torchvision() -> None:
    script = "import sys, pydet.ops; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
