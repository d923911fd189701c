"""What is raced on a GPU, and how fast it has to be."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import inputs
import torch
from timer import Arguments, Function, bytes_of
from torch import Tensor

from pydet import ops, reference

TORCHVISION = importlib.import_module("torchvision") if importlib.util.find_spec("torchvision") else None


def close(ours: Any, theirs: Any) -> bool:
    pairs = zip(*(r if isinstance(r, tuple) else (r,) for r in (ours, theirs)), strict=True)
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-4, equal_nan=True) for a, b in pairs)


@dataclass(frozen=True)
class Workload:
    """One race.

    Attributes:
        name: what it is called in the results.
        operator: of pydet, without whose kernel the race is left out.
        make_inputs: (scale, device) -> arguments of every contender; scale 1 is the race, less is for trying it out.
        call: what is done with an operator, or a peer of it: (function, *arguments) -> result.
        peer: torchvision -> its function to be called so.
        equal: (pydet's result, another's) -> bool.
        moved: (arguments, result) -> the bytes that must be read and written; 0 where they are not what limits.
        ceiling: what they are compared with, "copy" or "fill".
        with_reference: also the reference, and the reference compiled by torch.compile.
        graph: also pydet in a CUDA graph.
        aims: what it must reach: "percent" of the ceiling, "seconds", or times as fast as "torchvision".
    """

    name: str
    operator: str
    make_inputs: Callable[[float, str], Arguments]
    call: Callable[..., Any] = field(default=lambda function, *args: function(*args))
    peer: Callable[[Any], Function] | None = None
    equal: Callable[[Any, Any], bool] = torch.equal
    moved: Callable[[Arguments, Any], int] = field(default=lambda args, result: 0)
    ceiling: str = "copy"
    with_reference: bool = False
    graph: bool = False
    aims: dict[str, float] = field(default_factory=dict)

    @property
    def function(self) -> Function:
        return getattr(ops, self.operator)

    @property
    def reference(self) -> Function:
        return getattr(reference, self.operator)


def of_the_same_name(name: str) -> Callable[[Any], Function]:
    return lambda torchvision: getattr(torchvision.ops, name)


def matcher(torchvision: Any) -> Function:
    from torchvision.models.detection._utils import Matcher

    match = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    return lambda anchors, truths: match(torchvision.ops.box_iou(truths, anchors))


def read_and_written(args: Arguments, result: Any) -> int:
    return bytes_of(args) + bytes_of(result)


def written(args: Arguments, result: Any) -> int:
    return bytes_of(result)


def inputs_and_gradient(args: Arguments, result: Any) -> int:
    return bytes_of(args) + bytes_of(args[0])


def focal_sum(function: Function, logits: Tensor, targets: Tensor) -> Tensor:
    """pydet writes the gradient in this pass, since one is wanted."""
    return function(logits, targets, 0.25, 2.0, "sum")


def focal_step(function: Function, logits: Tensor, targets: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(focal_sum(function, logits, targets), logits)
    return gradient


WORKLOADS = [
    *(
        Workload(
            name=f"sigmoid_focal_loss 16 x 120k x 91 {kind}, forward with gradient",
            operator="sigmoid_focal_loss",
            make_inputs=make,
            call=focal_sum,
            moved=inputs_and_gradient,
            aims={"percent": 85},
        )
        for kind, make in (("labels", inputs.focal_labels), ("classes", inputs.focal_classes))
    ),
    Workload(
        name="sigmoid_focal_loss 16 x 120k x 91 labels, forward and backward",
        operator="sigmoid_focal_loss",
        make_inputs=inputs.focal_labels,
        call=focal_step,
        peer=of_the_same_name("sigmoid_focal_loss"),
        equal=close,
        with_reference=True,
    ),
    *(
        Workload(
            name=f"{name} 10k x 10k",
            operator=name,
            make_inputs=inputs.two_sets_of_boxes,
            peer=of_the_same_name(name),
            equal=close,
            moved=written,
            ceiling="fill",
            with_reference=True,
            aims={"percent": 85} if name == "box_iou" else {},
        )
        for name in ("box_iou", "generalized_box_iou", "complete_box_iou")
    ),
    Workload(
        name="match_anchors 243k x 500",
        operator="match_anchors",
        make_inputs=inputs.anchors_and_truths,
        peer=matcher,
        with_reference=True,
        graph=True,
        aims={"seconds": 60e-6},
    ),
    *(
        Workload(
            name=f"nms {n // 1000}k boxes, {make.__name__}",
            operator="nms",
            make_inputs=functools.partial(make, n),
            peer=of_the_same_name("nms"),
            equal=inputs.same_boxes,
            aims={"seconds": seconds, "torchvision": 5},
        )
        for n, seconds in ((10_000, 100e-6), (100_000, 3e-3))
        for make in (inputs.clustered, inputs.scattered)
    ),
    Workload(
        name="nms 1M boxes, clustered",
        operator="nms",
        make_inputs=functools.partial(inputs.clustered, 1_000_000),
    ),
    Workload(
        name="batched_nms 100k boxes, 80 classes",
        operator="batched_nms",
        make_inputs=functools.partial(inputs.with_classes, 100_000),
        peer=of_the_same_name("batched_nms"),
        equal=inputs.same_boxes,
        aims={"torchvision": 10},
    ),
    *(
        Workload(
            name=f"multiclass_nms 8 x 120k x 80, {kind}",
            operator="multiclass_nms",
            make_inputs=functools.partial(inputs.batch_of_detections, top_k),
            peer=lambda torchvision: functools.partial(inputs.loop_over_images, torchvision.ops.batched_nms),
            equal=inputs.same_detections,
            graph=True,
            aims={"torchvision": 10},
        )
        for kind, top_k in (("best 1000 of an image", 1000), ("all", None))
    ),
    *(
        Workload(
            name=f"yolo_decode 64 x 255 x 76 x 76 {kind}",
            operator="yolo_decode",
            make_inputs=functools.partial(inputs.yolo_maps, dtype, layout, classes),
            equal=close,
            moved=read_and_written,
            with_reference=kind == "float32",
            aims={"percent": 85},
        )
        for kind, dtype, layout, classes in (
            ("float32", torch.float32, torch.contiguous_format, "sigmoid"),
            ("float32 channels last", torch.float32, torch.channels_last, "sigmoid"),
            ("float16", torch.float16, torch.contiguous_format, "sigmoid"),
            ("float32 softmax", torch.float32, torch.contiguous_format, "softmax"),
        )
    ),
    Workload(
        name="encode_boxes 16 x 120k",
        operator="encode_boxes",
        make_inputs=inputs.boxes_and_anchors,
        equal=close,
        moved=read_and_written,
        with_reference=True,
    ),
    Workload(
        name="decode_boxes 16 x 120k",
        operator="decode_boxes",
        make_inputs=inputs.box_codes,
        equal=close,
        moved=read_and_written,
        with_reference=True,
    ),
    *(
        Workload(
            name=f"tree_softmax 16 x 867 x 9418 {layout}",
            operator="tree_softmax",
            make_inputs=functools.partial(inputs.tree_logits, layout),
            equal=close,
            moved=read_and_written,
        )
        for layout in ("rows", "map")
    ),
    Workload(
        name="tree_probabilities 16 x 867 x 9418",
        operator="tree_probabilities",
        make_inputs=inputs.tree_conditional,
        call=lambda function, conditional, parents, _: function(conditional, parents),
        equal=close,
        moved=read_and_written,
    ),
    Workload(
        name="tree_predict 16 x 867 x 9418",
        operator="tree_predict",
        make_inputs=inputs.tree_conditional,
        equal=close,
        graph=True,
    ),
    *(
        Workload(
            name=f"hard_negative_mining {images} x {anchors:,}",
            operator="hard_negative_mining",
            make_inputs=functools.partial(inputs.losses_of_anchors, images, anchors),
            peer=lambda torchvision: inputs.two_sorts,
            equal=inputs.as_many,
            graph=True,
        )
        for images, anchors in ((32, 8732), (8, 120_000))
    ),
    Workload(
        name="anchor_kmeans 860k boxes, 9 anchors",
        operator="anchor_kmeans",
        make_inputs=inputs.sizes_of_boxes,
        graph=True,
        equal=close,
    ),
]
