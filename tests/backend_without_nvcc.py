"""What serves CUDA tensors where the build has no CUDA kernel, in a process that takes this machine for one with a GPU.

There are no CUDA tensors here: the kernels that CUDA tensors would reach are called with those of the CPU, Triton's in
its interpreter. tests/test_backend_without_nvcc.py starts this.
"""

from __future__ import annotations

import json
import warnings
from typing import Any

import torch

count = torch.cuda.device_count
torch.cuda.device_count = lambda: 1  # before pydet chooses
torch.version.cuda = None  # and its CUDA library, where this build has one, stays out

from op_cases import OP_CASES  # noqa: E402
from op_checks import assert_close  # noqa: E402

from pydet import ops  # noqa: E402
from pydet.info import info  # noqa: E402

torch.cuda.device_count = count  # `info` asks for their names

CUDA = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)


def main() -> dict[str, Any]:
    report: dict[str, Any] = {"backends": {case.name: ops.backend_of(case.name, "cuda") for case in OP_CASES}}
    report["info"] = info()
    report["warnings"] = {}
    for case in OP_CASES:
        args = case.inputs(case.gpu_sizes[1])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                assert_close(case.operator.redispatch(CUDA, *args), case.reference(*args), case.tolerance)
        said = [str(warning.message) for warning in caught]
        report["warnings"][case.name] = [words for words in said if words.startswith("pydet")]  # not those of numpy
    try:
        ops.set_backend("compiled")
    except RuntimeError as error:
        report["compiled"] = str(error)
    return report


if __name__ == "__main__":
    print(json.dumps(main()))
