"""Focal loss of a logit x, p = sigmoid(x), with label t: alpha_t (1 - p_t)^gamma CE, its derivative in the same pass.

Label 0: w p^gamma softplus(x), derivative w p^gamma (gamma (1 - p) softplus(x) + p); label 1 is the same of -x with the
derivative negated. Others: 1 - p_t = p (1 - t) + (1 - p) t, CE = (1 - t) softplus(x) + t softplus(-x).

A program computes BLOCK logits as they lie in memory, whatever their rows; classes are compared, never made one-hot.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from pydet.triton_kernels.checks import require, require_one_device
from torch import Tensor

BLOCK = 1024


@triton.jit
def exponential(x):  # type: ignore[no-untyped-def]
    """e^x for x <= 0 as csrc/math/scalar.h; tl.exp loses digits far from 0."""
    if x.dtype.is_fp64():
        return tl.exp(x)
    x = tl.where(x < -87.0, -87.0, x)
    n = tl.floor(x * 1.44269504 + 0.5)
    r = (x - n * 0.693359375) - n * -2.12194440e-4
    p = 1.3814532e-3
    p = p * r + 8.368745e-3
    p = p * r + 4.1668393e-2
    p = p * r + 1.6666521e-1
    p = p * r + 4.9999994e-1
    return (1.0 + (r + r * r * p)) * ((n.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def log1p_of_fraction(e):  # type: ignore[no-untyped-def]
    """log(1 + e), 0 <= e <= 1, as csrc/math/scalar.h; in float64 what 1 + e has lost is put right."""
    if e.dtype.is_fp64():
        u = 1.0 + e
        return tl.where(u == 1.0, e, tl.log(u) * (e / tl.where(u == 1.0, 1.0, u - 1.0)))
    p = 5.36483480e-3
    p = p * e - 3.00658308e-2
    p = p * e + 7.92045519e-2
    p = p * e - 1.37538031e-1
    p = p * e + 1.91536561e-1
    p = p * e - 2.48571515e-1
    p = p * e + 3.33213121e-1
    p = p * e - 4.99996483e-1
    return e + e * e * p


@triton.jit
def logistic(x):  # type: ignore[no-untyped-def]
    """sigmoid(x), sigmoid(-x) and log(1 + e^-|x|)."""
    e = exponential(-tl.abs(x))
    larger = 1.0 / (1.0 + e) if x.dtype.is_fp64() else tl.math.div_rn(tl.full(e.shape, 1.0, e.dtype), 1.0 + e)
    smaller = e * larger
    return tl.where(x < 0, smaller, larger), tl.where(x < 0, larger, smaller), log1p_of_fraction(e)


@triton.jit
def focal_of_class(x, foreground, ALPHA: tl.constexpr, GAMMA: tl.constexpr):  # type: ignore[no-untyped-def]
    x = tl.where(foreground, -x, x)
    p, not_p, tail = logistic(x)
    entropy = tl.where(x > 0, x, 0.0) + tail
    modulation = p * p if GAMMA == 2.0 else exponential(-GAMMA * (tl.where(x < 0, -x, 0.0) + tail))
    if ALPHA >= 0:
        # In a tensor, since numbers alone would be float32.
        modulation = tl.where(foreground, tl.full((), ALPHA, x.dtype), tl.full((), 1 - ALPHA, x.dtype)) * modulation
    gradient = modulation * (GAMMA * not_p * entropy + p)
    return modulation * entropy, tl.where(foreground, -gradient, gradient)


@triton.jit
def focal_of_label(x, t, ALPHA: tl.constexpr, GAMMA: tl.constexpr):  # type: ignore[no-untyped-def]
    p, not_p, tail = logistic(x)
    positive, negative = not_p * t, p * (1.0 - t)
    miss, error = negative + positive, negative - positive
    slope = p * not_p * (1.0 - t - t)
    entropy = (1.0 - t) * tl.where(x > 0, x, 0.0) + t * tl.where(x < 0, -x, 0.0) + tail
    weight = ALPHA * t + (1 - ALPHA) * (1.0 - t) if ALPHA >= 0 else tl.full(t.shape, 1.0, t.dtype)
    if GAMMA == 2.0:
        weight = weight * miss
        return weight * miss * entropy, weight * (2.0 * (slope * entropy) + miss * error)
    some = tl.where(miss > 1.2e-38, miss, 1.2e-38)
    modulation = weight * (exponential(GAMMA * tl.log(some)) if GAMMA > 0 else 1.0)
    modulation = tl.where(miss == miss, modulation, miss)
    return modulation * entropy, modulation * (GAMMA * (slope / some) * entropy + error)


@triton.jit
def sigmoid_focal_loss_kernel(  # type: ignore[no-untyped-def]
    inputs,  # [numel]
    targets,  # [numel], or the class of each row
    factors,  # of the gradient: [numel] or [1]
    losses,  # [numel], or a sum for each program
    gradients,  # [numel]
    numel,
    num_classes,
    ALPHA: tl.constexpr,
    GAMMA: tl.constexpr,
    CLASSES: tl.constexpr,
    EACH: tl.constexpr,  # a loss for each logit
    FACTORS: tl.constexpr,  # a factor for each
    LOSS: tl.constexpr,
    GRADIENT: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    begin = tl.program_id(0).to(tl.int64) * BLOCK
    offset = begin + tl.arange(0, BLOCK)
    inside = offset < numel
    x = tl.load(inputs + offset, mask=inside, other=0).to(COMPUTE)
    # Infinite logits would have a loss times 0, which is NaN; comparisons keep NaN.
    x = tl.where(x > 18446744073709551616.0, 18446744073709551616.0, x)
    x = tl.where(x < -18446744073709551616.0, -18446744073709551616.0, x)
    if CLASSES:
        # Only the row of the first is divided for in 64 bits, which takes longer than all the rest.
        place = (begin % num_classes).to(tl.int32) + tl.arange(0, BLOCK)
        label = tl.load(targets + begin // num_classes + place // num_classes, mask=inside, other=-1)
        loss, gradient = focal_of_class(x, label == place % num_classes, ALPHA, GAMMA)
        counts = inside & (label >= 0)  # what is read beside them is no -1 where classes have no sign
    else:
        t = tl.load(targets + offset, mask=inside, other=0).to(COMPUTE)
        loss, gradient = focal_of_label(x, t, ALPHA, GAMMA)
        counts = inside
    if LOSS and EACH:
        tl.store(losses + offset, tl.where(counts, loss, 0.0), mask=inside)
    if LOSS and not EACH:
        tl.store(losses + tl.program_id(0), tl.sum(tl.where(counts, loss, 0.0), 0))
    if GRADIENT:
        factor = tl.load(factors + offset, mask=inside, other=0) if FACTORS else tl.load(factors)
        tl.store(gradients + offset, tl.where(counts, factor * gradient, 0.0), mask=inside)


def sigmoid_focal_loss(
    inputs: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "none"
) -> Tensor:
    """`pydet.ops.sigmoid_focal_loss` on one GPU."""
    return _launch(inputs, targets, alpha, gamma, reduction, gradient=False)[0]


def _sigmoid_focal_loss_with_gradient(
    inputs: Tensor, targets: Tensor, alpha: float, gamma: float, reduction: str
) -> tuple[Tensor, Tensor]:
    return _launch(inputs, targets, alpha, gamma, reduction)


def _sigmoid_focal_loss_backward(
    grad: Tensor, inputs: Tensor, targets: Tensor, alpha: float, gamma: float, reduction: str
) -> Tensor:
    return _launch(inputs, targets, alpha, gamma, reduction, grad=grad)[1]


def _check(inputs: Tensor, targets: Tensor, alpha: float, gamma: float, reduction: str) -> None:
    op = "sigmoid_focal_loss"
    require(inputs.is_floating_point(), op, "inputs must be a floating tensor", inputs.dtype)
    classes = not targets.is_floating_point()
    numeric = not targets.is_complex() and targets.dtype != torch.bool
    require(numeric, op, "targets must be a floating or integer tensor", targets.dtype)
    rule = "integer targets must be classes of shape inputs.shape[:-1]"
    rule = rule if classes else "floating targets must have the shape of inputs"
    shape = inputs.shape[:-1] if classes else inputs.shape
    fits = targets.shape == shape and (inputs.dim() > 0 or not classes)
    require(fits, op, f"{rule}, with inputs {list(inputs.shape)}", list(targets.shape))
    countable = not classes or inputs.shape[-1] < 2**31 - BLOCK
    require(countable, op, f"inputs must have fewer than {2**31 - BLOCK} classes", list(inputs.shape))
    require(0 <= alpha <= 1 or alpha == -1, op, "alpha must be in [0, 1], or -1 for no weights", alpha)
    require(0 <= gamma < math.inf, op, "gamma must be finite and not negative", gamma)
    require_one_device(op, inputs=inputs, targets=targets)
    require(reduction in ("none", "mean", "sum"), op, "reduction must be 'none', 'mean' or 'sum'", repr(reduction))


def _launch(
    inputs: Tensor,
    targets: Tensor,
    alpha: float,
    gamma: float,
    reduction: str,
    gradient: bool = True,
    grad: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Loss, where there is no upstream gradient, and gradient; what is not wanted is empty."""
    _check(inputs, targets, alpha, gamma, reduction)
    each, classes = reduction == "none", not targets.is_floating_point()
    dtype = torch.float64 if inputs.dtype == torch.float64 else torch.float32
    numel = inputs.numel()
    programs = triton.cdiv(numel, BLOCK)
    share = _share(inputs, targets, reduction)
    factors = share.to(dtype) if grad is None else (grad * share).to(dtype).contiguous()
    losses = inputs.new_empty((inputs.shape if each else (programs,)) if grad is None else (0,), dtype=dtype)
    gradients = inputs.new_empty(inputs.shape if gradient else (0,))
    if numel > 0:
        with torch.cuda.device_of(inputs):
            sigmoid_focal_loss_kernel[(programs,)](
                inputs=inputs.contiguous(),
                targets=targets.contiguous(),
                factors=factors,
                losses=losses,
                gradients=gradients,
                numel=numel,
                num_classes=inputs.shape[-1] if classes else 1,
                ALPHA=float(alpha),
                GAMMA=float(gamma),
                CLASSES=classes,
                EACH=each,
                FACTORS=each and grad is not None,
                LOSS=grad is None,
                GRADIENT=gradient,
                COMPUTE=tl.float64 if dtype == torch.float64 else tl.float32,
                BLOCK=BLOCK,
            )
    if grad is None and not each:
        losses = (losses.double().sum() * share).to(dtype)
    return losses, gradients


def _share(inputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
    """[] float64: what the mean multiplies the sum with, else 1; without waiting for the device."""
    one = torch.ones((), dtype=torch.float64, device=inputs.device)
    if reduction != "mean":
        return one
    if targets.is_floating_point() or inputs.numel() == 0:
        return one / max(inputs.numel(), 1)
    return one / ((targets >= 0).sum().clamp(min=1) * inputs.shape[-1])
