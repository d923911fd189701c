"""The CUDA kernels of the focal losses, on the CPU: what the generic tests (tests/test_cuda_on_cpu.py) do not ask."""

from __future__ import annotations

import pytest
import torch
from cuda_harness import SOURCES, CudaOnCpu
from torch import Tensor

from pydet import ops, reference


@pytest.fixture(scope="module")
def cuda(request: pytest.FixtureRequest) -> CudaOnCpu:
    folder = request.config.cache.mkdir("compiled")
    return CudaOnCpu(folder, [source for source in SOURCES if "focal_loss" in source.stem])


def detector_outputs(rows: int, classes: int) -> tuple[Tensor, Tensor]:
    """A few rows with an object, a few ignored, the others background."""
    generator = torch.Generator().manual_seed(rows + classes)
    targets = torch.full((rows,), classes)
    targets[::29] = torch.randint(classes, targets[::29].shape, generator=generator)
    targets[7::61] = -1
    return torch.randn(rows, classes, generator=generator) * 2 - 3, targets


def loss_and_gradient(inputs: Tensor, targets: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    leaf = inputs.clone().requires_grad_()
    loss = ops.sigmoid_focal_loss(leaf, targets, 0.25, gamma)
    return loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0]


@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
@pytest.mark.parametrize("classes", [1, 3, 91, 9000])
def test_every_loss_and_gradient_has_the_bits_of_the_cpu(cuda: CudaOnCpu, classes: int, gamma: float) -> None:
    """More than a block of them, and a part of one: what is in whole blocks goes another way than what is not."""
    rows = 2 * 8192 // classes + 40
    if ops.backend_of("sigmoid_focal_loss") == ("compiled", "baseline"):
        pytest.skip("this CPU has no fused multiply-add")
    inputs, targets = detector_outputs(rows, classes)
    labels = torch.nn.functional.one_hot(targets.clamp(min=0), classes + 1)[:, :-1].float()
    for asked in (targets, labels):
        ours = cuda.call(loss_and_gradient, inputs, asked, gamma)
        for a, b in zip(ours, loss_and_gradient(inputs, asked, gamma), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("rows", [50, 500])
def test_classes_that_do_not_exist(cuda: CudaOnCpu, rows: int) -> None:
    """Their values are not looked at before the kernel runs. No memory is read by them: the sanitizers would tell."""
    inputs, targets = detector_outputs(rows, 91)
    wrong = targets.clone()
    wrong[3::10] = torch.tensor([92, 1 << 40, 2**63 - 1]).repeat(rows)[: len(wrong[3::10])]
    ours = cuda.call(ops.sigmoid_focal_loss, inputs, wrong, 0.25, 2.0, "sum")
    expected = reference.sigmoid_focal_loss(inputs, wrong.clamp(max=91), 0.25, 2.0, "sum")
    torch.testing.assert_close(ours, expected)
    ours = cuda.call(ops.softmax_focal_loss, inputs, wrong, 2.0, 0.25, torch.ones(91), "none")
    ignored = torch.where(wrong > 90, -1, wrong)
    torch.testing.assert_close(ours, reference.softmax_focal_loss(inputs, ignored, reduction="none"))


@pytest.mark.parametrize("targets", [[-1, -1, -1], []])
def test_the_mean_of_nothing(cuda: CudaOnCpu, targets: list[int]) -> None:
    inputs = torch.randn(len(targets), 5)
    classes = torch.tensor(targets, dtype=torch.int64)
    assert cuda.call(ops.sigmoid_focal_loss, inputs, classes, 0.25, 2.0, "mean").item() == 0
    assert cuda.call(ops.softmax_focal_loss, inputs, classes).item() == 0


def test_sums_are_the_same_bits_in_any_order_of_the_blocks(cuda: CudaOnCpu) -> None:
    inputs, targets = detector_outputs(700, 91)
    found = [cuda.call(ops.sigmoid_focal_loss, inputs, targets, 0.25, 2.0, "mean", seed=seed) for seed in range(4)]
    assert all(torch.equal(one, found[0]) for one in found)
    exact = reference.sigmoid_focal_loss(inputs.double(), targets, 0.25, 2.0, "mean")
    assert found[0].item() == pytest.approx(exact.item(), rel=1e-6)
