"""What only the kernels of csrc/cuda/ for WordTrees have: trees that are none, many blocks.

They run on the CPU, see tests/test_cuda_on_cpu.py, and are compared with the CPU operators.
"""

from __future__ import annotations

import pytest
import torch
from cuda_harness import SOURCES, CudaOnCpu
from op_cases import random_tree

from pydet import ops

STEMS = ("tree_predict", "tree_softmax")


@pytest.fixture(scope="module")
def cuda(request: pytest.FixtureRequest) -> CudaOnCpu:
    folder = request.config.cache.mkdir("compiled")
    return CudaOnCpu(folder, [source for source in SOURCES if source.stem in STEMS])


@pytest.mark.parametrize("layout", ["rows", "map"])
def test_a_tree_of_many_blocks(cuda: CudaOnCpu, layout: str) -> None:
    g = torch.Generator().manual_seed(0)
    parents = random_tree(5000, g)
    logits = 3 * torch.randn(1, 5000, 5, 7, generator=g).movedim(1, -1)
    logits = logits.contiguous() if layout == "rows" else logits
    conditional = ops.tree_softmax(logits, parents)
    assert torch.equal(cuda.call(ops.tree_softmax, logits, parents, seed=1), conditional)
    for rule in ("absolute", "darknet"):
        ours = cuda.call(ops.tree_predict, conditional, parents, 0.1, rule, seed=2)
        theirs = ops.tree_predict(conditional, parents, 0.1, rule)
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])
    absolute = ops.tree_probabilities(conditional, parents)
    torch.testing.assert_close(cuda.call(ops.tree_probabilities, conditional, parents), absolute, rtol=2e-6, atol=1e-37)


@pytest.mark.parametrize("seed", range(10))
def test_what_is_no_tree_is_safe(cuda: CudaOnCpu, seed: int) -> None:
    """The values of `parents` are not looked at before: nothing outside is read, walks end, answers are nodes."""
    g = torch.Generator().manual_seed(seed)
    low, high = (-(2**62), 2**62) if seed % 2 else (-2, 302)
    parents = torch.randint(low, high, (300,), generator=g)
    values = torch.rand(7, 300, generator=g)
    assert cuda.call(ops.tree_softmax, values, parents).isfinite().all()
    absolute = cuda.call(ops.tree_probabilities, values, parents)
    assert ((absolute > 0) & (absolute <= values)).all()
    nodes, probabilities = cuda.call(ops.tree_predict, values, parents, -1.0)
    assert ((nodes >= 0) & (nodes < 300)).all()
    assert (probabilities > 0).all()
    gradient = cuda.call(torch.ops.pydet._tree_probabilities_backward, values, values, absolute, parents)
    assert gradient.isfinite().all()
