"""What `import pydet.ops` costs beside torch: nothing but our own modules and two plain libraries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_ops_import_nothing_that_torch_has_not_imported() -> None:
    """Triton, numpy, Pillow, torchvision, matplotlib, the detectors: who wants operators does not wait for them."""
    code = "import sys, torch; before = set(sys.modules); import pydet.ops; print(*sorted(set(sys.modules) - before))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    packages = {".".join(name.split(".")[:2]) for name in result.stdout.split()}
    own = {name for name in packages if name.split(".")[0] == "pydet"}
    assert own <= {"pydet", "pydet.ops", "pydet.reference", "pydet._library"}
    assert packages - own == set()
