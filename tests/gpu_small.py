"""Every operator once on small inputs on the GPU, forward and backward: for compute-sanitizer, which is slow."""

from __future__ import annotations

import sys

import torch
from op_cases import OP_CASES
from op_checks import gradients, inputs_of, outputs, to_device


def main(device: str) -> None:
    for case in OP_CASES:
        for dtype in (torch.float32, torch.float16):
            for args in inputs_of(case, case.gpu_sizes[4], dtype):
                there = to_device(args, device)
                for result in (*outputs(case.function(*there)), *gradients(case, case.function, there)):
                    result.cpu()
        print(case.name, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
