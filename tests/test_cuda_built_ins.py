"""What tests/cuda_on_cpu/ supplies in the place of CUDA's own functions, as CUDA's programming guide defines them."""

from __future__ import annotations

import struct

import pytest
import torch
from cuda_harness import HARNESS, CudaOnCpu

THREADS = 64
SCHEMA = "_built_ins(Tensor input, Tensor(a!) totals, Tensor(b!) wide_totals, Tensor(c!) float_totals) -> Tensor"


def float_bits(x: int) -> int:
    return struct.unpack("<i", struct.pack("<f", float(x)))[0]


def reversed_bits(x: int, width: int) -> int:
    return int(f"{x % 2**width:0{width}b}"[::-1], 2)


def signed(x: int, width: int = 64) -> int:
    return x - 2**width if x >= 2 ** (width - 1) else x


def leading_zeros(x: int, width: int) -> int:
    return width - (x % 2**width).bit_length()


def first_bit(x: int) -> int:
    """Counted from 1; 0 if there is none."""
    return (x & -x).bit_length()


def expected_row(xs: list[int], t: int) -> list[int]:
    x, lane, first = xs[t], t % 32, t // 32 * 32
    warp = xs[first : first + 32]
    wide = x * 65537
    other = warp[lane ^ 9]
    half = range(lane % 2, 32, 2)
    return [
        warp[37 % 32],
        warp[lane // 8 * 8 + 3],
        warp[lane - 3 if lane >= 3 else lane],
        65537 * warp[lane - 3 if lane % 16 >= 3 else lane],
        warp[lane + 30 if lane + 30 < 32 else lane],
        warp[lane + 5 if lane % 8 + 5 < 8 else lane],
        warp[lane ^ 17],
        other if (lane ^ 9) < lane // 8 * 8 + 8 else x,  # beyond the group: its own; an earlier group is allowed
        float_bits(warp[lane ^ 1]),
        sum(1 << k for k in half if warp[k] & (2 if lane % 2 else 1)),
        int(any(value % 32 == 0 for value in warp)),
        int(all(value % 32 != 0 for value in warp)),
        sum(1 << k for k in range(32) if warp[k] & 7 == x & 7),
        sum(value & 1 for value in xs),
        int(bool(xs[40] & 1)),
        int(bool(xs[40] & 1)),
        (x % 2**32).bit_count(),
        (wide % 2**64).bit_count(),
        first_bit(x),
        first_bit(wide),
        leading_zeros(x, 32),
        leading_zeros(wide, 64),
        reversed_bits(x, 32),
        signed(reversed_bits(wide, 64)),
        min(x, 1000) + max(x, -1000),
        max(x, 5),
    ]


@pytest.fixture(scope="module")
def cuda(request: pytest.FixtureRequest) -> CudaOnCpu:
    return CudaOnCpu(request.config.cache.mkdir("compiled"), [HARNESS / "built_ins.cu"], {"_built_ins": SCHEMA})


@pytest.mark.parametrize("seed", range(4))
def test_built_ins(cuda: CudaOnCpu, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-(2**31), 2**31, (THREADS,), generator=generator)
    values[::7] >>= 24  # small ones too, and 0
    values[3] = 0
    totals = torch.tensor([0, -(2**31), 2**31 - 1, 0, -1, 0, 0], dtype=torch.int32)
    wide_totals, float_totals = torch.zeros(2, dtype=torch.int64), torch.zeros(1)
    cuda.order(seed)
    x = values.to(torch.int32)
    result = torch.ops.pydet_cuda_on_cpu._built_ins(x, totals, wide_totals, float_totals)

    xs = values.tolist()
    expected = torch.tensor([expected_row(xs, t) for t in range(THREADS)])
    columns = expected.shape[1]
    assert torch.equal(result[:, :columns], expected), (result[:, :columns] != expected).nonzero()
    assert sorted(result[:, columns].tolist()) == list(range(THREADS))  # what atomicAdd found
    in_turn = totals[5].item()  # of the threads 0, 1, 2 ... as many as came one after the other
    assert in_turn == THREADS if seed == 0 else 1 <= in_turn <= THREADS
    bits_or = bits_and = xs[0]
    for value in xs:
        bits_or, bits_and = bits_or | value, bits_and & value
    assert totals[:5].tolist() == [THREADS, max(xs), min(xs), bits_or, bits_and]
    assert totals[6].item() in xs
    unsigned = [value % 2**32 for value in xs]
    assert wide_totals.tolist() == [max(unsigned), sum(unsigned)]
    assert float_totals.item() == THREADS / 2
