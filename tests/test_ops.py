"""What holds for every operator of the registry."""

from __future__ import annotations

import itertools
import re
import warnings
from typing import Any

import pytest
import torch
from op_cases import OP_CASES, OpCase
from op_checks import assert_close, each_tensor, outputs, strided
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from pydet import ops


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "size" in metafunc.fixturenames:
        cases = [pytest.param(case, size, id=f"{case.name}-{size}") for case in OP_CASES for size in case.sizes]
        metafunc.parametrize(("case", "size"), cases)
    elif "case" in metafunc.fixturenames:
        metafunc.parametrize("case", OP_CASES, ids=[case.name for case in OP_CASES])


def assert_same(case: OpCase, result: Any, expected: Any) -> None:
    assert_close(result, expected, case.tolerance)


def test_equals_reference(case: OpCase, size: int) -> None:
    args = case.inputs(size)
    assert_same(case, case.function(*args), case.reference(*args))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_dtypes(case: OpCase, dtype: torch.dtype) -> None:
    args = case.inputs(case.sizes[-1], dtype=dtype)
    assert_same(case, case.function(*args), case.reference(*args))


def test_non_contiguous(case: OpCase) -> None:
    args = case.inputs(case.sizes[-1])
    views = each_tensor(args, strided)
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


def test_fake_with_its_defaults(case: OpCase) -> None:
    """The dispatcher leaves out trailing arguments that equal the defaults: the fake must have these too."""
    required = [a for a in case.operator._schema.arguments if not a.has_default_value()]
    args = case.inputs(case.sizes[-1])[: len(required)]
    results = outputs(case.operator(*args))
    with FakeTensorMode(shape_env=ShapeEnv()) as mode:  # for results whose number depends on values
        fakes = case.operator(*(mode.from_tensor(a) if isinstance(a, Tensor) else a for a in args))
    for fake, result in zip(outputs(fakes), results, strict=True):
        assert (fake.dtype, fake.dim()) == (result.dtype, result.dim())


def test_tensors_of_two_devices(case: OpCase) -> None:
    """One that is only a shape among those that are numbers: not results that nobody has computed."""
    args = case.inputs(case.sizes[-1])
    tensors = [i for i, arg in enumerate(args) if isinstance(arg, Tensor)]
    for i in tensors if len(tensors) > 1 else ():
        mixed = [arg.to("meta") if k == i else arg for k, arg in enumerate(args)]
        with pytest.raises(RuntimeError, match=f"{case.name}: .* and .* must be on one device, got .*meta"):
            case.function(*mixed)


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


def test_second_gradient(case: OpCase) -> None:
    """Is that of the reference: never silently 0, nor a constant."""
    if not case.gradients:
        pytest.skip("has no gradient")
    args = list(case.inputs(3, dtype=torch.float64))
    leaves = [args[i].requires_grad_() for i in case.gradients]
    found = []
    for function in (case.function, case.reference):
        results = [r for r in outputs(function(*args)) if r.is_floating_point()]
        loss = sum((r**2 * torch.arange(1, r.numel() + 1).reshape(r.shape)).sum() for r in results)
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        found.append(torch.autograd.grad(sum((g**2).sum() for g in first), leaves))
    torch.testing.assert_close(*found, rtol=1e-7, atol=1e-10)
    if not case.constant_in_gradient:
        # Differences of losses of a hundred have no more digits. The weights of the outputs are drawn: from one seed.
        torch.manual_seed(0)
        assert torch.autograd.gradgradcheck(case.function, tuple(args), atol=1e-4)


def mapped_inputs(
    case: OpCase, size: int, mapped: tuple[int, ...]
) -> tuple[list[list[Any]], list[Any], tuple[Any, ...]]:
    """Three samples that differ in the mapped arguments, these arguments stacked, and where."""
    first, *others = (list(case.inputs(size, seed)) for seed in range(3))
    samples = [first, *([o[i] if i in mapped else a for i, a in enumerate(first)] for o in others)]
    in_dims = tuple(i % 2 if i in mapped else None for i in range(len(first)))
    dims = enumerate(in_dims)
    stacked = [first[i] if dim is None else torch.stack([s[i] for s in samples], dim) for i, dim in dims]
    return samples, stacked, in_dims


def test_vmap_is_a_loop(case: OpCase) -> None:
    if not case.vmap:
        pytest.skip("has no rule for vmap")
    for size, mapped in itertools.product((case.sizes[0], *case.sizes[-2:]), (case.vmap, *((i,) for i in case.vmap))):
        samples, stacked, in_dims = mapped_inputs(case, size, mapped)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # torch warns where it loops itself
            result = torch.func.vmap(case.function, in_dims)(*stacked)
        assert_same(case, result, torch.stack([case.function(*sample) for sample in samples]))


def test_gradient_through_vmap(case: OpCase) -> None:
    if not (case.vmap and case.gradients):
        pytest.skip("has no rule for vmap or no gradient")
    samples, stacked, in_dims = mapped_inputs(case, case.sizes[-1], case.vmap)
    for i in case.gradients:
        stacked[i].requires_grad_()
    wanted = [stacked[i] for i in case.gradients]
    result = torch.func.vmap(case.function, in_dims)(*stacked)
    weight = torch.rand(result.shape, generator=torch.Generator().manual_seed(0))
    ours = torch.autograd.grad(result, wanted, weight, retain_graph=True)
    for i, (sample, w) in enumerate(zip(samples, weight, strict=True)):
        leaves = [sample[k].requires_grad_() for k in case.gradients]
        theirs = torch.autograd.grad(case.function(*sample), leaves, w)
        for k, of_all, of_one in zip(case.gradients, ours, theirs, strict=True):
            torch.testing.assert_close(of_all.select(in_dims[k], i), of_one, rtol=1e-4, atol=1e-6)


def test_batch_of_gradients(case: OpCase) -> None:
    """Several gradients at a time, as torch.autograd.functional.jacobian(vectorize=True) asks for them."""
    if not (case.vmap and case.gradients):
        pytest.skip("has no rule for vmap or no gradient")
    args = list(case.inputs(case.sizes[-1]))
    leaves = [args[i].requires_grad_() for i in case.gradients]
    result = case.function(*args)
    weights = torch.rand(3, *result.shape, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = torch.autograd.grad(result, leaves, weights, retain_graph=True, is_grads_batched=True)
    for i, weight in enumerate(weights):
        theirs = torch.autograd.grad(result, leaves, weight, retain_graph=True)
        for x, y in zip(ours, theirs, strict=True):
            torch.testing.assert_close(x[i], y, rtol=1e-4, atol=1e-6)


def test_reference_backend_serves(case: OpCase) -> None:
    args = case.inputs(case.sizes[-1])
    expected = case.reference(*args)
    with ops.set_backend("reference"):
        assert ops.backend_of(case.name) == ("reference", "set_backend")
        for ours, theirs in zip(outputs(case.function(*args)), outputs(expected), strict=True):
            assert torch.equal(ours, theirs)
    assert ops.backend_of(case.name)[0] == "compiled"


BOXES, LOGITS = torch.tensor([[0.0, 0.0, 4.0, 4.0], [2.0, 2.0, 8.0, 9.0]]), torch.zeros(2, 3)
CLASSES, PARENTS = torch.tensor([0, 2]), torch.tensor([-1, -1, -1])


@pytest.mark.parametrize(
    ("name", "args", "shape"),
    [
        ("_encode_boxes_backward", (BOXES, BOXES, [1.0] * 4), [2, 4]),
        ("_decode_boxes_backward", (BOXES, BOXES, [1.0] * 4, 4.0), [2, 4]),
        ("_box_iou_backward", (BOXES, BOXES[:1], "box_iou", "xyxy", 0.0, False), [2, 1]),
        ("_box_iou_backward", (BOXES, BOXES, "box_iof", "xyxy", 0.0, True), [2]),
        ("_box_iou_loss_backward", (BOXES, BOXES, "distance_box_iou_loss", "none", 1e-7), [2]),
        ("_box_iou_loss_backward", (BOXES, BOXES, "distance_box_iou_loss", "sum", 1e-7), []),
        ("_sigmoid_focal_loss_backward", (LOGITS, CLASSES, 0.25, 2.0, "none"), [2, 3]),
        ("_sigmoid_focal_loss_backward", (LOGITS, CLASSES, 0.25, 2.0, "mean"), []),
        ("_softmax_focal_loss_backward", (LOGITS, CLASSES, 2.0, 0.25, None, "none"), [2]),
        ("_tree_softmax_backward", (LOGITS, PARENTS), [2, 3]),
        ("_tree_probabilities_backward", (LOGITS, LOGITS, PARENTS), [2, 3]),
    ],
)
def test_backward_operators_check_the_gradient(name: str, args: tuple[Any, ...], shape: list[int]) -> None:
    operator = getattr(torch.ops.pydet, name)
    operator(torch.ones(shape), *args)
    for wrong in (torch.ones([1, *shape]), torch.ones(shape, dtype=torch.int64)):
        with pytest.raises(RuntimeError, match=re.escape(f"floating and of the shape {shape} of the result, got")):
            operator(wrong, *args)
