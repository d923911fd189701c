"""What only the NMS kernels of csrc/cuda/ have: levels of the sort, boxes that wait, colliding classes, rounds.

They run on the CPU, see tests/test_cuda_on_cpu.py, and are compared with the CPU operators where these sizes are too
large for the reference.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cuda_harness import SOURCES, CudaOnCpu
from more_inputs.nms import chain
from op_cases import clustered_boxes, random_boxes
from torch import Tensor

from pydet import ops


@pytest.fixture(scope="module")
def cuda(request: pytest.FixtureRequest) -> CudaOnCpu:
    folder = request.config.cache.mkdir("compiled")
    return CudaOnCpu(folder, [source for source in SOURCES if source.stem in ("nms", "multiclass_nms")])


@pytest.mark.parametrize("threshold", [-1.0, 0.5])
def test_more_boxes_than_one_merge_takes(cuda: CudaOnCpu, threshold: float) -> None:
    """20,000: two runs are left after the level that makes 16,384, and 20 regions of 1,024 neighbours."""
    g = torch.Generator().manual_seed(0)
    boxes = torch.cat([clustered_boxes(10_000, g), random_boxes(10_000, g, size=3000.0)])
    scores = (torch.rand(20_000, generator=g) * 1000).round() / 1000
    if threshold < 0:  # where bounds of neighbours say nothing, every box is compared with every better one
        boxes, scores = boxes[::8], scores[::8]
    assert torch.equal(cuda.call(ops.nms, boxes, scores, threshold), ops.nms(boxes, scores, threshold))


@pytest.mark.parametrize("seed", range(8))
def test_boxes_that_wait_for_each_other(cuda: CudaOnCpu, seed: int) -> None:
    """Blocks run in a drawn order, so that nearly all boxes come before those that they wait for."""
    g = torch.Generator().manual_seed(seed)
    boxes, scores = chain(1500), torch.full((1500,), 0.5)
    assert torch.equal(cuda.call(ops.nms, boxes, scores, 0.5, seed=seed), ops.nms(boxes, scores, 0.5))
    boxes, scores = clustered_boxes(1500, g, per_object=100), torch.rand(1500, generator=g)
    for threshold in (0.2, 0.7):
        assert torch.equal(cuda.call(ops.nms, boxes, scores, threshold, seed=seed), ops.nms(boxes, scores, threshold))


def test_classes_with_the_same_hash(cuda: CudaOnCpu) -> None:
    """3,000 classes share 15 bits: some 140 pairs of them collide, and must not suppress each other."""
    g = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[0.0, 0, 10, 10]]).expand(6000, 4)
    classes = torch.randint(2**62, (3000,), generator=g).repeat(2)
    scores = torch.rand(6000, generator=g)
    keep = cuda.call(ops.batched_nms, boxes, scores, classes, 0.5)
    assert len(keep) == 3000
    assert torch.equal(keep, ops.batched_nms(boxes, scores, classes, 0.5))


def assert_same_detections(cuda: CudaOnCpu, *args: Any, **options: Any) -> Tensor:
    expected = ops.multiclass_nms(*args, **options)
    ours = cuda.call(lambda *a: ops.multiclass_nms(*a, **options), *args, seed=3)
    for name, a, b in zip(("boxes", "scores", "labels", "rows", "count"), ours, expected, strict=True):
        assert torch.equal(a, b), name
    return expected[4]


def stacked(n: int, objects: int) -> tuple[Tensor, Tensor]:
    """n boxes and scores of one image: every object has n / objects of them, all better than those of the next one."""
    g = torch.Generator().manual_seed(0)
    corner = 200.0 * torch.arange(objects)[:, None]
    boxes = (corner + torch.tensor([[0.0, 0, 100, 100]])).repeat_interleave(n // objects, 0)
    boxes = boxes + torch.rand(n, 4, generator=g)
    scores = 1 - (torch.arange(n) + torch.rand(n, generator=g)) / (n + 1)
    order = torch.randperm(n, generator=g)
    return boxes[order][None], scores[order][None, :, None]


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 10), (torch.float64, 3)], ids=str)
def test_candidates_beyond_all_rounds(cuda: CudaOnCpu, dtype: torch.dtype, most: int) -> None:
    """Two rounds of 4,096 and a few find one object each; the others are found one at a time."""
    boxes, scores = stacked(20_000, 4)
    assert assert_same_detections(cuda, boxes, scores.to(dtype), 0.01, 0.5, most).tolist() == [min(most, 4)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_scores_that_hardly_differ(cuda: CudaOnCpu, dtype: torch.dtype) -> None:
    """A bin of all scores is divided until single ones are left, by their indices in the end."""
    g = torch.Generator().manual_seed(0)
    boxes = random_boxes(12_000, g, size=5000.0)[None]
    scores = 0.5 + 1e-13 * torch.rand(1, 12_000, 1, generator=g, dtype=torch.float64)
    assert_same_detections(cuda, boxes, scores.to(dtype), 0.1, 0.5, 50)
    assert_same_detections(cuda, boxes, scores.to(dtype), 0.1, 0.5, 50, 1000)


def test_scores_above_one_and_below_zero(cuda: CudaOnCpu) -> None:
    """Where the guess at the first bins is wrong."""
    g = torch.Generator().manual_seed(0)
    boxes = torch.stack([random_boxes(6000, g, size=5000.0) for _ in range(2)])
    logits = torch.randn(2, 6000, 2, generator=g) * 20
    assert_same_detections(cuda, boxes, logits, -30.0, 0.5, 100)
    assert_same_detections(cuda, boxes, logits, -30.0, 0.5, 100, 1500)
    assert_same_detections(cuda, boxes, logits, 1.0, 0.5, 100)
