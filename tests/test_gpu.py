"""The operators on a GPU: CPU = CUDA = Triton = reference, and how they behave there. `make gpu` runs it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from gpu_checks import (
    SIZED_BY_VALUES,
    check_autocast,
    check_compile,
    check_equals_reference,
    check_gradient,
    check_graph,
    check_messages,
    check_no_synchronisation,
    check_opcheck,
    check_reference_backend,
    check_repeats,
    check_stream,
    check_strided,
    check_triton,
)
from gpu_large import LARGE_CASES, LargeCase, check_large
from op_cases import OP_CASES, OpCase, clustered_boxes

from pydet import _library, ops
from pydet.ops._backend import _triton_operator as triton_launcher

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
RUNS = [pytest.param(case, size, id=f"{case.name}-{size}") for case in OP_CASES for size in case.gpu_sizes]
each_case = pytest.mark.parametrize("case", OP_CASES, ids=lambda case: case.name)
each_case_of_known_size = pytest.mark.parametrize(
    "case", [case for case in OP_CASES if case.name not in SIZED_BY_VALUES], ids=lambda case: case.name
)


def test_import_starts_no_cuda() -> None:
    """A GPU may still be chosen, and a process that is forked has one."""
    program = (
        "import os, torch, pydet.ops\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    torch.zeros(1, device='cuda')\n"
        "    os._exit(0)\n"
        "raise SystemExit(os.waitpid(child, 0)[1])"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def needs_kernel(name: str) -> None:
    """What PyTorch's own functions do on a GPU is not ours to promise."""
    backend, why = ops.backend_of(name, "cuda")
    if backend == "reference":
        pytest.skip(f"{name} has no kernel on this GPU: {why}")


@pytest.mark.parametrize(("case", "size"), RUNS)
def test_equals_reference(case: OpCase, size: int) -> None:
    for dtype in case.dtypes:
        check_equals_reference(case, size, dtype, DEVICE)


@pytest.mark.parametrize("case", [case for case in OP_CASES if triton_launcher(case.name)], ids=lambda case: case.name)
def test_triton(case: OpCase) -> None:
    for dtype in case.dtypes:
        check_triton(case, dtype, DEVICE)


@pytest.mark.parametrize(("case", "size"), [run for run in RUNS if run.values[0].gradients])
def test_gradient(case: OpCase, size: int) -> None:
    for dtype in (torch.float32, torch.float64):
        check_gradient(case, size, dtype, DEVICE)


@each_case
def test_strided(case: OpCase) -> None:
    check_strided(case, DEVICE)


@each_case
def test_messages(case: OpCase) -> None:
    needs_kernel(case.name)
    check_messages(case, DEVICE)


@each_case
def test_same_bits_each_time(case: OpCase) -> None:
    needs_kernel(case.name)
    check_repeats(case, DEVICE)


@each_case
def test_stream(case: OpCase) -> None:
    check_stream(case, DEVICE)


@each_case
def test_another_device(case: OpCase) -> None:
    """While the first one is the current one."""
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    for size in case.gpu_sizes:
        check_equals_reference(case, size, torch.float32, "cuda:1")
    check_stream(case, "cuda:1")


@each_case_of_known_size
def test_no_synchronisation(case: OpCase) -> None:
    needs_kernel(case.name)
    check_no_synchronisation(case, DEVICE)


@each_case_of_known_size
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_graph(case: OpCase, backward: bool) -> None:
    if backward and not case.gradients:
        pytest.skip("has no gradient")
    needs_kernel(case.name)
    check_graph(case, DEVICE, backward)


@each_case
def test_autocast(case: OpCase) -> None:
    check_autocast(case, DEVICE)


@each_case
def test_opcheck(case: OpCase) -> None:
    check_opcheck(case, DEVICE)


@each_case
def test_compile_fullgraph(case: OpCase) -> None:
    check_compile(case, DEVICE)


@each_case
def test_reference_backend(case: OpCase) -> None:
    check_reference_backend(case, DEVICE)


@each_case
def test_backend(case: OpCase) -> None:
    """Compiled where the build has a kernel, else Triton's, else the reference; forced, Triton's where there is one."""
    compiled = torch._C._dispatch_has_kernel_for_dispatch_key(f"pydet::{case.name}", "CUDA")
    backend, why = ops.backend_of(case.name, "cuda")
    if backend == "compiled":
        assert compiled
        assert why == "CUDA"
    else:
        assert backend == ("triton" if triton_launcher(case.name) else "reference")
        assert why == (_library.CUDA_MISSING_BECAUSE or "it has no CUDA kernel yet")
    if triton_launcher(case.name):
        with ops.set_backend("triton"):
            assert ops.backend_of(case.name, "cuda")[0] == "triton"


def test_compiled_backend_names_what_is_missing() -> None:
    missing = [case.name for case in OP_CASES if ops.backend_of(case.name, "cuda")[0] != "compiled"]
    if not missing:
        with ops.set_backend("compiled"):
            assert all(ops.backend_of(case.name, "cuda") == ("compiled", "CUDA") for case in OP_CASES)
        return
    with pytest.raises(RuntimeError, match=rf"no compiled CUDA kernel here for .*{missing[0]}"):
        ops.set_backend("compiled")


@pytest.mark.parametrize("case", LARGE_CASES, ids=lambda case: case.name)
def test_more_elements_than_32_bits_count(case: LargeCase) -> None:
    needs_kernel(case.name)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    if free < case.gigabytes * 2**30:
        pytest.skip(f"needs {case.gigabytes} GiB of free memory, there are {free / 2**30:.0f}")
    check_large(case, 2**31, DEVICE)
    torch.cuda.empty_cache()


def test_nms_of_a_million_boxes() -> None:
    """Which the matrix of all pairs, 125 GB as bits, would not fit."""
    needs_kernel("nms")
    generator = torch.Generator().manual_seed(0)
    boxes = clustered_boxes(1_000_000, generator) * 20
    scores = torch.rand(1_000_000, generator=generator)
    torch.cuda.reset_peak_memory_stats()
    keep = ops.nms(boxes.cuda(), scores.cuda(), 0.5)
    assert torch.cuda.max_memory_allocated() < 2**30
    assert torch.equal(keep.cpu(), ops.nms(boxes, scores, 0.5))
