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


def iou_inputs(n: int, generator: torch.Generator, *options: Any) -> tuple[Any, ...]:
    """n and 2 n + 1 boxes; n and n, aligned, at sizes 1, 17, 33 and so on."""
    if n % 16 != 1:
        return random_boxes(n, generator), random_boxes(2 * n + 1, generator), *options, False
    return *aligned_boxes(n, generator), *options, True


def yolo_head(n: int, generator: torch.Generator) -> tuple[Any, ...]:
    """Raw head of two images: 3 anchors, 3 + n classes, n x (n + 1) cells of 16 x 32 pixels."""
    inputs = torch.randn(2, 3 * (5 + 3 + n), n, n + 1, generator=generator)
    in_cells = n % 2 == 1
    anchors = (torch.rand(3, 2, generator=generator) * 40 + 10) / (16 if in_cells else 1)
    return inputs, anchors, (max(16 * n, 1), 32 * (n + 1)), ("sigmoid", "softmax", "logits")[n % 3], in_cells


def yolo_grid(n: int, generator: torch.Generator) -> tuple[Any, ...]:
    """n outputs of a network with a grid of 1 to 4 cells a side, 1 to 3 boxes a cell and 1 + n classes."""
    side, num_boxes = 1 + n % 4, 1 + n % 3
    inputs = torch.randn(n, side**2 * (1 + n + 5 * num_boxes), generator=generator)
    return inputs, side, num_boxes, (64, 96), n % 2 == 1, ("linear", "softmax")[n // 2 % 2]


def clustered_boxes(n: int, generator: torch.Generator, per_object: int = 20) -> Tensor:
    """[n, 4] xyxy boxes as a detector gives them before NMS: several, slightly different ones for each object."""
    objects = random_boxes(max(n // per_object, 1), generator)[
        torch.randint(max(n // per_object, 1), (n,), generator=generator)
    ]
    size = (objects[:, 2:] - objects[:, :2]).repeat(1, 2)
    return objects + 0.08 * size * torch.randn(n, 4, generator=generator)


def nms_inputs(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Half of the boxes clustered, half scattered; scores of two decimals, so that many are equal."""
    boxes = torch.cat([clustered_boxes(n // 2, generator), random_boxes(n - n // 2, generator, size=8.0 * n)])
    return boxes, (torch.rand(n, generator=generator) * 100).round() / 100, 0.5


def batched_nms_inputs(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, float]:
    boxes, scores, threshold = nms_inputs(n, generator)
    return boxes, scores, torch.randint(-2, 7, (n,), generator=generator), threshold


def multiclass_nms_inputs(n: int, generator: torch.Generator) -> tuple[Any, ...]:
    """Two images, one clustered and one scattered; 5 classes; more scores than the top k takes."""
    boxes = torch.stack([clustered_boxes(n, generator), random_boxes(n, generator, size=8.0 * n)])
    scores = torch.rand(2, n, 5, generator=generator) ** 3
    return boxes, scores, 0.02, 0.5, n // 2 + 5, 3 * n + 1, False, True


def focal_labels(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """[n, 7] logits, some saturated, and labels: most of them 0, some 1, some between."""
    logits = torch.randn(n, 7, generator=generator) * torch.tensor([1, 1, 3, 10, 30, 60, 2.0])
    return logits, torch.tensor([0, 0, 0, 1, 0.3])[torch.randint(5, (n, 7), generator=generator)]


def focal_classes(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """[n, 19] logits and a class for each row, -1 (ignored) among them."""
    return torch.randn(n, 19, generator=generator) * 4, torch.randint(-1, 19, (n,), generator=generator)


def match_anchors_inputs(n: int, generator: torch.Generator) -> tuple[Any, ...]:
    """n images of 0 to 4 objects and 40 n + 3 anchors, some of them exactly objects; corners on a grid: many ties."""
    counts = torch.randint(0, 5, (n,), generator=generator)
    truths = (random_boxes(int(counts.sum()), generator, size=20.0 * n + 20) / 4).round() * 4
    anchors = (random_boxes(40 * n + 3, generator, size=20.0 * n + 20) / 8).round() * 8
    anchors[: min(n, len(truths))] = truths[: min(n, len(truths))]
    return anchors, truths, counts, 0.5, 0.3, ("retinanet", "ssd", "threshold")[n % 3]


def mining_inputs(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Losses of 4 images of n anchors, many equal; a tenth positive, none in the second image, most in the third."""
    loss = (torch.rand(4, n, generator=generator) ** 3 * 50).round() / 10
    share = torch.tensor([0.1, 0.0, 0.8, 0.1])[:, None]
    return loss, torch.rand(4, n, generator=generator) < share, 3.0


def random_tree(n: int, generator: torch.Generator) -> Tensor:
    """Parents of n nodes: groups of 1 to 9 siblings below nodes drawn at random, each once, as in a WordTree."""
    parents: list[int] = []
    free = [-1]
    while len(parents) < n:
        parent = free.pop(int(torch.randint(len(free), (), generator=generator)))
        count = min(int(torch.randint(1, 10, (), generator=generator)), n - len(parents))
        free += range(len(parents), len(parents) + count)
        parents += [parent] * count
    return torch.tensor(parents, dtype=torch.int64)


def tree_inputs(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Conditional probabilities [2, n, 3 n] of a random tree, some of them 0."""
    parents = random_tree(3 * n, generator)
    conditional = reference.tree_softmax(12 * torch.randn(2, n, 3 * n, generator=generator), parents)
    return torch.where(conditional < 1e-4, 0, conditional), parents


def match_cells_inputs(n: int, generator: torch.Generator) -> tuple[Any, ...]:
    """n images of 0 to 4 objects, 5 x 4 cells of 8 x 16 pixels with 3 predictions each; many on or beside objects."""
    counts = torch.randint(0, 5, (n,), generator=generator)
    truths = (random_boxes(int(counts.sum()), generator, size=40, largest=40) / 2).round() * 2
    predictions = random_boxes(60 * n, generator, size=40, largest=40).reshape(n, 60, 4)
    for image, own in enumerate(truths.split(counts.tolist())):
        if len(own) and image % 4:
            predictions[image, ::2] = own[torch.randint(len(own), (30,), generator=generator)]
    priors = (torch.rand(5, 2, generator=generator) * 40 + 1).round()
    shared = (predictions + torch.rand(n, 60, 4, generator=generator), truths, counts, (5, 4), (40, 64))
    return (*shared, "overlap") if n % 2 else (*shared, "shape", priors, [3, 0, 2], 0.6)


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
        vmap: positions of the arguments that torch.func.vmap maps over by a rule of ours, one or all of them.
        gpu_sizes: test sizes for GPU kernels, across warps and blocks.
        exact_on_gpu: the CUDA kernel gives the bits of the CPU kernel, the gradient too; not where it takes a sum in
            another order.
        constant_in_gradient: its definition holds a factor constant in the gradient, so that this is not the
            derivative; it is compared with the reference's instead.
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
    gpu_sizes: tuple[int, ...] = (0, 1, 31, 32, 33, 255, 256, 257, 1025)
    exact_on_gpu: bool = True
    constant_in_gradient: bool = False
    vmap: tuple[int, ...] = ()

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
        name="anchor_kmeans",
        make_inputs=lambda n, g: (torch.rand(n, 2, generator=g) ** 2 * 300 + 4, 1 + n % 7 % n, n, n % 30),
        sizes=(1, 2, 17, 255, 257, 3000, 1024),
        gpu_sizes=(1, 2, 31, 32, 33, 255, 256, 257, 1025),
        floating=(0,),
        summary="anchors for a data set: k-means of box sizes with distance 1 - IoU, from a seed",
        source="YOLOv2 (Redmon and Farhadi 2017), section 2, Dimension clusters",
    ),
    OpCase(
        name="box_iou",
        make_inputs=lambda n, g: iou_inputs(n, g, "xyxy"),
        gpu_sizes=(0, 1, 31, 32, 33, 255, 256, 257, 513),
        sizes=(0, 1, 15, 16, 17, 300),
        floating=(0, 1),
        gradients=(0, 1),
        exact_on_gpu=False,  # the gradient: a sum over the other boxes
        vmap=(0, 1),
        summary="IoU of every box of one set with every box of another, or of aligned ones; batches too",
        source="Jaccard index; torchvision.ops.box_iou",
    ),
    OpCase(
        name="box_iof",
        family="box_iou",
        make_inputs=lambda n, g: iou_inputs(n, g, "xyxy"),
        gpu_sizes=(0, 1, 31, 32, 33, 255, 256, 257, 513),
        sizes=(0, 1, 15, 16, 17, 300),
        floating=(0, 1),
        gradients=(0, 1),
        exact_on_gpu=False,  # the gradient: a sum over the other boxes
        vmap=(0, 1),
        summary="the part of every box of one set that every box of another covers, or of aligned ones",
        source='mmcv.ops.bbox_overlaps(mode="iof"); detectron2\'s pairwise_ioa',
    ),
    OpCase(
        name="generalized_box_iou",
        family="box_iou",
        make_inputs=iou_inputs,
        gpu_sizes=(0, 1, 31, 32, 33, 255, 256, 257, 513),
        sizes=(0, 1, 15, 16, 17, 300),
        floating=(0, 1),
        gradients=(0, 1),
        exact_on_gpu=False,  # the gradient: a sum over the other boxes
        vmap=(0, 1),
        summary="IoU less the part of the smallest box around both that neither covers, for all pairs or aligned ones",
        source="Rezatofighi et al. 2019; torchvision.ops.generalized_box_iou",
    ),
    OpCase(
        name="distance_box_iou",
        family="box_iou",
        make_inputs=lambda n, g: iou_inputs(n, g, 1e-7),
        gpu_sizes=(0, 1, 31, 32, 33, 255, 256, 257, 513),
        sizes=(0, 1, 15, 16, 17, 300),
        floating=(0, 1),
        gradients=(0, 1),
        exact_on_gpu=False,  # the gradient: a sum over the other boxes
        vmap=(0, 1),
        summary="IoU less the normalised distance of the centres, for all pairs or aligned ones",
        source="Zheng et al. 2020; torchvision.ops.distance_box_iou",
    ),
    OpCase(
        name="complete_box_iou",
        family="box_iou",
        make_inputs=lambda n, g: iou_inputs(n, g, 1e-7),
        gpu_sizes=(0, 1, 31, 32, 33, 255, 256, 257, 513),
        sizes=(0, 1, 15, 16, 17, 300),
        floating=(0, 1),
        gradients=(0, 1),
        exact_on_gpu=False,  # the gradient: a sum over the other boxes
        vmap=(0, 1),
        constant_in_gradient=True,
        tolerance=(1e-6, 1e-6),  # the arc tangents differ by an ulp
        summary="distance IoU less a penalty for other aspect ratios, for all pairs or aligned ones",
        source="Zheng et al. 2020; torchvision.ops.complete_box_iou",
    ),
    OpCase(
        name="generalized_box_iou_loss",
        family="box_iou_loss",
        make_inputs=aligned_boxes,
        sizes=(0, 1, 15, 16, 17, 300, 9001),
        gpu_sizes=(0, 1, 31, 32, 33, 255, 256, 257, 2049, 5000),
        floating=(0, 1),
        gradients=(0, 1),
        vmap=(0, 1),
        tolerance=(1e-6, 1e-6),  # 1 - similarity, where torchvision sums in another order
        summary="1 - generalized IoU of boxes in pairs, the reduction included",
        source="Rezatofighi et al. 2019; torchvision.ops.generalized_box_iou_loss",
    ),
    OpCase(
        name="distance_box_iou_loss",
        family="box_iou_loss",
        make_inputs=lambda n, g: (*aligned_boxes(n, g), "mean"),
        sizes=(0, 1, 15, 16, 17, 300, 9001),
        gpu_sizes=(0, 1, 31, 32, 33, 255, 256, 257, 2049, 5000),
        floating=(0, 1),
        gradients=(0, 1),
        exact_on_gpu=False,  # the reduction
        vmap=(0, 1),
        tolerance=(1e-6, 1e-6),
        summary="1 - distance IoU of boxes in pairs, the reduction included",
        source="Zheng et al. 2020; torchvision.ops.distance_box_iou_loss",
    ),
    OpCase(
        name="complete_box_iou_loss",
        family="box_iou_loss",
        make_inputs=lambda n, g: (*aligned_boxes(n, g), "sum"),
        sizes=(0, 1, 15, 16, 17, 300, 9001),
        gpu_sizes=(0, 1, 31, 32, 33, 255, 256, 257, 2049, 5000),
        floating=(0, 1),
        gradients=(0, 1),
        exact_on_gpu=False,  # the reduction
        vmap=(0, 1),
        constant_in_gradient=True,
        tolerance=(1e-6, 1e-6),
        summary="1 - complete IoU of boxes in pairs, the reduction included",
        source="Zheng et al. 2020; torchvision.ops.complete_box_iou_loss",
    ),
    OpCase(
        name="yolo_decode",
        make_inputs=yolo_head,
        gpu_sizes=(0, 1, 5, 6, 15, 16, 17),
        sizes=(0, 1, 2, 4, 7, 24, 26, 13),
        floating=(0, 1),
        gradients=(0, 1),
        tolerance=(2e-6, 5e-5),  # a corner is the difference of two lengths of hundreds of pixels
        summary="boxes, objectness and class scores of a raw YOLOv3 or YOLOv2 head, in one read and one write",
        source="YOLOv3 (Redmon and Farhadi 2018), YOLOv2 (2017); Darknet's [yolo] and [region] layers",
    ),
    OpCase(
        name="yolo_grid_decode",
        family="yolo_decode",
        make_inputs=yolo_grid,
        gpu_sizes=(0, 1, 2, 3, 7, 16, 33, 40),
        sizes=(0, 1, 2, 3, 4, 20, 33, 50),
        floating=(0,),
        gradients=(0,),
        tolerance=(2e-6, 2e-5),
        summary="boxes, objectness and class scores of the first YOLO's grid",
        source="YOLO (Redmon et al. 2016), section 2; Darknet's [detection] layer",
    ),
    OpCase(
        name="sigmoid_focal_loss",
        make_inputs=focal_labels,
        sizes=(0, 1, 2, 9, 146, 147, 1000),
        gpu_sizes=(0, 1, 31, 32, 33, 255, 256, 257, 1170, 1171, 2341, 4700),  # a block: 8,192 values of float32
        exact_on_gpu=False,  # the reductions
        floating=(0, 1),
        gradients=(0, 1),
        tolerance=(3e-6, 1e-9),
        summary="Focal loss and its gradient in one pass; labels or integer classes, reduction included",
        source="Focal loss (Lin et al. 2017); torchvision.ops.sigmoid_focal_loss",
    ),
    OpCase(
        name="softmax_focal_loss",
        make_inputs=lambda n, g: (*focal_classes(n, g), 2.0, 0.25, torch.rand(19, generator=g), "none"),
        sizes=(0, 1, 2, 15, 300, 2000),
        gpu_sizes=(0, 1, 31, 32, 33, 127, 128, 129, 255, 256, 257, 1000),  # a block: 128 rows
        exact_on_gpu=False,  # sums over the classes
        floating=(0, 4),
        gradients=(0, 4),
        tolerance=(3e-6, 1e-9),
        summary="Focal loss of a softmax and its gradient in one pass",
        source="Focal loss (Lin et al. 2017); mmcv.ops.softmax_focal_loss",
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
    OpCase(
        name="multiclass_nms",
        make_inputs=multiclass_nms_inputs,
        sizes=(0, 1, 4, 17, 300),
        floating=(0, 1),
        gradients=(0, 1),
        summary="threshold, top k, NMS per class and best detections of a batch: fixed shapes and a count, in one call",
        source="mmdet's multiclass_nms; torchvision.ops.batched_nms in a loop over the images",
    ),
    OpCase(
        name="soft_nms",
        make_inputs=lambda n, g: nms_inputs(n, g)[:2],
        sizes=(0, 1, 7, 16, 17, 400),
        floating=(0, 1),
        tolerance=(1e-6, 1e-6),
        summary="NMS that lowers the scores of overlapping boxes instead of dropping them: linear, Gaussian or naive",
        source="Soft-NMS (Bodla et al. 2017); mmcv.ops.soft_nms",
    ),
    OpCase(
        name="match_anchors",
        make_inputs=match_anchors_inputs,
        sizes=(0, 1, 2, 3, 6, 7, 25, 24),
        gpu_sizes=(0, 1, 2, 7, 13, 26, 27),
        floating=(0, 1),
        summary="Ground truth of every anchor of a ragged batch (RetinaNet, SSD, thresholds); no matrix of IoUs",
        source="torchvision's box_iou with Matcher and SSDMatcher",
    ),
    OpCase(
        name="hard_negative_mining",
        make_inputs=mining_inputs,
        sizes=(0, 1, 2, 15, 16, 17, 300, 5000),
        gpu_sizes=(0, 1, 31, 32, 33, 1023, 1024, 1025, 3100),
        floating=(0,),
        summary="The hardest negatives of each image, a number for each positive, by selection instead of two sorts",
        source="SSD (Liu et al. 2016), section 2.2; torchvision's SSD.compute_loss",
    ),
    OpCase(
        name="tree_softmax",
        make_inputs=lambda n, g: (8 * torch.randn(2, n, 3 * n, generator=g), random_tree(3 * n, g)),
        sizes=(0, 1, 5, 6, 16, 17, 100),
        gpu_sizes=(0, 1, 9, 16, 33, 45, 90),
        floating=(0,),
        gradients=(0,),
        tolerance=(1e-6, 1e-9),
        summary="Softmax inside each group of siblings of a WordTree, of rows or of a head's map as it lies",
        source="YOLO9000 (Redmon and Farhadi 2017), section 4; Darknet's [region] layer with tree=",
    ),
    OpCase(
        name="tree_probabilities",
        family="tree_predict",
        make_inputs=tree_inputs,
        sizes=(0, 1, 5, 6, 16, 17, 100),
        gpu_sizes=(0, 1, 9, 16, 33, 45, 90),
        floating=(0,),
        gradients=(0,),
        tolerance=(2e-6, 1e-37),
        exact_on_gpu=False,  # the product along a path, from its other end
        summary="Absolute probability of every node of a WordTree: the product along its path",
        source="YOLO9000 (Redmon and Farhadi 2017), section 4; Darknet's hierarchy_predictions",
    ),
    OpCase(
        name="tree_predict",
        make_inputs=lambda n, g: (*tree_inputs(n, g), 0.1, ("absolute", "darknet")[n % 2]),
        sizes=(1, 2, 5, 6, 16, 17, 100),
        gpu_sizes=(1, 2, 9, 16, 33, 45, 90),
        floating=(0,),
        summary="Confident walk from the root of a WordTree to a class, by Darknet's rule or the absolute one",
        source="YOLO9000 (Redmon and Farhadi 2017), section 4; Darknet's hierarchy_top_prediction",
    ),
    OpCase(
        name="match_cells",
        make_inputs=match_cells_inputs,
        sizes=(0, 1, 2, 7, 16, 33, 32),
        gpu_sizes=(0, 1, 2, 7, 8, 33, 40),
        floating=(0, 1, 6),
        summary="Prediction of a YOLO grid that each ground truth of a ragged batch trains, by prior or by overlap; "
        "those left out of the objectness loss",
        source="YOLO, YOLOv2, YOLOv3 (Redmon et al. 2016 to 2018); Darknet's [detection], [region], [yolo]",
    ),
    OpCase(
        name="encode_boxes",
        make_inputs=lambda n, g: (
            torch.stack([random_boxes(n, g, largest=40) for _ in range(2)]),
            random_boxes(n, g, largest=40),
            [10.0, 10.0, 5.0, 5.0],
        ),
        sizes=(0, 1, 15, 16, 17, 3000),
        floating=(0, 1),
        gradients=(0, 1),
        vmap=(0, 1),
        tolerance=(2e-6, 2e-5),
        summary="R-CNN's regression targets of boxes seen from anchors, weights or variances",
        source="R-CNN (Girshick et al. 2014), appendix C; torchvision's BoxCoder",
    ),
    OpCase(
        name="decode_boxes",
        make_inputs=lambda n, g: (
            4 * torch.randn(2, n, 4 * (1 + n % 3), generator=g),
            random_boxes(n, g),
            [10.0, 10.0, 5.0, 5.0],
            1.0,
        ),
        sizes=(0, 1, 15, 16, 17, 3000),
        floating=(0, 1),
        gradients=(0, 1),
        vmap=(0, 1),
        tolerance=(2e-6, 2e-4),
        summary="Boxes that a regressor means at anchors, the inverse of `encode_boxes`, with the log-scale clip",
        source="R-CNN (Girshick et al. 2014), appendix C; torchvision's BoxCoder",
    ),
]
