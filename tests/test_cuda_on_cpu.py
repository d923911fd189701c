"""The CUDA sources without a GPU: compiled by g++ against tests/cuda_on_cpu/ and run on the CPU, beside the reference.

A new csrc/cuda/<op>.cu is found and tested by itself, with the inputs of the registry and of tests/more_inputs/<op>.py,
forward and backward, in the natural order of its blocks and threads and in others. Also under AddressSanitizer and
UndefinedBehaviorSanitizer, so that an index outside of a tensor is an error here.
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
from cuda_harness import CASES, REGISTERED, SANITIZED, CudaOnCpu, inputs_of
from op_cases import OpCase
from torch import Tensor

IDS = [case.name for case in CASES]
# Under a sanitizer the reference is slow too: without the largest size.
RUNS = [
    pytest.param(c, size, id=f"{c.name}-{size}") for c in CASES for size in c.gpu_sizes[: -1 if SANITIZED else None]
]


@pytest.fixture(scope="module")
def cuda(request: pytest.FixtureRequest) -> CudaOnCpu:
    return CudaOnCpu(request.config.cache.mkdir("compiled"))


def outputs(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def assert_same(result: Any, expected: Any, tolerance: tuple[float, float] | None) -> None:
    for ours, theirs in zip(outputs(result), outputs(expected), strict=True):
        rtol, atol = tolerance or (0, 0)
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol, equal_nan=True)


@pytest.mark.parametrize(("case", "size"), RUNS)
def test_equals_reference(cuda: CudaOnCpu, case: OpCase, size: int) -> None:
    for dtype in case.dtypes:
        for args in inputs_of(case, size, dtype):
            expected = case.reference(*args)
            for seed in (0, 1 + size):
                cuda.order(seed)
                assert_same(cuda.call(case.function, *args), expected, case.tolerance)


def gradients(case: OpCase, function: Any, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """With respect to the floating ones of the arguments that have one, for random gradients of the results."""
    args = tuple(
        arg.detach().clone().requires_grad_() if i in case.gradients and arg.is_floating_point() else arg
        for i, arg in enumerate(args)
    )
    results = [r for r in outputs(function(*args)) if r.requires_grad]
    generator = torch.Generator().manual_seed(5)
    upstream = [torch.randn(r.shape, generator=generator).to(r) for r in results]
    wanted = [arg for arg in args if isinstance(arg, Tensor) and arg.requires_grad]
    return torch.autograd.grad(results, wanted, upstream) if results else ()


@pytest.mark.parametrize(("case", "size"), [run for run in RUNS if run.values[0].gradients])
def test_gradient_equals_that_of_the_reference(cuda: CudaOnCpu, case: OpCase, size: int) -> None:
    cuda.order(size)
    for dtype, (rtol, atol) in {torch.float32: (1e-4, 1e-5), torch.float64: (1e-9, 1e-12)}.items():
        for args in inputs_of(case, size, dtype):
            ours = cuda.call(gradients, case, case.function, args)
            theirs = gradients(case, case.reference, args)
            for a, b in zip(ours, theirs, strict=True):
                scale = b.abs().nan_to_num(0, 0, 0).amax().item() if b.numel() else 1.0
                torch.testing.assert_close(a, b, rtol=rtol, atol=atol * max(scale, 1.0), equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", [case for case in CASES if case.exact_on_gpu], ids=lambda case: case.name)
def test_same_bits_as_the_cpu_kernel(cuda: CudaOnCpu, case: OpCase, dtype: torch.dtype) -> None:
    cuda.order(0)
    for args in inputs_of(case, 33, dtype):
        assert_same(cuda.call(case.function, *args), case.function(*args), None)
        ours, theirs = cuda.call(gradients, case, case.function, args), gradients(case, case.function, args)
        assert_same(ours, theirs, None)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_strided(cuda: CudaOnCpu, case: OpCase) -> None:
    def strided(tensor: Tensor) -> Tensor:
        wide = tensor.new_full([2 * n for n in tensor.shape], 7)
        return wide[tuple(slice(None, None, 2) for _ in tensor.shape)].copy_(tensor)

    cuda.order(0)
    args = case.inputs(case.gpu_sizes[3])
    views = tuple(strided(arg) if isinstance(arg, Tensor) else arg for arg in args)
    assert_same(cuda.call(case.function, *views), case.reference(*args), case.tolerance)


def test_every_registered_operator_ran(cuda: CudaOnCpu) -> None:
    """That is, the tests above reach it, those with an underscore through the operators that call them."""
    cuda.served.clear()
    for case in CASES:
        for args in inputs_of(case, case.gpu_sizes[2], torch.float32):
            cuda.call(gradients, case, case.function, args)
            cuda.call(case.function, *args)
    assert sorted(cuda.served) == sorted(REGISTERED)


def test_messages_are_those_of_the_cpu(cuda: CudaOnCpu) -> None:
    with cuda, pytest.raises(RuntimeError, match=r"box_iou: boxes1 must be \[..., N, 4\], got \[7, 5\]"):
        torch.ops.pydet.box_iou(torch.zeros(7, 5), torch.zeros(1, 4))
    assert "box_iou" in cuda.served


@functools.cache
def runtime_of(sanitizer: str) -> str | None:
    """Path of a sanitizer's runtime, which has to be loaded before everything else."""
    compiler = os.environ.get("CXX", "c++").split()[-1]
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
    sizes = sum(len(case.gpu_sizes) - 1 for case in CASES)
    with_gradient = sum(len(case.gpu_sizes) - 1 for case in CASES if case.gradients)
    assert f"{sizes + with_gradient + len(CASES)} passed" in process.stdout
