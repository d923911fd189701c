"""Batch normalisation in training with its activation beside torch's, and beside float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pydet import reference
from pydet.models import Darknet
from pydet.models.darknet.cfg import parse_cfg
from pydet.ops import set_backend
from pydet.ops.batch_norm_leaky_relu import batch_norm_leaky_relu

OPERATOR, BACKWARD = torch.ops.pydet._batch_norm_leaky_relu, torch.ops.pydet._batch_norm_leaky_relu_backward
# Channels that fill a line of the kernel, that do not, and that are more than one; several chunks; few numbers.
SHAPES = [(2, 16, 40, 30), (1, 3, 7, 9), (2, 300, 5, 4), (2, 1024, 10, 13), (8, 24, 60, 61), (2, 5, 3, 1), (1, 1, 3, 4)]
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 0.012, torch.float16: 0.0015}
SLOPES = [1.0, 0.1, 0.0]


def inputs(shape: tuple[int, ...], dtype: torch.dtype, mean: float = 3.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Maps, channels last, weight, bias, and a gradient of the result."""
    g = torch.Generator().manual_seed(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x, grad = (torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(2))
    weight, bias = (torch.randn(shape[1], generator=g, dtype=torch.float64).to(wide) for _ in range(2))
    x, grad = ((t.to(dtype)).contiguous(memory_format=torch.channels_last) for t in (x * 2 + mean, grad))
    return x, weight, bias, grad


def in_float64(x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor, slope: float) -> tuple[Tensor, ...]:
    """torch's result, mean, variance and gradients, of the same numbers."""
    leaves = [t.double().requires_grad_() for t in (x, weight, bias)]
    out = F.leaky_relu(F.batch_norm(leaves[0], None, None, *leaves[1:], training=True, eps=1e-5), slope)
    gradients = torch.autograd.grad(out, leaves, grad.double())
    wide = x.double()
    return out.detach(), wide.mean((0, 2, 3)), wide.var((0, 2, 3), correction=0), *gradients


def assert_near(ours: Tensor, truth: Tensor, tolerance: float) -> None:
    """In parts of the largest number."""
    assert ours.shape == truth.shape
    assert (ours.double() - truth).abs().max() <= tolerance * truth.abs().max()


def away_from_zero(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x without those numbers whose result is so near 0 that rounding decides on which side it is."""
    wide = x.double()
    normal = F.batch_norm(wide, None, None, weight.double(), bias.double(), training=True, eps=1e-5)
    return torch.where(normal.abs() < 1e-4, wide + 0.01, wide).to(x)


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_that_of_float64(shape: tuple[int, ...], dtype: torch.dtype, slope: float) -> None:
    x, weight, bias, grad = inputs(shape, dtype)
    for _ in range(3):
        x = away_from_zero(x, weight, bias)
    x = x.contiguous(memory_format=torch.channels_last)
    truth = in_float64(x, weight, bias, grad, slope)
    forward = OPERATOR(x, weight, bias, 1e-5, slope)
    backward = BACKWARD(grad, x, weight, bias, *forward[1:], 1e-5, slope)
    for ours, expected in zip((*forward, *backward), truth, strict=True):
        assert_near(ours, expected, TOLERANCES[torch.float32 if ours.dtype == torch.float32 else dtype])
    assert forward[0].dtype == backward[0].dtype == dtype
    assert forward[0].is_contiguous(memory_format=torch.channels_last)
    ours = reference.batch_norm_leaky_relu(x, weight, bias, 1e-5, slope)
    for found, expected in zip(ours, truth, strict=False):
        assert_near(found, expected, 0.012 if dtype.itemsize == 2 else 1e-4)


def test_a_large_mean_does_not_hide_the_variance() -> None:
    x, weight, bias, grad = inputs((4, 16, 50, 50), torch.float32, mean=3000.0)
    _, mean, variance = OPERATOR(x, weight, bias, 1e-5, 0.1)
    _, expected_mean, expected_variance, _, by_weight, by_bias = in_float64(x, weight, bias, grad, 0.1)
    assert_near(mean, expected_mean, 1e-7)
    assert_near(variance, expected_variance, 1e-5)
    _, ours, also = BACKWARD(grad, x, weight, bias, mean, variance, 1e-5, 0.1)
    assert_near(ours, by_weight, 3e-3)  # numbers of 3000 have 4 digits of their distance from each other
    assert_near(also, by_bias, 3e-3)


def test_threads_change_no_bit() -> None:
    x, weight, bias, grad = inputs((4, 32, 60, 60), torch.bfloat16)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            forward = OPERATOR(x, weight, bias, 1e-5, 0.1)
            found.append((*forward, *BACKWARD(grad, x, weight, bias, *forward[1:], 1e-5, 0.1)))
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))


@pytest.mark.parametrize("slope", SLOPES)
def test_running_statistics_are_torchs(slope: float) -> None:
    x, weight, bias, _ = inputs((3, 8, 6, 5), torch.float64)
    ours, theirs = ([torch.full((8,), 0.5, dtype=torch.float64), torch.full((8,), 2.0).double()] for _ in range(2))
    found = batch_norm_leaky_relu(x, (ours[0], ours[1]), weight, bias, 0.3, 1e-5, slope)
    normal = F.batch_norm(x, *theirs, weight, bias, training=True, momentum=0.3, eps=1e-5)
    torch.testing.assert_close(found, F.leaky_relu(normal, slope))
    torch.testing.assert_close(ours, theirs)


def of_leaves(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return batch_norm_leaky_relu(x, (torch.zeros_like(bias), torch.ones_like(bias)), weight, bias, 0.1, 1e-5, 0.1)


def test_gradients_of_gradients() -> None:
    x, weight, bias, _ = inputs((2, 3, 3, 2), torch.float64)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    assert torch.autograd.gradcheck(of_leaves, leaves)
    assert torch.autograd.gradgradcheck(of_leaves, leaves)


@pytest.mark.parametrize("changed", ["contiguous", "reference", "float32 x float64 weight", "func", "forward mode"])
def test_others_are_left_to_torch(changed: str) -> None:
    """Same numbers, by another way."""
    x, weight, bias, grad = inputs((2, 4, 5, 6), torch.float64)
    expected = in_float64(x, weight, bias, grad, 0.1)
    if changed == "func":
        _, pull = torch.func.vjp(of_leaves, x, weight, bias)
        torch.testing.assert_close(pull(grad), expected[3:])
    elif changed == "forward mode":
        tangents = torch.func.jvp(of_leaves, (x, weight, bias), (x, weight, bias))[1]
        assert torch.isfinite(tangents).all()
    elif changed == "reference":
        with set_backend("reference"):
            torch.testing.assert_close(of_leaves(x, weight, bias), expected[0])
    elif changed == "contiguous":
        torch.testing.assert_close(of_leaves(x.contiguous(), weight, bias), expected[0])
    else:
        with pytest.raises(RuntimeError):  # torch's
            of_leaves(x.float(), weight, bias)


def test_one_number_is_refused_as_by_torch() -> None:
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        of_leaves(torch.ones(1, 2, 1, 1), torch.ones(2), torch.zeros(2))


@pytest.mark.parametrize("activation", ["linear", "leaky", "relie", "relu", "logistic"])
def test_a_layer_is_that_of_torch(activation: str) -> None:
    cfg = "[net]\nwidth=8\nheight=6\nchannels=3\n"
    cfg += f"[convolutional]\nbatch_normalize=1\nfilters=16\nsize=3\nstride=1\npad=1\nactivation={activation}\n"
    layer = Darknet(parse_cfg(cfg)).to(memory_format=torch.channels_last).train().layers[0]
    nn.init.normal_(layer.norm.bias)
    x = torch.rand(2, 3, 6, 8).contiguous(memory_format=torch.channels_last)
    grad = torch.randn(2, 16, 6, 8)
    found = []
    for backend in ("auto", "reference"):
        layer.norm.running_mean.zero_()
        layer.zero_grad()
        with set_backend(backend):  # type: ignore[arg-type]
            out = layer(x)
            out.backward(grad)
        found.append((out.detach(), layer.norm.running_mean.clone(), *(p.grad.clone() for p in layer.parameters())))
    for ours, theirs in zip(*found, strict=True):
        assert_near(ours, theirs.double(), 1e-5)


def test_fake_has_the_shapes() -> None:
    x, weight, bias, grad = inputs((2, 4, 5, 6), torch.float32)
    torch.library.opcheck(OPERATOR.default, (x, weight, bias, 1e-5, 0.1))
    mean, variance = torch.zeros(4), torch.ones(4)
    torch.library.opcheck(BACKWARD.default, (grad, x, weight, bias, mean, variance, 1e-5, 0.1))


X, WEIGHT, BIAS, GRAD = inputs((2, 4, 5, 6), torch.float32)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((X[0], WEIGHT, BIAS), r"x must be \[B, C, H, W\] and floating point, got Float \[4, 5, 6\]"),
        ((X.int(), WEIGHT, BIAS), r"x must be \[B, C, H, W\] and floating point, got Int"),
        ((X.contiguous(), WEIGHT, BIAS), r"x must be channels last and dense, got strides \[120, 30, 6, 1\]"),
        ((X, WEIGHT[1:], BIAS), r"weight, bias, mean and variance must be Float \[4\], got Float \[3\]"),
        ((X, WEIGHT, BIAS.double()), r".* must be Float \[4\], got Double \[4\]"),
        ((X[:0], WEIGHT, BIAS), r"x has no numbers to normalise: \[0, 4, 5, 6\]"),
    ],
)
def test_messages(args: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(RuntimeError, match="_batch_norm_leaky_relu: " + message):
        OPERATOR(*args, 1e-5, 0.1)


@pytest.mark.parametrize(
    ("grad", "message"),
    [
        (GRAD[:1], r"the gradient must be floating and of the shape \[2, 4, 5, 6\]"),
        (GRAD.double(), "the gradient must be of x's dtype Float, got Double"),
        (GRAD.contiguous(), "the gradient must be channels last and dense"),
    ],
)
def test_messages_of_the_gradient(grad: Tensor, message: str) -> None:
    with pytest.raises(RuntimeError, match="_batch_norm_leaky_relu_backward: " + message):
        BACKWARD(grad, X, WEIGHT, BIAS, torch.zeros(4), torch.ones(4), 1e-5, 0.1)
