"""The CUDA sources without a GPU: compiled by g++ against tests/cuda_on_cpu/, run on threads, beside the reference.

Also under AddressSanitizer and UndefinedBehaviorSanitizer, so that an index outside of a tensor is an error here. Not
under ThreadSanitizer: it reports the thread pools of torch, which is not built with it.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from compile_cpp import CSRC, compile_cpp
from op_cases import random_boxes
from torch import Tensor

from pydet import ops, reference

HERE = Path(__file__).parent
SANITIZED = os.environ.get("PYDET_TEST_SANITIZED") == "1"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-O1"]
KERNELS = sorted(path.stem for path in (CSRC / "cuda").glob("*.cu"))
# barriers between threads of the operating system are slow under a sanitizer
SIZES = (0, 1, 31, 33, 257) if SANITIZED else (0, 1, 31, 32, 33, 127, 128, 129, 255, 256, 257, 1025)
FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
EVERY_DTYPE = (*FLOATING, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def box_iou_inputs(n: int, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(n)
    a, b = (random_boxes(k, generator, size=60, largest=60).to(dtype) for k in (n, 37))
    batch = torch.stack([a[:33], a[:33].flip(0)]), torch.stack([b, b.flip(0)])
    return [(a, b, "xyxy"), (b, a, "xywh"), (*batch, "cxcywh")]


def yolo_decode_inputs(n: int, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(n)
    anchors = torch.rand(3, 2, generator=generator) * 50 + 5
    cells = torch.randn(1, 2 * 7, 1, n, generator=generator).to(dtype)
    some = max(n, 1) if n < 130 else 1 + n % 7
    classes = torch.randn(2, 3 * (5 + some), 3, 7, generator=generator).to(dtype)[:, :, :2]  # a crop
    return [
        (cells, anchors[:2], (32, 32 * n + 1)),
        (classes, anchors, (100, 100)),
        (classes.contiguous(memory_format=torch.channels_last), anchors.double(), (64, 96)),
    ]


# kernel: inputs of a size and dtype; the dtypes; relative and absolute tolerance, 0 where the arithmetic is the same
INPUTS = {
    "box_iou": (box_iou_inputs, EVERY_DTYPE, 0.0, 0.0),
    "yolo_decode": (yolo_decode_inputs, FLOATING, 2e-6, 1e-4),
}


@pytest.fixture(scope="module")
def cuda_operators(request: pytest.FixtureRequest) -> Any:
    """The operators of csrc/cuda/ as torch.ops.pydet_cuda_on_cpu.<name>, for CPU tensors."""
    folder = request.config.cache.mkdir("compiled")
    sources = []
    for name in KERNELS:
        # Beside nothing: a quoted include is looked for there first, and would find the real cuda_utils.cuh.
        sources.append(folder / f"{name}_cuda_on_cpu.cpp")
        sources[-1].write_text(f'#line 1 "{name}.cu"\n' + (CSRC / "cuda" / f"{name}.cu").read_text())
    torch_folder = Path(torch.__file__).parent
    flags = [f"-I{HERE / 'cuda_on_cpu'}", f"-I{CSRC / 'cuda'}", f"-isystem{torch_folder / 'include'}", "-pthread"]
    flags += ["-DTORCH_TARGET_VERSION=0x020a000000000000", f"-L{torch_folder / 'lib'}", "-ltorch_cpu"]
    flags += SANITIZERS if SANITIZED else []
    library = compile_cpp(folder, f"cuda_on_cpu{'_sanitized' * SANITIZED}.so", sources, flags)
    definitions = torch.library.Library("pydet_cuda_on_cpu", "DEF")
    for name in KERNELS:
        schema = str(getattr(torch.ops.pydet, name).default._schema)
        definitions.define(schema.removeprefix("pydet::"))
    torch.ops.load_library(str(library))
    yield torch.ops.pydet_cuda_on_cpu
    definitions._destroy()


def outputs(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def test_every_kernel_is_tested() -> None:
    assert set(KERNELS) == set(INPUTS)
    assert set(KERNELS) <= set(ops.OPERATORS)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", KERNELS)
def test_equals_reference(cuda_operators: Any, name: str, size: int) -> None:
    make_inputs, dtypes, rtol, atol = INPUTS[name]
    for dtype in dtypes:
        for args in make_inputs(size, dtype):
            ours, theirs = getattr(cuda_operators, name)(*args), getattr(reference, name)(*args)
            for a, b in zip(outputs(ours), outputs(theirs), strict=True):
                torch.testing.assert_close(a, b, rtol=rtol, atol=atol, equal_nan=True)


@pytest.mark.parametrize("name", KERNELS)
def test_same_bits_as_the_cpu_kernel(cuda_operators: Any, name: str) -> None:
    make_inputs, _, _, _ = INPUTS[name]
    for args in make_inputs(100, torch.float32):
        for a, b in zip(outputs(getattr(cuda_operators, name)(*args)), outputs(getattr(ops, name)(*args)), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_mixed_and_strided_boxes(cuda_operators: Any) -> None:
    (a, b, _), *_ = box_iou_inputs(33, torch.float32)
    for x, y in (
        (a.half(), b),
        (a, b.long()),
        (a.double(), b.bfloat16()),
        (a[::2], b.flip(0)),
        (a.T.contiguous().T, b),
    ):
        assert torch.equal(cuda_operators.box_iou(x, y), reference.box_iou(x, y))


def test_messages_are_those_of_the_cpu(cuda_operators: Any) -> None:
    with pytest.raises(RuntimeError, match=r"box_iou: boxes1 must be \[..., N, 4\], got \[7, 5\]"):
        cuda_operators.box_iou(torch.zeros(7, 5), torch.zeros(1, 4))


@functools.cache
def runtime_of(sanitizer: str) -> str | None:
    """Path of a sanitizer's runtime, which has to be loaded before everything else."""
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        return None
    found = subprocess.run([compiler, f"-print-file-name={sanitizer}"], capture_output=True, text=True, check=False)
    path = found.stdout.strip()
    return path if Path(path).is_absolute() else None


@pytest.mark.skipif(SANITIZED, reason="starts this process")
def test_sanitizers() -> None:
    runtimes = [runtime_of("libasan.so"), runtime_of("libubsan.so")]
    if None in runtimes:
        pytest.skip("the compiler has no shared sanitizer runtimes")
    environment = {**os.environ, "PYDET_TEST_SANITIZED": "1", "LD_PRELOAD": ":".join(map(str, runtimes))}
    environment["ASAN_OPTIONS"] = "detect_leaks=0:abort_on_error=0"  # Python leaks on purpose
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-s", "-k", "reference or strided", __file__]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout[-5000:] + process.stderr[:5000]
    assert f"{len(KERNELS) * 5 + 1} passed" in process.stdout
