"""THE registry of operators: generic tests, benchmarks and the README's table are made from it.

A new operator is written here once: its inputs at several sizes, its tolerance, where it comes from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pydet import ops, reference

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def random_boxes(n: int, generator: torch.Generator, size: float = 640.0, largest: float = 120.0) -> Tensor:
    """[n, 4] xyxy boxes with corners in a square of `size` pixels."""
    corner = torch.rand(n, 2, generator=generator) * size
    extent = torch.rand(n, 2, generator=generator) * (largest - 1) + 1
    return torch.cat([corner, corner + extent], dim=1)


@dataclass(frozen=True)
class OpCase:
    """One operator.

    Attributes:
        name: of the operator, its wrapper, reference, files and test.
        make_inputs: (size, generator) -> arguments of the operator, float32 on the CPU.
        sizes: test sizes, 0 (empty) to a few thousand, across vector widths.
        boxes: positions of the arguments that are cast to every dtype.
        gradients: positions of the arguments that have a gradient.
        tolerance: (rtol, atol) in float32 against the reference; None means equal to the last bit.
        summary: for the README's table.
        source: the paper or library that defines it.
    """

    name: str
    make_inputs: Callable[[int, torch.Generator], tuple[Any, ...]]
    sizes: tuple[int, ...]
    floating: tuple[int, ...]
    summary: str
    source: str
    gradients: tuple[int, ...] = ()
    tolerance: tuple[float, float] | None = None
    dtypes: tuple[torch.dtype, ...] = field(default=FLOATING)

    @property
    def function(self) -> Callable[..., Any]:
        return getattr(ops, self.name)

    @property
    def reference(self) -> Callable[..., Any]:
        return getattr(reference, self.name)

    @property
    def operator(self) -> Any:
        return getattr(torch.ops.pydet, self.name).default

    def inputs(self, size: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
        args = self.make_inputs(size, torch.Generator().manual_seed(seed))
        return tuple(arg.to(dtype) if i in self.floating else arg for i, arg in enumerate(args))


OP_CASES = [
    OpCase(
        name="box_iou",
        make_inputs=lambda n, g: (random_boxes(n, g), random_boxes(2 * n + 1, g)),
        sizes=(0, 1, 15, 16, 17, 300),
        floating=(0, 1),
        gradients=(0, 1),
        summary="IoU of every box of one set with every box of another, batches too",
        source="Jaccard index; torchvision.ops.box_iou",
    ),
]
