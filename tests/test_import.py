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


def test_ops_do_not_start_cuda() -> None:
    """On a GPU: a test of tests/test_gpu.py. Here: nothing is called that would."""
    code = (
        "import torch\n"
        "def start(*args): raise AssertionError('CUDA is started')\n"
        "torch.cuda.is_available = torch.cuda.init = torch.cuda._lazy_init = start\n"
        "import pydet.ops"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
