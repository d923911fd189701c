"""The max pooling of fused networks beside torch's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pydet.models.max_pool import MaxPool2x2
from pydet.ops.max_pool_2x2 import max_pool_2x2
from pydet.reference import max_pool_2x2 as reference

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
# Even and odd maps, one pixel; channels that fill vectors and that do not.
SHAPES = [(2, 16, 8, 6), (1, 3, 7, 9), (1, 33, 5, 4), (2, 5, 1, 1), (0, 4, 6, 6), (1, 64, 1, 8)]


def maps(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Channels last, with zeros of both signs, NaN and infinities among few different numbers."""
    g = torch.Generator().manual_seed(0)
    numbers = torch.tensor([0.0, -0.0, 1, -1, 2, torch.nan, torch.inf, -torch.inf, 3, -2, 4, 5, 6, 7, -3, -4])
    x = numbers[torch.randint(len(numbers), shape, generator=g)].to(dtype)
    x.view(-1)[::7].neg_()  # NaN of both signs
    return x.contiguous(memory_format=torch.channels_last)


def assert_same_bits(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
    if ours.element_size() > 2:  # else the sign of a zero does not count
        assert torch.equal(ours.signbit() & ~ours.isnan(), theirs.signbit() & ~theirs.isnan())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_torchs(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = maps(shape, dtype)
    height, width = shape[2:]
    up = (height + 1) // 2, (width + 1) // 2
    theirs = F.max_pool2d(x.contiguous(), 2, ceil_mode=True)
    assert_same_bits(torch.ops.pydet._max_pool_2x2(x, 2, up), theirs)
    assert_same_bits(MaxPool2x2(ceil_mode=True)(x), theirs)
    padded = F.pad(x.contiguous(), (0, 1, 0, 1), value=-torch.inf)
    ours = torch.ops.pydet._max_pool_2x2(x, 1, (height, width))  # YOLOv3-tiny's
    assert_same_bits(ours, F.max_pool2d(padded, 2, stride=1))
    assert ours.is_contiguous(memory_format=torch.channels_last)
    if min(height, width) > 1:
        assert_same_bits(max_pool_2x2(x, 2, (height // 2, width // 2)), F.max_pool2d(x.contiguous(), 2))
        assert_same_bits(MaxPool2x2()(x), F.max_pool2d(x.contiguous(), 2))


def test_a_part_of_a_map() -> None:
    whole = maps((3, 8, 9, 10), torch.float32)
    part = whole[1:, 2:6, 1:8, 2:9]
    assert_same_bits(torch.ops.pydet._max_pool_2x2(part, 2, (3, 3)), F.max_pool2d(part.contiguous(), 2))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradient_is_torchs(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Of equal numbers the first has it, 0 and -0 among them; which of several NaN is not said."""
    x = maps(shape, dtype).nan_to_num(9).requires_grad_()
    for size in {(shape[2] // 2, shape[3] // 2), ((shape[2] + 1) // 2, (shape[3] + 1) // 2)}:
        if 0 in size:
            continue
        out = max_pool_2x2(x, 2, size)
        theirs = reference(x, 2, size)  # torch's, whose `ceil_mode` is one for rows and columns
        grad = torch.randn_like(out)
        ours = torch.autograd.grad(out, x, grad)[0]
        assert torch.equal(ours, torch.autograd.grad(theirs, x, grad)[0])
        assert ours.is_contiguous(memory_format=torch.channels_last)


def test_windows_that_overlap() -> None:
    x = torch.rand(1, 4, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    (ours,) = torch.autograd.grad(max_pool_2x2(x, 1, (6, 6)).sum(), x)
    (theirs,) = torch.autograd.grad(reference(x, 1, (6, 6)).sum(), x)
    assert torch.equal(ours, theirs)


def test_gradients_of_gradients() -> None:
    x = torch.randperm(2 * 3 * 20, generator=torch.Generator().manual_seed(0)).double().reshape(2, 3, 4, 5)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: max_pool_2x2(x, 2, (2, 3)), x)
    assert torch.autograd.gradgradcheck(lambda x: max_pool_2x2(x, 2, (2, 2)), x)
    torch.testing.assert_close(
        torch.func.grad(lambda x: max_pool_2x2(x, 2, (2, 2)).sum())(x.detach()),
        torch.autograd.grad(max_pool_2x2(x, 2, (2, 2)).sum(), x)[0],
    )


def test_compiled_programs_are_torchs() -> None:
    x = torch.rand(1, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    program = torch.export.export(MaxPool2x2(), (x,)).graph_module.code
    assert "pydet" not in program
    assert "max_pool2d" in program


def test_fake_has_the_shape_and_the_strides() -> None:
    for step, size in ((2, (3, 5)), (1, (6, 9)), (2, (1, 1))):
        args = (torch.rand(2, 7, 6, 9).contiguous(memory_format=torch.channels_last), step, size)
        torch.library.opcheck(torch.ops.pydet._max_pool_2x2.default, args)
    x = torch.rand(2, 7, 6, 9).contiguous(memory_format=torch.channels_last)
    grad = torch.rand(2, 7, 3, 5).contiguous(memory_format=torch.channels_last)
    torch.library.opcheck(torch.ops.pydet._max_pool_2x2_backward.default, (grad, x))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((torch.rand(2, 3, 4), 2, (1, 1)), r"x must be \[B, C, H, W\], got \[2, 3, 4\]"),
        ((torch.ones(1, 2, 4, 4, dtype=torch.int32), 2, (2, 2)), "x must be floating point, got Int"),
        ((torch.rand(1, 2, 4, 4), 2, (2, 2)), r"x must be channels last, got strides \[32, 16, 4, 1\]"),
        ((maps((1, 2, 4, 4), torch.float32), 3, (1, 1)), "step must be 1 or 2, got 3"),
        ((maps((1, 2, 4, 4), torch.float32), 2, (3, 2)), r"each window must begin inside of .* got size \[3, 2\]"),
        ((maps((1, 2, 4, 4), torch.float32), 2, ((1 << 62) + 1, 2)), r"each window must begin inside of .* got size"),
        ((maps((1, 2, 4, 4), torch.float32), 2, (2,)), r"size must be \(height, width\), got \[2\]"),
    ],
)
def test_messages(args: tuple[object, ...], message: str) -> None:
    with pytest.raises(RuntimeError, match="_max_pool_2x2: " + message):
        torch.ops.pydet._max_pool_2x2(*args)


@pytest.mark.parametrize(
    ("grad", "message"),
    [
        (torch.rand(1, 2, 2), r"x and its gradient must be \[B, C, H, W\], got .* and \[1, 2, 2\]"),
        (maps((1, 2, 3, 2), torch.float32), "_max_pool_2x2: each window must begin inside of"),
        (maps((1, 3, 2, 2), torch.float32), r"must be floating and of the shape \[1, 2, 2, 2\]"),
        (maps((1, 2, 2, 2), torch.float64), "must be of x's dtype Float, got Double"),
        (torch.rand(1, 2, 2, 2), "the gradient must be channels last and dense"),
    ],
)
def test_messages_of_the_gradient(grad: torch.Tensor, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        torch.ops.pydet._max_pool_2x2_backward(grad, maps((1, 2, 4, 4), torch.float32))
