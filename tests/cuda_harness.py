"""The operators of csrc/cuda/ on the CPU: compiled by g++ against tests/cuda_on_cpu/, called instead of the CPU kernels.

See tests/test_cuda_on_cpu.py for what is tested with it.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from compile_cpp import CSRC, compile_cpp
from op_cases import OP_CASES, OpCase
from torch.utils._python_dispatch import TorchDispatchMode

HERE = Path(__file__).parent
HARNESS = HERE / "cuda_on_cpu"
NAMESPACE = "pydet_cuda_on_cpu"
SOURCES = sorted((CSRC / "cuda").glob("*.cu"))
SANITIZED = os.environ.get("PYDET_TEST_SANITIZED") == "1"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-O1"]


def registered(source: Path) -> list[str]:
    """The operators that a .cu file registers."""
    return re.findall(r'm\.impl\("(\w+)"', source.read_text())


REGISTERED = [name for source in SOURCES for name in registered(source)]
# Also where only the gradient has a kernel: operators of a family share their files.
CASES = [c for c in OP_CASES if c.name in REGISTERED or c.stem in {source.stem for source in SOURCES}]


def inputs_of(case: OpCase, size: int, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """Those of the registry, and those of tests/more_inputs/<operator>.py where there is such a file."""
    more = HERE / "more_inputs" / f"{case.name}.py"
    found = [case.inputs(size, dtype=dtype)]
    if more.exists():
        found += importlib.import_module(f"more_inputs.{case.name}").inputs(size, dtype)
    return found


def compile_source(folder: Path, source: Path) -> Path:
    """A shared library of a .cu file, which registers its operators as CPU operators of NAMESPACE."""
    kind = "_sanitized" * SANITIZED
    runtime = compile_cpp(folder, "libcuda_on_cpu.so", HARNESS / "runtime.cpp", [])
    # Beside nothing: a quoted include is looked for there first, and would find the real cuda_utils.cuh.
    copy = folder / f"{source.stem}_cuda_on_cpu.cpp"
    copy.write_text(f'#line 1 "{source.name}"\n' + source.read_text())
    torch_folder = Path(torch.__file__).parent
    flags = [f"-I{HARNESS}", f"-I{CSRC / 'cuda'}", f"-isystem{torch_folder / 'include'}"]
    flags += ["-DTORCH_TARGET_VERSION=0x020a000000000000", f"-L{torch_folder / 'lib'}", "-ltorch_cpu", str(runtime)]
    return compile_cpp(folder, f"{source.stem}_cuda_on_cpu{kind}.so", copy, flags + SANITIZERS * SANITIZED)


class CudaOnCpu(TorchDispatchMode):
    """Inside it the kernels of csrc/cuda/ serve torch.ops.pydet on the CPU; gradients and wrappers stay as they are.

    Args:
        folder: for the compiled libraries.
        sources: .cu files; of the operators that they register, torch.ops.pydet has the schema.

    Attributes:
        served: names of the operators that were called and served.
    """

    def __init__(self, folder: Path, sources: list[Path] = SOURCES) -> None:
        super().__init__()
        self.names = {name for source in sources for name in registered(source)}
        self.served: set[str] = set()
        definitions = torch.library.Library(NAMESPACE, "FRAGMENT")
        for name in self.names:
            definitions.define(str(getattr(torch.ops.pydet, name).default._schema).removeprefix("pydet::"))
        self.definitions = definitions
        compile_source(folder, sources[0])  # what all need, once
        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
            for library in pool.map(functools.partial(compile_source, folder), sources):
                torch.ops.load_library(str(library))
        self.runtime = ctypes.CDLL(str(folder / "libcuda_on_cpu.so"))

    def order(self, seed: int) -> None:
        """Blocks and threads in their natural order (0) or in one drawn with the seed."""
        self.runtime.cuda_on_cpu_order(ctypes.c_uint(seed))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.name().removeprefix("pydet::").split(".")[0]
        if func.namespace != "pydet" or name not in self.names:
            return func(*args, **(kwargs or {}))
        self.served.add(name)
        return getattr(getattr(torch.ops, NAMESPACE), name)(*args, **(kwargs or {}))

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        with self:
            return function(*args)
