"""The operators of csrc/cuda/ on the CPU: compiled by g++ against tests/cuda_on_cpu/, called for the CPU kernels.

See tests/test_cuda_on_cpu.py for what is tested with it.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from compile_cpp import CSRC, compile_cpp
from op_cases import OP_CASES
from sanitizers import ADDRESS, SMALL, sanitized_environment
from torch.utils._python_dispatch import TorchDispatchMode

HERE = Path(__file__).parent
HARNESS = HERE / "cuda_on_cpu"
NAMESPACE = "pydet_cuda_on_cpu"
SOURCES = sorted((CSRC / "cuda").glob("*.cu"))
SANITIZED = os.environ.get("PYDET_TEST_SANITIZED") == "1"
# Hidden, or an inline function of two files, with its __shared__ variables, would be one for both.
HIDDEN = "-fvisibility=hidden"
# The compiler has the one or the other. For the first, race_check.cpp serves instead of libtsan, which is left out.
RACES = [HIDDEN, "-fsanitize=thread", "-g1", "-O1", "-nodefaultlibs", "-lstdc++", "-lm", "-lc", "-lgcc_s"]
MEMORY = [HIDDEN, *ADDRESS, *SMALL]


def registered(source: Path) -> list[str]:
    """The operators that a .cu file registers."""
    return re.findall(r'm\.impl\("(\w+)"', source.read_text())


REGISTERED = [name for source in SOURCES for name in registered(source)]
# Also where only the gradient has a kernel: operators of a family share their files.
WITH_GRADIENT = {source.stem for source in SOURCES if any(name.startswith("_") for name in registered(source))}
CASES = [case for case in OP_CASES if case.name in REGISTERED or case.stem in WITH_GRADIENT]


def compile_runtime(folder: Path) -> list[str]:
    races = compile_cpp(folder, "librace_check.so", HARNESS / "race_check.cpp", ["-ldl"])
    runtime = compile_cpp(folder, "libcuda_on_cpu.so", HARNESS / "runtime.cpp", [str(races)])
    return [str(races), str(runtime)]


def compile_source(folder: Path, source: Path) -> Path:
    """A shared library of a .cu file, which registers its operators as CPU operators of NAMESPACE."""
    torch_folder = Path(torch.__file__).parent
    flags = ["-include", str(HARNESS / "cuda_utils.cuh"), f"-isystem{torch_folder / 'include'}"]
    flags += ["-DTORCH_TARGET_VERSION=0x020a000000000000", f"-L{torch_folder / 'lib'}", "-ltorch_cpu"]
    flags += [*compile_runtime(folder), *(MEMORY if SANITIZED else RACES)]
    return compile_cpp(folder, f"{source.stem}_cuda_on_cpu{'_sanitized' * SANITIZED}.so", source, flags)


def compiled(folder: Path, source: Path) -> Path | str:
    """The library, or what the compiler says."""
    try:
        return compile_source(folder, source)
    except AssertionError as error:
        return str(error)


def environment_of_sanitized_kernels() -> dict[str, str] | None:
    environment = sanitized_environment("address")
    return environment and {**environment, "PYDET_TEST_SANITIZED": "1"}


class CudaOnCpu(TorchDispatchMode):
    """Inside it the kernels of csrc/cuda/ serve torch.ops.pydet on the CPU; gradients and wrappers stay as they are.

    Args:
        folder: for the compiled libraries.
        sources: .cu files.
        schemas: of the operators that they register, where torch.ops.pydet does not have them.

    Attributes:
        served: names of the operators that were called and served.
        broken: those whose file does not compile, and what the compiler says; they fail when they are called.
    """

    def __init__(self, folder: Path, sources: list[Path] = SOURCES, schemas: dict[str, str] | None = None) -> None:
        super().__init__()
        self.names = {name for source in sources for name in registered(source)}
        self.served: set[str] = set()
        self.broken: dict[str, str] = {}
        self.definitions = torch.library.Library(NAMESPACE, "FRAGMENT")
        for name in self.names:
            schema = (schemas or {}).get(name) or str(getattr(torch.ops.pydet, name).default._schema)
            self.definitions.define(schema.removeprefix("pydet::"))
        compile_runtime(folder)  # what all need, once
        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
            for source, library in zip(sources, pool.map(functools.partial(compiled, folder), sources), strict=True):
                if isinstance(library, str):
                    self.broken |= dict.fromkeys(registered(source), library)
                else:
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
        assert name not in self.broken, self.broken[name]
        self.served.add(name)
        return getattr(getattr(torch.ops, NAMESPACE), name)(*args, **(kwargs or {}))

    def call(self, function: Callable[..., Any], *args: Any, seed: int = 0) -> Any:
        """function(*args), with new memory full of NaN, so that every output has to be written."""
        self.order(seed)
        torch.use_deterministic_algorithms(True)
        try:
            with self:
                return function(*args)
        finally:
            torch.use_deterministic_algorithms(False)
