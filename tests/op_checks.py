"""What the generic tests share: of the CPU kernels, of the CUDA kernels on the CPU, of the GPU."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from op_cases import OpCase
from torch import Tensor

from pydet import ops

HERE = Path(__file__).parent
Arguments = tuple[Any, ...]


def outputs(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def assert_close(result: Any, expected: Any, tolerance: tuple[float, float] | None) -> None:
    """None: equal to the last bit. The devices may differ."""
    rtol, atol = tolerance or (0, 0)
    for ours, theirs in zip(outputs(result), outputs(expected), strict=True):
        half = rtol and ours.dtype in (torch.float16, torch.bfloat16)  # rounded from values that differ by a little
        bound = torch.finfo(ours.dtype).eps if half else rtol
        torch.testing.assert_close(ours, theirs, rtol=bound, atol=atol, equal_nan=True, check_device=False)


def inputs_of(case: OpCase, size: int, dtype: torch.dtype) -> list[Arguments]:
    """Those of the registry, and those of tests/more_inputs/<operator>.py where there is such a file."""
    found = [case.inputs(size, dtype=dtype)]
    if (HERE / "more_inputs" / f"{case.name}.py").exists():
        found += importlib.import_module(f"more_inputs.{case.name}").inputs(size, dtype)
    return found


def each_tensor(args: Arguments, change: Callable[[Tensor], Tensor]) -> Arguments:
    return tuple(change(arg) if isinstance(arg, Tensor) else arg for arg in args)


def to_device(args: Arguments, device: str) -> Arguments:
    """Copies, on the same device too."""
    return each_tensor(args, lambda tensor: tensor.to(device, copy=True))


def strided(tensor: Tensor) -> Tensor:
    """The same values behind other strides: every second element of each dimension of a larger tensor."""
    wide = tensor.new_full([2 * n for n in tensor.shape], 7)
    return wide[tuple(slice(None, None, 2) for _ in tensor.shape)].copy_(tensor)


def shifted(tensor: Tensor) -> Tensor:
    """The same values, contiguous, an element behind the beginning of their memory: no vector of several is aligned."""
    return tensor.new_empty(tensor.numel() + 1)[1:].view(tensor.shape).copy_(tensor)


def gradients(case: OpCase, function: Callable[..., Any], args: Arguments, ones: bool = False) -> tuple[Tensor, ...]:
    """With respect to the floating ones of the arguments that have one, for gradients of the results: random, or 1."""
    args = tuple(
        arg.detach().clone().requires_grad_()
        if i in case.gradients and isinstance(arg, Tensor) and arg.is_floating_point()
        else arg
        for i, arg in enumerate(args)
    )
    results = [r for r in outputs(function(*args)) if r.requires_grad]
    generator = torch.Generator().manual_seed(5)
    upstream = [torch.ones_like(r) if ones else torch.randn(r.shape, generator=generator).to(r) for r in results]
    wanted = [arg for arg in args if isinstance(arg, Tensor) and arg.requires_grad]
    return torch.autograd.grad(results, wanted, upstream) if results else ()


# Half ones appear where a half tensor is beside another: the sum is rounded to it.
GRADIENT_TOLERANCES = {
    torch.float32: (1e-4, 1e-5),
    torch.float64: (1e-9, 1e-12),
    torch.float16: (2e-3, 1e-3),
    torch.bfloat16: (2e-2, 1e-2),
}


def assert_gradients_close(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
    """Sums of many terms of both signs: close for the size of the largest gradient of the tensor."""
    for a, b in zip(ours, theirs, strict=True):
        rtol, atol = GRADIENT_TOLERANCES[b.dtype]
        largest = b.abs().nan_to_num(0, 0, 0).amax().item() if b.numel() else 0.0
        atol *= max(largest, 1.0)
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol, equal_nan=True, check_device=False)


def message_of(function: Callable[..., Any], args: Arguments) -> str | None:
    """What a call says that is refused."""
    try:
        function(*args)
    except (RuntimeError, ValueError, TypeError) as error:
        return str(error)
    return None


BY_VALUE = tuple(f"{op}: counts must sum" for op in ("match_anchors", "match_cells"))
"""Sentences about the values of tensors, which no GPU kernel looks at: that would wait for the device."""


def refused(case: OpCase) -> Iterator[tuple[Arguments, str]]:
    """Arguments that the CPU kernel refuses with a sentence of its own, made from good ones, and the sentence."""
    good = case.inputs(case.gpu_sizes[2])
    for i, arg in enumerate(good):
        if isinstance(arg, Tensor):
            bad: list[Any] = [arg[..., None, None, None], arg.to(torch.complex64), arg[..., :-1], arg[:-1], arg.bool()]
        elif isinstance(arg, str):
            bad = ["nonsense"]
        elif isinstance(arg, float):
            bad = [math.nan, -7.0]
        elif isinstance(arg, int) and not isinstance(arg, bool):
            bad = [0, -7]
        elif isinstance(arg, tuple | list):
            bad = [[0] * len(arg), list(arg[:-1]), [-value for value in arg]]
        else:
            bad = []
        for value in bad:
            args = (*good[:i], value, *good[i + 1 :])
            message = message_of(getattr(ops, case.name), args)
            if message and message.startswith(f"{case.name}: ") and not message.startswith(BY_VALUE):
                yield args, message
