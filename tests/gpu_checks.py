"""What must hold for an operator on a GPU. tests/test_gpu.py runs it there, tests/test_gpu_checks.py on the CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from op_cases import OpCase
from op_checks import (
    Arguments,
    assert_close,
    assert_gradients_close,
    each_tensor,
    gradients,
    inputs_of,
    message_of,
    outputs,
    refused,
    shifted,
    strided,
    to_device,
)
from torch import Tensor

from pydet import ops

SIZED_BY_VALUES = ("nms", "batched_nms", "soft_nms")
"""How many results they have depends on the boxes: torch has to wait for the number."""
REFERENCE_TOLERANCE = (1e-5, 1e-4)
"""PyTorch's own functions on the two devices: their exponentials differ by some units in the last place."""


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def check_equals_reference(case: OpCase, size: int, dtype: torch.dtype, device: str) -> None:
    """What serves the device beside the reference on the CPU."""
    for args in inputs_of(case, size, dtype):
        expected, there = case.reference(*args), to_device(args, device)
        assert_close(case.function(*there), expected, case.tolerance)
        if (
            case.exact_on_gpu
            and dtype != torch.float64
            and ops.backend_of(case.name, torch.device(device).type)[0] == "compiled"
        ):
            assert_close(case.function(*there), case.function(*args), None)


def check_triton(case: OpCase, dtype: torch.dtype, device: str) -> None:
    """Triton's kernel, whose exponential is not the CPU's, beside the reference on the CPU."""
    # At two sizes: it compiles a kernel for each kind of number that a size is.
    for size in (case.gpu_sizes[4], case.gpu_sizes[6]):
        for args in inputs_of(case, size, dtype):
            with ops.set_backend("triton"):
                result = case.function(*to_device(args, device))
            assert_close(result, case.reference(*args), case.tolerance and REFERENCE_TOLERANCE)


def check_reference_backend(case: OpCase, device: str) -> None:
    """set_backend("reference") serves what the reference says on this device, which is what it says on the CPU."""
    args = case.inputs(case.gpu_sizes[3])
    there = to_device(args, device)
    with ops.set_backend("reference"):
        assert ops.backend_of(case.name, torch.device(device).type) == ("reference", "set_backend")
        result = case.function(*there)
    assert_close(result, case.reference(*there), None)
    assert_close(result, case.reference(*args), REFERENCE_TOLERANCE)


def check_gradient(case: OpCase, size: int, dtype: torch.dtype, device: str) -> None:
    for args in inputs_of(case, size, dtype):
        expected = gradients(case, case.reference, args)
        assert_gradients_close(gradients(case, case.function, to_device(args, device)), expected)


def check_strided(case: OpCase, device: str) -> None:
    args = case.inputs(case.gpu_sizes[3])
    for layout in (strided, shifted):
        views = each_tensor(to_device(args, device), layout)
        assert_close(case.function(*views), case.reference(*args), case.tolerance)


def check_messages(case: OpCase, device: str) -> None:
    for args, message in refused(case):
        assert message_of(case.function, to_device(args, device)) == message


def check_repeats(case: OpCase, device: str) -> None:
    """The same bits each time, in deterministic mode too, which also fills new memory with NaN."""
    args = to_device(case.inputs(case.gpu_sizes[-1]), device)
    expected = case.function(*args), gradients(case, case.function, args)
    try:
        for repeat in range(6):
            torch.use_deterministic_algorithms(repeat >= 3)
            assert_close(case.function(*args), expected[0], None)
            assert_close(gradients(case, case.function, args), expected[1], None)
    finally:
        torch.use_deterministic_algorithms(False)


def check_autocast(case: OpCase, device: str) -> None:
    args = to_device(case.inputs(case.gpu_sizes[3], dtype=torch.bfloat16), device)
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
        result = case.function(*args)
    assert_close(result, case.function(*args), None)


def check_opcheck(case: OpCase, device: str) -> None:
    args = list(to_device(case.inputs(min(case.gpu_sizes[3], 20)), device))
    for i in case.gradients:
        args[i] = args[i].clone().requires_grad_()
    torch.library.opcheck(case.operator, tuple(args))


def check_compile(case: OpCase, device: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(case.function, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        args = to_device(case.inputs(case.gpu_sizes[3]), device)
        assert_close(compiled(*args), case.function(*args), None)


@contextlib.contextmanager
def synchronising_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def check_no_synchronisation(case: OpCase, device: str) -> None:
    """Forward and backward; once before, since what is loaded or compiled at the first call may wait."""
    args = to_device(case.inputs(case.gpu_sizes[3]), device)

    def step() -> None:
        case.function(*args)
        gradients(case, case.function, args, ones=True)

    step()
    synchronize(device)
    with synchronising_is_an_error() if device.startswith("cuda") else contextlib.nullcontext():
        step()


def check_stream(case: OpCase, device: str) -> None:
    """On a stream of its own, whose inputs arrive late: a kernel on another stream would see the NaNs before them."""
    args = case.inputs(case.gpu_sizes[-1])
    expected = case.function(*to_device(args, device))
    late = each_tensor(to_device(args, device), lambda t: torch.full_like(t, torch.nan if t.is_floating_point() else 0))
    ready = to_device(args, device)
    synchronize(device)
    stream = torch.cuda.Stream(device) if device.startswith("cuda") else None
    with torch.cuda.stream(stream) if stream else contextlib.nullcontext():
        if stream:
            torch.cuda._sleep(100_000_000)  # cycles: some 50 ms
        for to, source in zip(late, ready, strict=True):
            if isinstance(to, Tensor):
                to.copy_(source)
        result = case.function(*late)
    synchronize(device)
    assert_close(result, expected, None)


class Graph:
    """A CUDA graph of function(*args); on the CPU a stand-in that calls it."""

    def __init__(self, function: Callable[..., Any], args: Arguments, device: str) -> None:
        self._call: Callable[[], Any] = lambda: function(*args)
        self.graph: torch.cuda.CUDAGraph | None = None
        if not device.startswith("cuda"):
            return
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(3):
                self._call()
        torch.cuda.current_stream(device).wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.result = self._call()

    def replay(self) -> Any:
        if self.graph is None:
            return self._call()
        self.graph.replay()
        return self.result


def check_graph(case: OpCase, device: str, backward: bool) -> None:
    """Captured once, replayed with other inputs of the same shapes."""
    first, second = (case.inputs(case.gpu_sizes[3], seed=seed) for seed in (0, 1))
    shapes = [[getattr(arg, "shape", arg) for arg in args] for args in (first, second)]
    if shapes[0] != shapes[1]:  # a ragged batch: the same values in another order
        second = each_tensor(first, lambda t: t if t.dim() < 2 else t.flip(0))
    function = (lambda *args: gradients(case, case.function, args, ones=True)) if backward else case.function
    static = to_device(first, device)
    graph = Graph(function, static, device)
    for args in (second, first):
        for to, source in zip(static, args, strict=True):
            if isinstance(to, Tensor):
                to.copy_(source)
        result = each_tensor(outputs(graph.replay()), torch.clone)
        synchronize(device)
        assert_close(result, outputs(function(*to_device(args, device))), None)
