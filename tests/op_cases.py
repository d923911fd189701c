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


def aligned_boxes(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two sets of [n, 4] boxes: most of the second near those of the first, some apart from them."""
    boxes = random_boxes(n, generator)
    moved = boxes + 10 * torch.randn(n, 4, generator=generator)
    return boxes, torch.where((torch.arange(n) % 5 == 0)[:, None], random_boxes(n, generator), moved)


def yolo_head(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Raw head of two images: 3 anchors, 3 + n classes, n x (n + 1) cells of 16 x 32 pixels."""
    inputs = torch.randn(2, 3 * (5 + 3 + n), n, n + 1, generator=generator)
    anchors = torch.rand(3, 2, generator=generator) * 40 + 10
    return inputs, anchors, (max(16 * n, 1), 32 * (n + 1))


def clustered_boxes(n: int, generator: torch.Generator, per_object: int = 20) -> Tensor:
    """[n, 4] xyxy boxes as a detector gives them before NMS: several, slightly different ones for each object."""
    objects = random_boxes(max(n // per_object, 1), generator)[torch.randint(max(n // per_object, 1), (n,), generator=generator)]
    size = (objects[:, 2:] - objects[:, :2]).repeat(1, 2)
    return objects + 0.08 * size * torch.randn(n, 4, generator=generator)


def nms_inputs(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Half of the boxes clustered, half scattered; scores of two decimals, so that many are equal."""
    boxes = torch.cat([clustered_boxes(n // 2, generator), random_boxes(n - n // 2, generator, size=8.0 * n)])
    return boxes, (torch.rand(n, generator=generator) * 100).round() / 100, 0.5


def batched_nms_inputs(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, float]:
    boxes, scores, threshold = nms_inputs(n, generator)
    return boxes, scores, torch.randint(-2, 7, (n,), generator=generator), threshold


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
        family: stem of its files, where it shares them with operators that differ in their arithmetic only.
        constant_in_gradient: its definition holds a factor constant in the gradient, so that this is not the derivative;
            it is compared with the reference's instead.
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
    family: str = ""
    constant_in_gradient: bool = False

    @property
    def stem(self) -> str:
        """What its files are called: operators that are one kernel with another formula share them."""
        return self.family or self.name

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
    OpCase(
        name="generalized_box_iou",
        family="box_iou",
        make_inputs=lambda n, g: (random_boxes(n, g), random_boxes(2 * n + 1, g)),
        sizes=(0, 1, 15, 16, 17, 300),
        floating=(0, 1),
        gradients=(0, 1),
        summary="IoU less the part of the smallest box around both that neither covers, for all pairs",
        source="Rezatofighi et al. 2019; torchvision.ops.generalized_box_iou",
    ),
    OpCase(
        name="distance_box_iou",
        family="box_iou",
        make_inputs=lambda n, g: (random_boxes(n, g), random_boxes(2 * n + 1, g)),
        sizes=(0, 1, 15, 16, 17, 300),
        floating=(0, 1),
        gradients=(0, 1),
        summary="IoU less the normalised distance of the centres, for all pairs",
        source="Zheng et al. 2020; torchvision.ops.distance_box_iou",
    ),
    OpCase(
        name="complete_box_iou",
        family="box_iou",
        make_inputs=lambda n, g: (random_boxes(n, g), random_boxes(2 * n + 1, g)),
        sizes=(0, 1, 15, 16, 17, 300),
        floating=(0, 1),
        gradients=(0, 1),
        constant_in_gradient=True,
        tolerance=(1e-6, 1e-6),  # the arc tangents differ by an ulp
        summary="distance IoU less a penalty for other aspect ratios, for all pairs",
        source="Zheng et al. 2020; torchvision.ops.complete_box_iou",
    ),
    OpCase(
        name="generalized_box_iou_loss",
        family="box_iou_loss",
        make_inputs=aligned_boxes,
        sizes=(0, 1, 15, 16, 17, 300, 9001),
        floating=(0, 1),
        gradients=(0, 1),
        tolerance=(1e-6, 1e-6),  # 1 - similarity, where torchvision sums in another order
        summary="1 - generalized IoU of boxes in pairs, the reduction included",
        source="Rezatofighi et al. 2019; torchvision.ops.generalized_box_iou_loss",
    ),
    OpCase(
        name="distance_box_iou_loss",
        family="box_iou_loss",
        make_inputs=lambda n, g: (*aligned_boxes(n, g), "mean"),
        sizes=(0, 1, 15, 16, 17, 300, 9001),
        floating=(0, 1),
        gradients=(0, 1),
        tolerance=(1e-6, 1e-6),
        summary="1 - distance IoU of boxes in pairs, the reduction included",
        source="Zheng et al. 2020; torchvision.ops.distance_box_iou_loss",
    ),
    OpCase(
        name="complete_box_iou_loss",
        family="box_iou_loss",
        make_inputs=lambda n, g: (*aligned_boxes(n, g), "sum"),
        sizes=(0, 1, 15, 16, 17, 300, 9001),
        floating=(0, 1),
        gradients=(0, 1),
        constant_in_gradient=True,
        tolerance=(1e-6, 1e-6),
        summary="1 - complete IoU of boxes in pairs, the reduction included",
        source="Zheng et al. 2020; torchvision.ops.complete_box_iou_loss",
    ),
    OpCase(
        name="yolo_decode",
        make_inputs=yolo_head,
        sizes=(0, 1, 4, 7, 13, 26),
        floating=(0, 1),
        gradients=(0, 1),
        tolerance=(2e-6, 2e-5),
        summary="boxes, objectness and class scores of a raw YOLOv3 head, in one read and one write",
        source="YOLOv3 (Redmon and Farhadi 2018), section 2.1; Darknet's [yolo] layer",
    ),
    OpCase(
        name="nms",
        make_inputs=nms_inputs,
        sizes=(0, 1, 15, 16, 17, 255, 256, 257, 258, 1500),
        floating=(0, 1),
        summary="Greedy non-maximum suppression; O(N) memory, cost grows with the overlaps",
        source="torchvision.ops.nms",
    ),
    OpCase(
        name="batched_nms",
        make_inputs=batched_nms_inputs,
        sizes=(0, 1, 16, 300, 1500),
        floating=(0, 1),
        summary="NMS inside each class, exact for any coordinates and any number of classes",
        source="torchvision.ops.batched_nms",
    ),
]
