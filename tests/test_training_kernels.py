"""The CUDA kernels of anchor_kmeans and hard_negative_mining, on the CPU, beyond what all kernels are tested for."""

from __future__ import annotations

import math

import pytest
import torch
from cuda_harness import SOURCES, CudaOnCpu

from pydet.ops import anchor_kmeans, hard_negative_mining


def kernels(request: pytest.FixtureRequest, stem: str) -> CudaOnCpu:
    return CudaOnCpu(request.config.cache.mkdir("compiled"), [source for source in SOURCES if source.stem == stem])


@pytest.mark.parametrize(
    ("wh", "k"),
    [
        ([[0.0, 1.0], [1, 2], [3, 4]], 2),
        ([[1.0, -1.0], [1, 2], [3, 4]], 2),
        ([[1.0, math.nan], [1, 2], [3, 4]], 2),
        ([[1.0, 1.0], [math.inf, 2], [3, 4]], 2),
        ([[math.nan, math.nan], [math.nan, 0]], 1),
        ([[1.0, 1.0], [2.0**31, 2.0]], 1),
        ([[1.0, 1.0], [2, 2], [2, 2], [1, 1]], 3),
    ],
)
def test_what_a_gpu_says_of_wrong_sizes(request: pytest.FixtureRequest, wh: list[list[float]], k: int) -> None:
    """Of the CUDA kernel, on the CPU: it cannot refuse them without making the host wait."""
    cuda = kernels(request, "anchor_kmeans")
    sizes = torch.tensor(wh)
    with pytest.raises(RuntimeError):
        anchor_kmeans(sizes, k)
    anchors, average = cuda.call(anchor_kmeans, sizes, k, 0, 4)
    assert anchors.isnan().all()
    assert average.isnan()


def test_a_gpu_takes_boxes_of_any_size(request: pytest.FixtureRequest) -> None:
    """The ends of float64, where a power of two alone would not be finite."""
    cuda = kernels(request, "anchor_kmeans")
    for factor in (2.0**1023, 2.0**-1050):
        wh = torch.tensor([[1.0, 1.5], [0.25, 0.5], [0.5, 0.25], [1.0, 0.5]], dtype=torch.float64)
        expected, average = anchor_kmeans(wh, 3)
        for anchors, same in (anchor_kmeans(wh * factor, 3), cuda.call(anchor_kmeans, wh * factor, 3, 0, 4)):
            assert torch.equal(anchors, expected * factor)
            assert torch.equal(same, average)


@pytest.mark.parametrize("digits", [None, 1, 0])
def test_more_anchors_than_threads(request: pytest.FixtureRequest, digits: int | None) -> None:
    """Of the CUDA kernel, on the CPU: losses that differ, some that are equal, and thousands of each value."""
    cuda = kernels(request, "hard_negative_mining")
    generator = torch.Generator().manual_seed(0)
    loss = torch.rand(2, 20_000, generator=generator).log().neg()
    positive = torch.rand(2, 20_000, generator=generator) < 0.02
    loss = loss if digits is None else loss.round(decimals=digits)
    assert torch.equal(cuda.call(hard_negative_mining, loss, positive, seed=3), hard_negative_mining(loss, positive))
