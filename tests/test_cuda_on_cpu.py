"""The CUDA sources without a GPU: compiled by g++ against tests/cuda_on_cpu/ and run on the CPU, beside the reference.

A new csrc/cuda/<op>.cu is found and tested by itself, with the inputs of the registry and of tests/more_inputs/<op>.py,
forward and backward, in the natural order of its blocks and threads and in others. Also under AddressSanitizer and
UndefinedBehaviorSanitizer, so that an index outside of a tensor is an error here.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
import torch
from compile_cpp import CSRC
from cuda_harness import CASES, REGISTERED, SANITIZED, CudaOnCpu, environment_of_sanitized_kernels
from op_cases import OpCase, random_boxes
from op_checks import (
    assert_close,
    assert_gradients_close,
    each_tensor,
    gradients,
    inputs_of,
    message_of,
    refused,
    shifted,
    strided,
)

from pydet import ops, reference
from pydet.letterbox import resize_taps

IDS = [case.name for case in CASES]
# Under a sanitizer the reference is slow too: without the largest size.
RUNS = [
    pytest.param(c, size, id=f"{c.name}-{size}") for c in CASES for size in c.gpu_sizes[: -1 if SANITIZED else None]
]


@pytest.fixture(scope="module")
def cuda(request: pytest.FixtureRequest) -> CudaOnCpu:
    return CudaOnCpu(request.config.cache.mkdir("compiled"))


@pytest.fixture(scope="module", autouse=True)
def sanitized_run(request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[str], IO[str]] | None]:
    """The process of test_sanitizers, which runs beside the other tests: both take long, and each one processor."""
    wanted = any(item.name == test_sanitizers.__name__ for item in request.session.items)
    environment = environment_of_sanitized_kernels()
    if SANITIZED or not wanted or environment is None:
        yield None
        return
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-s", "-k", "reference or strided", __file__]
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True) as process,
    ):
        try:
            yield process, output
        finally:
            process.kill()


def test_every_file_compiles(cuda: CudaOnCpu) -> None:
    assert not cuda.broken, "\n".join(set(cuda.broken.values()))


@pytest.mark.parametrize("source", sorted((CSRC / "cuda").glob("*.cu*")), ids=lambda path: path.name)
def test_every_kernel_says_how_large_its_blocks_are(source: Path) -> None:
    """Otherwise it may get more registers than such a block has, and its launch is refused on a GPU, and only there."""
    assert not re.search(r"__global__\s+void\s+(?!__launch_bounds__)", source.read_text())


@pytest.mark.parametrize(("case", "size"), RUNS)
def test_equals_reference(cuda: CudaOnCpu, case: OpCase, size: int) -> None:
    for seed, dtype in enumerate(case.dtypes):  # the first with its blocks and threads in their natural order
        for args in inputs_of(case, size, dtype):
            assert_close(cuda.call(case.function, *args, seed=seed), case.reference(*args), case.tolerance)


@pytest.mark.parametrize(("case", "size"), [run for run in RUNS if run.values[0].gradients])
def test_gradient_equals_that_of_the_reference(cuda: CudaOnCpu, case: OpCase, size: int) -> None:
    for dtype in (torch.float32, torch.float64):
        for args in inputs_of(case, size, dtype):
            ours = cuda.call(gradients, case, case.function, args, seed=size)
            assert_gradients_close(ours, gradients(case, case.reference, args))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_equals_the_cpu_kernel(cuda: CudaOnCpu, case: OpCase, dtype: torch.dtype) -> None:
    """To the last bit, but for sums in another order."""
    for args in inputs_of(case, case.gpu_sizes[4], dtype):
        ours, theirs = cuda.call(case.function, *args), case.function(*args)
        assert_close(ours, theirs, None if case.exact_on_gpu else case.tolerance)
        ours, theirs = cuda.call(gradients, case, case.function, args), gradients(case, case.function, args)
        if case.exact_on_gpu:
            assert_close(ours, theirs, None)
        else:
            assert_gradients_close(ours, theirs)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_strided(cuda: CudaOnCpu, case: OpCase) -> None:
    args = case.inputs(case.gpu_sizes[3])
    for layout in (strided, shifted):
        assert_close(cuda.call(case.function, *each_tensor(args, layout)), case.reference(*args), case.tolerance)


def pools_on(cuda: CudaOnCpu, dtype: torch.dtype) -> None:
    """Where the last windows are whole, half outside, and overlap; channels that fill a block of threads or not."""
    for channels, height, width in ((3, 6, 8), (64, 7, 5)):
        x = torch.randn(2, channels, height, width).to(dtype).contiguous(memory_format=torch.channels_last)
        x[:, 0, 1, 1] = torch.nan
        for step, size in (
            (2, (height // 2, width // 2)),
            (2, ((height + 1) // 2, (width + 1) // 2)),
            (1, x.shape[2:]),
        ):
            ours = cuda.call(torch.ops.pydet._max_pool_2x2, x, step, list(size), seed=step)
            assert_close(ours, reference.max_pool_2x2(x, step, tuple(size)), None)
            if step == 2:
                x, grad = x.nan_to_num(5), torch.randn_like(ours)  # which of several NaN has the gradient is not said
                ours = cuda.call(torch.ops.pydet._max_pool_2x2_backward, grad, x, seed=step)
                assert_close(ours, torch.ops.pydet._max_pool_2x2_backward(grad, x), None)


def resamples_on(cuda: CudaOnCpu, out_dtype: torch.dtype) -> None:
    """Both orders of the arithmetic, as the CPU does them, into a part of a batch."""
    pixels = torch.randint(0, 256, (3, 23, 31), dtype=torch.uint8)
    stacked = [tensor for axis in resize_taps((23, 31), (14, 40)) for tensor in axis.to(pixels.device)]
    for image in (pixels, (pixels / 255).permute(1, 2, 0).contiguous().permute(2, 0, 1), pixels.double() / 255):
        for mean, std, fuse in (((), (), False), ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3), True)):
            options = mean, std, fuse
            batches = torch.full((2, 2, 3, 20, 50), -7.0, dtype=out_dtype)
            for batch in batches.unbind():
                place = batch.contiguous(memory_format=torch.channels_last)
                if batch.data_ptr() == batches.data_ptr():
                    cuda.call(torch.ops.pydet._resample, image, *stacked, *options, place[1, :, 2:16, 5:45], seed=1)
                else:
                    torch.ops.pydet._resample(image, *stacked, *options, place[1, :, 2:16, 5:45])
                batch.copy_(place)
            assert torch.equal(*batches.unbind())
            assert (batches == -7).sum() == 2 * 3 * (2 * 20 * 50 - 14 * 40)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_internal_operators_equal_the_reference(cuda: CudaOnCpu, dtype: torch.dtype) -> None:
    """Those that no public operator calls, but the detectors."""
    pools_on(cuda, dtype)
    resamples_on(cuda, dtype)


def test_every_registered_operator_ran(cuda: CudaOnCpu) -> None:
    """That is, the tests above reach it, those with an underscore through the operators that call them."""
    cuda.served.clear()
    for case in CASES:
        for args in inputs_of(case, case.gpu_sizes[2], torch.float32):
            cuda.call(gradients, case, case.function, args)
            cuda.call(case.function, *args)
    pools_on(cuda, torch.float32)
    resamples_on(cuda, torch.float32)
    assert sorted(cuda.served) == sorted(REGISTERED)


@pytest.mark.parametrize("case", [case for case in CASES if case.name in REGISTERED], ids=lambda case: case.name)
def test_messages_are_those_of_the_cpu(cuda: CudaOnCpu, case: OpCase) -> None:
    cuda.served.clear()
    for args, message in refused(case):
        with cuda:
            assert message_of(case.function, args) == message
    assert case.name in cuda.served


@pytest.mark.parametrize(("counts", "read"), [([3, -4, 9], [3, 0, 2]), ([2**62, 9, 1], [5, 0, 0]), ([1, 0], [1, 0])])
def test_counts_that_nobody_has_checked(cuda: CudaOnCpu, counts: list[int], read: list[int]) -> None:
    """On a GPU they are not looked at: read as far as they make sense, and never beyond the ground truths."""
    generator = torch.Generator().manual_seed(0)
    boxes, anchors = (random_boxes(n, generator, size=60, largest=60) for n in (10, 3 * 700))
    truths = boxes[:5]  # what lies behind them would be matched too
    kept, own = sum(read), anchors.reshape(3, 700, 4)[: len(counts)]
    for mode in ("retinanet", "ssd", "threshold"):
        ours = cuda.call(ops.match_anchors, own, truths, torch.tensor(counts), 0.5, 0.3, mode)
        assert torch.equal(ours, reference.match_anchors(own, truths[:kept], torch.tensor(read), 0.5, 0.3, mode))
    rest = ((70, 5), (120, 120), "overlap", None, None, 0.5)
    matches, predictors = cuda.call(ops.match_cells, own, truths, torch.tensor(counts), *rest)
    expected = reference.match_cells(own, truths[:kept], torch.tensor(read), *rest)
    assert torch.equal(matches, expected[0])
    assert torch.equal(predictors, torch.cat([expected[1], torch.full((5 - kept,), -1)]))


def test_ground_truths_of_no_image(cuda: CudaOnCpu) -> None:
    """Nobody has looked at the counts: where there is none, they leave out all ground truths."""
    args = (torch.zeros(0, 350, 4), torch.tensor([[1.0, 1.0, 9.0, 9.0]]), torch.zeros(0, dtype=torch.int64))
    matches, predictors = cuda.call(ops.match_cells, *args, (70, 5), (120, 120))
    assert list(matches.shape) == [0, 350]
    assert predictors.tolist() == [-1]


@pytest.mark.skipif(SANITIZED, reason="starts this process")
def test_sanitizers(sanitized_run: tuple[subprocess.Popen[str], IO[str]] | None) -> None:
    if sanitized_run is None:
        pytest.skip("the compiler has no shared sanitizer runtimes")
    process, output = sanitized_run
    process.wait()
    output.seek(0)
    said = output.read()
    assert process.returncode == 0, said[-8000:]
    sizes = sum(len(case.gpu_sizes) - 1 for case in CASES)
    with_gradient = sum(len(case.gpu_sizes) - 1 for case in CASES if case.gradients)
    internal = 4
    assert f"{sizes + with_gradient + len(CASES) + internal} passed" in said
