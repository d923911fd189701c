"""What holds for every operator of the registry."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from op_cases import OP_CASES, OpCase
from torch import Tensor

from pydet import ops


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "size" in metafunc.fixturenames:
        cases = [pytest.param(case, size, id=f"{case.name}-{size}") for case in OP_CASES for size in case.sizes]
        metafunc.parametrize(("case", "size"), cases)
    elif "case" in metafunc.fixturenames:
        metafunc.parametrize("case", OP_CASES, ids=[case.name for case in OP_CASES])


def outputs(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def assert_same(case: OpCase, result: Any, expected: Any) -> None:
    for ours, theirs in zip(outputs(result), outputs(expected), strict=True):
        rtol, atol = case.tolerance or (0, 0)
        if rtol and ours.dtype in (torch.float16, torch.bfloat16):  # rounded from values that differ by a little
            rtol = torch.finfo(ours.dtype).eps
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol, equal_nan=True)


def test_equals_reference(case: OpCase, size: int) -> None:
    args = case.inputs(size)
    assert_same(case, case.function(*args), case.reference(*args))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_dtypes(case: OpCase, dtype: torch.dtype) -> None:
    args = case.inputs(case.sizes[-1], dtype=dtype)
    assert_same(case, case.function(*args), case.reference(*args))


def strided(tensor: Tensor) -> Tensor:
    """The same values behind other strides: every second element of each dimension of a larger tensor."""
    wide = tensor.new_full([2 * n for n in tensor.shape], 7)
    view = wide[tuple(slice(None, None, 2) for _ in tensor.shape)]
    return view.copy_(tensor)


def test_non_contiguous(case: OpCase) -> None:
    args = case.inputs(case.sizes[-1])
    views = tuple(strided(arg) if isinstance(arg, Tensor) else arg for arg in args)
    assert not any(v.is_contiguous() for v in views if isinstance(v, Tensor))
    assert_same(case, case.function(*views), case.function(*args))


def test_inputs_are_not_changed(case: OpCase) -> None:
    args = case.inputs(case.sizes[-1])
    before = [arg.clone() if isinstance(arg, Tensor) else arg for arg in args]
    case.function(*args)
    for arg, kept in zip(args, before, strict=True):
        assert torch.equal(arg, kept) if isinstance(arg, Tensor) else arg == kept


def test_opcheck(case: OpCase, size: int) -> None:
    args = list(case.inputs(min(size, 20)))
    for i in case.gradients:
        args[i] = args[i].clone().requires_grad_()
    torch.library.opcheck(case.operator, tuple(args))


def test_compile_fullgraph(case: OpCase) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(case.function, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        for size in case.sizes[-2:]:
            args = case.inputs(size)
            assert_same(case, compiled(*args), case.function(*args))


def test_export(case: OpCase) -> None:
    class Module(torch.nn.Module):
        def forward(self, *args: Any) -> Any:
            return case.function(*args)

    args = case.inputs(case.sizes[-1])
    program = torch.export.export(Module(), args)
    assert_same(case, program.module()(*args), case.function(*args))


def test_torchscript_of_a_caller(case: OpCase) -> None:
    scripted = torch.jit.script(case.function)
    args = case.inputs(case.sizes[-1])
    assert_same(case, scripted(*args), case.function(*args))


def test_autocast(case: OpCase) -> None:
    args = case.inputs(case.sizes[-1], dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = case.function(*args)
    assert_same(case, result, case.function(*args))


def test_deterministic_mode_and_threads(case: OpCase) -> None:
    """Same bits at any thread count; deterministic mode fills new memory with NaN, so every output is written."""
    args = case.inputs(case.sizes[-1])
    expected = case.function(*args)
    threads = torch.get_num_threads()
    try:
        torch.use_deterministic_algorithms(True)
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            for ours, theirs in zip(outputs(case.function(*args)), outputs(expected), strict=True):
                assert torch.equal(ours, theirs)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)


def test_gradient(case: OpCase) -> None:
    if not case.gradients:
        pytest.skip("has no gradient")
    args = list(case.inputs(5, dtype=torch.float64))
    for i in case.gradients:
        args[i].requires_grad_()
    if case.constant_in_gradient:
        wanted = [args[i] for i in case.gradients]
        ours, theirs = (torch.autograd.grad(f(*args).sum(), wanted) for f in (case.function, case.reference))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    else:
        assert torch.autograd.gradcheck(case.function, tuple(args))


def test_reference_backend_serves(case: OpCase) -> None:
    args = case.inputs(case.sizes[-1])
    expected = case.reference(*args)
    with ops.set_backend("reference"):
        assert ops.backend_of(case.name) == ("reference", "set_backend")
        for ours, theirs in zip(outputs(case.function(*args)), outputs(expected), strict=True):
            assert torch.equal(ours, theirs)
    assert ops.backend_of(case.name)[0] == "compiled"
