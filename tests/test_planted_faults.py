"""What tests/cuda_on_cpu/ finds: faults planted in small kernels; without them the same kernels are right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cuda_harness import HARNESS, CudaOnCpu, environment_of_sanitized_kernels
from torch import Tensor

SCHEMA = "_planted(Tensor input, str fault, bool right) -> Tensor"
SIZES = (1, 31, 32, 33, 63, 65, 1000)


def over_blocks(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of rows of 64, the threads of a block; x ends with zeros there."""
    rows = torch.cat([x, x.new_zeros(-len(x) % 64)]).view(-1, 64)
    return function(rows).reshape(-1)[: len(x)]


def over_warps(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    return over_blocks(x, lambda rows: function(rows.view(-1, 32)))


def with_first(x: Tensor, values: Tensor) -> Tensor:
    """`values`, then zeros."""
    return torch.cat([values, x.new_zeros(len(x) - len(values))])


def total_then_first_of_blocks(x: Tensor) -> Tensor:
    firsts = x[::64].clone()
    firsts[0] = x[::64].sum()
    return with_first(x, firsts)


# fault: what is said of it, and what the kernel without it computes
REPORTED: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "missing_barrier": (
        r"race in shared memory: thread \d+ of block \d+ \w+ \(planted_faults.cu:\d+\) what thread \d+ of block \d+",
        lambda x: over_blocks(x, lambda rows: rows.flip(1)),
    ),
    "missing_second_barrier": (
        "race in shared memory",
        lambda x: over_blocks(x, lambda rows: 2 * rows.flip(1) + 1),
    ),
    "bytes_that_overlap": ("race in shared memory", torch.ones_like),
    "missing_syncwarp": ("race in shared memory", lambda x: over_warps(x, lambda rows: rows.flip(1))),
    "lane_outside_of_its_mask": (
        r"thread \d+ in line \d+ is not in the mask that it gives",
        lambda x: over_warps(x, lambda rows: rows.sum(1, keepdim=True).expand(-1, 32)),
    ),
    "mask_of_lanes_that_left": (
        "for the lanes of mask 0xffffffff, which never all come",
        lambda x: over_warps(x, lambda rows: rows.sum(1, keepdim=True).expand(-1, 32)),
    ),
    "barrier_that_some_never_reach": (
        r"at a barrier that not all threads reach: \d+ wait there, 0 elsewhere, \d+ have returned",
        lambda x: over_blocks(x, lambda rows: rows[:, :1].expand(-1, 64)),
    ),
    "two_barriers_for_one": (r"one barrier has thread \d+ in line \d+ and thread \d+ in line \d+", lambda x: x),
    "two_blocks_write_one_place": (
        "race in global memory",
        lambda x: with_first(x, torch.tensor([float(-(-len(x) // 64))])),
    ),
    "block_reads_what_another_wrote": ("race in global memory", lambda x: with_first(x, x[::64])),
    "missing_fence": ("race in global memory", total_then_first_of_blocks),
}
# Without a report: the values are wrong, or change with the order of the blocks and threads.
WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "shared_memory_without_a_value": lambda x: x,
    "order_decides": lambda x: x,
}
SANITIZED = {
    "read_beyond_the_end": "heap-buffer-overflow",
    "write_beyond_shared_memory": "global-buffer-overflow",
    "write_beyond_dynamic_shared_memory": "heap-buffer-overflow",
    "misaligned_vector": "misaligned address",
}


def planted(cuda: CudaOnCpu, size: int, fault: str, right: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Input and output; whole numbers, so that sums are exact."""
    x = torch.randint(1, 1000, (size,), generator=torch.Generator().manual_seed(size)).float()
    cuda.order(seed)
    return x, torch.ops.pydet_cuda_on_cpu._planted(x, fault, right)


@pytest.fixture(scope="module")
def cuda(request: pytest.FixtureRequest) -> CudaOnCpu:
    return CudaOnCpu(request.config.cache.mkdir("compiled"), [HARNESS / "planted_faults.cu"], {"_planted": SCHEMA})


@pytest.mark.parametrize("fault", [*REPORTED, *WRONG])
def test_right_kernels_are_right(cuda: CudaOnCpu, fault: str) -> None:
    expected = REPORTED[fault][1] if fault in REPORTED else WRONG[fault]
    for size in SIZES:
        for seed in (0, 1, 2):
            x, result = planted(cuda, size, fault, True, seed)
            assert torch.equal(result, expected(x)), (size, seed)


@pytest.mark.parametrize("fault", REPORTED)
def test_found(cuda: CudaOnCpu, fault: str) -> None:
    """In every order of the threads and blocks, the first one included."""
    for seed in range(10):
        with pytest.raises(RuntimeError, match=REPORTED[fault][0]):
            planted(cuda, 1000, fault, False, seed)
    _, result = planted(cuda, 1000, fault, True, 0)  # a kernel that was given up leaves nothing behind
    assert torch.isfinite(result).all()


@pytest.mark.parametrize("fault", WRONG)
def test_values_differ(cuda: CudaOnCpu, fault: str) -> None:
    found = [planted(cuda, 1000, fault, False, seed) for seed in (1, 2)]
    assert not any(torch.equal(result, WRONG[fault](x)) for x, result in found)


def test_order_of_blocks_and_threads_changes_what_depends_on_it(cuda: CudaOnCpu) -> None:
    results = [planted(cuda, 1000, "order_decides", False, seed)[1] for seed in (0, 0, 1, 2)]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[1], results[2])
    assert not torch.equal(results[2], results[3])
    assert all(torch.equal(r.sort().values, results[0].sort().values) for r in results)


@pytest.fixture(scope="module")
def sanitized(request: pytest.FixtureRequest) -> dict[str, str]:
    """Fault, or "right" for the kernels without it: what the sanitizers say. Loading torch with them takes seconds."""
    environment = environment_of_sanitized_kernels()
    if environment is None:
        pytest.skip("the compiler has no shared sanitizer runtimes")
    command = [sys.executable, __file__, str(request.config.cache.mkdir("compiled"))]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.mark.parametrize("fault", SANITIZED)
def test_found_by_the_sanitizers(sanitized: dict[str, str], fault: str) -> None:
    assert SANITIZED[fault] in sanitized[fault]
    assert "planted_faults.cu" in sanitized[fault]


def test_sanitizers_find_nothing_in_right_kernels(sanitized: dict[str, str]) -> None:
    assert sanitized["right"] == ""


def said_by_a_child(function: Callable[[], object]) -> str:
    """What a process says on stderr that runs the function: the sanitizers end it with the first fault."""
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            os.dup2(output.fileno(), 2)
            function()
            os._exit(0)
        os.waitpid(child, 0)
        output.seek(0)
        return output.read().decode()


if __name__ == "__main__":  # in the process that `sanitized` starts
    kernels = CudaOnCpu(Path(sys.argv[1]), [HARNESS / "planted_faults.cu"], {"_planted": SCHEMA})
    said = {"right": said_by_a_child(lambda: [planted(kernels, 640, f, True, 0) for f in (*SANITIZED, *REPORTED)])}
    for name in SANITIZED:
        said[name] = said_by_a_child(lambda name=name: planted(kernels, 640, name, False, 0))
    print(json.dumps(said))
