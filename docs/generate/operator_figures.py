"""The pictures of the operators' pages, each drawn from what our own operators give for real input.

Input: the picture, the network and its candidates that come with the package, and the tests' blood cells.
"""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

import torch
from matplotlib import pyplot
from matplotlib.patches import Rectangle
from torch import Tensor

import pydet
from pydet import ops
from pydet.data import load_dataset
from pydet.data.dataset import DataWarning
from pydet.image import read_image
from pydet.models.anchors import cell_anchors, grid_anchors, retinanet_sides
from pydet.models.registry import ASSETS
from pydet.wordtree import WordTree

ROOT = Path(__file__).parent.parent.parent
FIGURES: dict[str, Callable[[], str]] = {}
COLOURS = ("#00897b", "#e65100", "#3949ab", "#c2185b", "#7cb342", "#6d4c41")
GREY = "#90a4ae"
STYLE = {
    "svg.hashsalt": "pydet",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
STYLE["axes.prop_cycle"] = matplotlib.cycler(color=COLOURS)


def figure(columns: int = 1, width: float = 7.5, height: float = 3.0) -> Callable[[Callable[..., None]], Any]:
    """Makes a function that draws on axes one that gives the SVG, and enters it in FIGURES by its name."""

    def decorate(draw: Callable[..., None]) -> Callable[[], str]:
        def svg() -> str:
            with pyplot.rc_context(STYLE):
                drawing, axes = pyplot.subplots(
                    1, columns, figsize=(width, height), layout="constrained", squeeze=False
                )
                draw(*axes[0])
                text = io.StringIO()
                drawing.savefig(text, format="svg", dpi=100, metadata={"Date": None})
                pyplot.close(drawing)
            return text.getvalue()

        FIGURES[draw.__name__] = svg
        return svg

    return decorate


@functools.cache
def dog() -> tuple[Tensor, Any, Tensor, Tensor, Tensor]:
    """The picture, the network, its boxes [N, 4] in pixels of its input and scores [N, C], and that input."""
    network = pydet.load("yolov3-tiny").model
    picture = read_image(ASSETS / "dog.jpg")
    x, _ = network.preprocess([picture])
    with torch.no_grad():
        boxes, scores = network.predict(x, torch.tensor([x.shape[-2:]]))
    return picture, network, boxes[0], scores[0], x


def candidates(threshold: float = 0.05) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and classes above a threshold, before any suppression."""
    _, _, boxes, scores, _ = dog()
    best, label = scores.max(dim=1)
    found = best > threshold
    return boxes[found], best[found], label[found]


def show(axes: Any, title: str = "") -> None:
    axes.imshow(dog()[4][0].permute(1, 2, 0), alpha=0.75)
    axes.set(xlim=(0, 416), ylim=(364, 52), xticks=[], yticks=[], title=title)
    axes.spines[:].set_visible(False)


def draw_box(axes: Any, box: Tensor, colour: str, text: str = "", **style: Any) -> None:
    x1, y1, x2, y2 = box.tolist()
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, **{"lw": 1.6, "ec": colour, **style}))
    if text:
        axes.text(
            x1, max(y1, 54), text, color="white", fontsize=7, va="bottom", bbox={"fc": colour, "ec": "none", "pad": 1}
        )


@figure(2)
def nms(before: Any, after: Any) -> None:
    boxes, scores, _ = candidates()
    keep = ops.nms(boxes, scores, 0.45)
    show(before, f"{len(boxes)} boxes of YOLOv3-tiny")
    show(after, f"the {len(keep)} that nms keeps at 0.45")
    for box, score in zip(boxes, scores, strict=True):
        draw_box(before, box, COLOURS[0], alpha=0.2 + 0.8 * float(score))
    for i in keep:
        draw_box(after, boxes[i], COLOURS[0], f"{scores[i]:.2f}")


@figure(2)
def batched_nms(together: Any, apart: Any) -> None:
    boxes, scores, labels = candidates(0.12)
    classes = labels.unique().tolist()
    calls = (
        (together, ops.nms(boxes, scores, 0.3), "nms"),
        (apart, ops.batched_nms(boxes, scores, labels, 0.3), "batched_nms"),
    )
    for axes, keep, name in calls:
        show(axes, f"{name}, 0.3: {len(keep)} boxes")
        for i in keep:
            draw_box(axes, boxes[i], COLOURS[classes.index(int(labels[i])) % 6], dog()[1].class_names[labels[i]])


@figure(1, 5.2)
def multiclass_nms(axes: Any) -> None:
    _, network, boxes, scores, _ = dog()
    found, values, labels, _, count = ops.multiclass_nms(boxes[None], scores[None], 0.25, 0.45, 10)
    show(axes, f"{len(boxes):,} boxes with {scores.shape[1]} scores each: count = {int(count)}, padded to 10")
    for i in range(int(count)):
        draw_box(axes, found[0, i], COLOURS[i % 6], f"{network.class_names[labels[0, i]]} {values[0, i]:.2f}")


@figure()
def soft_nms(axes: Any) -> None:
    boxes, scores, _ = candidates(0.12)
    order = scores.argsort(descending=True)[:24]
    boxes, scores = boxes[order], scores[order]
    axes.bar(range(len(scores)), scores, color=GREY, label="score before", width=0.9)
    for method, colour in (("linear", COLOURS[0]), ("gaussian", COLOURS[1]), ("naive", COLOURS[2])):
        dets, inds = ops.soft_nms(boxes, scores, method=method)
        axes.plot(inds, dets[:, 4], "o", color=colour, label=method, ms=5, alpha=0.85)
    axes.set(xlabel="box, best score first", ylabel="score", xticks=[])
    axes.legend(frameon=False)


def sliding() -> tuple[Tensor, Tensor, Tensor]:
    """A box of 100 x 100 and another of 100 x 60 that slides across it."""
    shift = torch.linspace(-250, 250, 501)
    fixed = torch.tensor([[0.0, 0, 100, 100]]).expand(501, 4).contiguous()
    return shift, fixed, torch.tensor([0.0, 20, 100, 80]) + shift[:, None] * torch.tensor([1.0, 0, 1, 0])


@figure()
def box_iou(axes: Any) -> None:
    shift, fixed, moving = sliding()
    for name in ("box_iou", "box_iof", "generalized_box_iou", "distance_box_iou", "complete_box_iou"):
        axes.plot(shift, getattr(ops, name)(fixed, moving, aligned=True), label=name)
    axes.axhline(0, color=GREY, lw=0.6)
    axes.set(xlabel="a box of 100 × 60 slides across one of 100 × 100: distance of the centres in pixels")
    axes.legend(frameon=False, fontsize=8)


@figure(2)
def box_iou_loss(loss: Any, slope: Any) -> None:
    shift, fixed, moving = sliding()
    for name in ("generalized_box_iou_loss", "distance_box_iou_loss", "complete_box_iou_loss"):
        boxes = moving.clone().requires_grad_()
        values = getattr(ops, name)(boxes, fixed)
        (gradient,) = torch.autograd.grad(values.sum(), boxes)
        loss.plot(shift, values.detach(), label=name)
        slope.plot(shift, gradient[:, ::2].sum(dim=1), label=name)
    loss.set(title="loss", xlabel="distance of the centres in pixels")
    slope.set(title="its slope along x: not 0 where nothing overlaps", xlabel="distance of the centres in pixels")
    loss.legend(frameon=False, fontsize=8)


@figure(1, 5.2)
def encode_boxes(axes: Any) -> None:
    anchor = torch.tensor([[120.0, 120, 240, 300]])
    truth = ops.batched_nms(*candidates(0.3), 0.45)
    dog_box = candidates(0.3)[0][truth[:1]]
    codes = ops.encode_boxes(dog_box, anchor)[0]
    show(axes, "t = ({:.2f}, {:.2f}, {:.2f}, {:.2f})".format(*codes.tolist()))
    draw_box(axes, anchor[0], GREY, "anchor", ls="--", lw=2)
    draw_box(axes, dog_box[0], COLOURS[0], "box")
    centres = [((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in (anchor[0].tolist(), dog_box[0].tolist())]
    axes.annotate("", centres[1], centres[0], arrowprops={"arrowstyle": "->", "color": "white", "lw": 2})


@figure(2)
def decode_boxes(sizes: Any, clip: Any) -> None:
    codes = torch.linspace(-3, 6, 400)
    zeros = torch.zeros_like(codes)
    anchor = torch.tensor([[0.0, 0, 16, 16]]).expand(400, 4).contiguous()
    boxes = ops.decode_boxes(torch.stack([zeros, zeros, codes, zeros], dim=1), anchor)
    sizes.semilogy(codes, boxes[:, 2] - boxes[:, 0])
    sizes.set(title="width of the box of an anchor of 16 pixels", xlabel="code of the width", ylabel="pixels")
    one = torch.tensor([[0.0, 0, 40, 40]])
    for i, code in enumerate(([0.5, 0.0, 0.0, 0.0], [0.0, 0.5, 0.7, 0.0], [-1.0, -0.5, 0.0, 0.7])):
        draw_box(clip, ops.decode_boxes(torch.tensor([code]), one)[0], COLOURS[i])
        clip.text(-35, 92 - 9 * i, f"t = {tuple(code)}", color=COLOURS[i])
    draw_box(clip, one[0], GREY, ls="--")
    clip.set(xlim=(-40, 100), ylim=(-25, 100), title="an anchor (grey) and what three codes mean", aspect="equal")


@figure(1, 5.2)
def match_anchors(axes: Any) -> None:
    boxes, scores, labels = candidates(0.3)
    truths = boxes[ops.batched_nms(boxes, scores, labels, 0.45)]
    anchors = torch.cat(
        [grid_anchors(cell_anchors(retinanet_sides(4.0 * s)), (416 // s,) * 2, (s, s)) for s in (16, 32, 64)]
    )
    matches = ops.match_anchors(anchors, truths)
    show(
        axes,
        f"{len(anchors):,} anchors: {int((matches >= 0).sum())} matched, {int((matches == -2).sum())} ignored (white)",
    )
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    axes.plot(*centres[matches == -2].T, "o", color="white", ms=2.5)
    for i, truth in enumerate(truths):
        draw_box(axes, truth, COLOURS[i % 6])
        axes.plot(*centres[matches == i].T, "o", color=COLOURS[i % 6], ms=3)
        for anchor in anchors[matches == i][:40]:
            draw_box(axes, anchor, COLOURS[i % 6], lw=0.4, alpha=0.6)


@figure(1, 5.2)
def match_cells(axes: Any) -> None:
    boxes, scores, labels = candidates(0.3)
    truths = boxes[ops.batched_nms(boxes, scores, labels, 0.45)]
    priors = torch.tensor([[10.0, 14], [23, 27], [37, 58], [81, 82], [135, 169], [344, 319]])
    predictions = dog()[2][: 13 * 13 * 3][None]
    counts = torch.tensor([len(truths)])
    _, predictors = ops.match_cells(predictions, truths, counts, (13, 13), (416, 416), "shape", priors, [3, 4, 5], 0.5)
    show(axes, "the cell, and of its three priors the one, that each object trains")
    for k in range(14):
        axes.axvline(32 * k, color="white", lw=0.4)
        axes.axhline(32 * k, color="white", lw=0.4)
    for i, (truth, row) in enumerate(zip(truths, predictors.tolist(), strict=True)):
        draw_box(axes, truth, COLOURS[i % 6])
        if row >= 0:
            y, x = divmod(row // 3, 13)
            axes.add_patch(Rectangle((32 * x, 32 * y), 32, 32, fc=COLOURS[i % 6], alpha=0.55))
            centre, half = torch.tensor([32 * x + 16.0, 32 * y + 16.0]), priors[3 + row % 3] / 2
            draw_box(axes, torch.cat([centre - half, centre + half]), COLOURS[i % 6], ls=":")


@figure()
def hard_negative_mining(axes: Any) -> None:
    _, _, boxes, scores, _ = dog()
    kept = candidates(0.3)
    truths = kept[0][ops.batched_nms(*kept, 0.45)]
    positive = ops.match_anchors(boxes, truths, mode="threshold") >= 0
    loss = -torch.log(torch.where(positive, scores.amax(dim=1), 1 - scores.amax(dim=1)).clamp(min=1e-6))
    selected = ops.hard_negative_mining(loss[None], positive[None])[0]
    order = loss.argsort(descending=True)[:160]
    colours = [COLOURS[0] if positive[i] else COLOURS[1] if selected[i] else GREY for i in order]
    axes.bar(range(len(order)), loss[order], color=colours, width=1.0)
    for colour, text in (
        (COLOURS[0], "positive"),
        (COLOURS[1], "negative taken, 3 for each positive"),
        (GREY, "left out"),
    ):
        axes.bar([0], [0], color=colour, label=f"{text}")
    axes.set(xlabel=f"the boxes of highest loss, of {len(loss):,}", ylabel="loss", xticks=[], yscale="log")
    axes.legend(frameon=False)


@figure(2)
def sigmoid_focal_loss(loss: Any, slope: Any) -> None:
    x = torch.linspace(-6, 6, 400)
    for gamma in (0.0, 0.5, 1.0, 2.0, 5.0):
        logits = x.clone().requires_grad_()
        values = ops.sigmoid_focal_loss(logits, torch.ones_like(x), alpha=-1, gamma=gamma)
        (gradient,) = torch.autograd.grad(values.sum(), logits)
        loss.plot(x.sigmoid(), values.detach(), label=f"γ = {gamma:g}")
        slope.plot(x, gradient)
    loss.set(xlabel="probability of the true label", ylabel="loss", ylim=(0, 5), title="figure 1 of the paper")
    slope.set(xlabel="logit", title="the gradient that is written in the same pass")
    loss.legend(frameon=False)


@figure()
def softmax_focal_loss(axes: Any) -> None:
    x = torch.linspace(-8, 8, 400)
    logits = torch.stack([x, torch.zeros_like(x)], dim=1)
    for gamma in (0.0, 1.0, 2.0, 5.0):
        values = ops.softmax_focal_loss(logits, torch.zeros(400, dtype=torch.int64), gamma, -1.0, reduction="none")
        axes.plot(logits.softmax(dim=1)[:, 0], values, label=f"γ = {gamma:g}")
    axes.set(xlabel="probability of the row's class", ylabel="loss", ylim=(0, 5))
    axes.legend(frameon=False)


@functools.cache
def tree_path() -> tuple[list[str], Tensor, Tensor, Tensor]:
    """On YOLO9000's tree, from drawn logits that favour one node: names, conditional and absolute of its path."""
    tree = WordTree.read("9k.tree")
    names = (ASSETS / "9k.names").read_text(encoding="utf-8").splitlines()
    parents = torch.tensor(tree.parents)
    logits = torch.randn(len(tree), generator=torch.Generator().manual_seed(0))
    path = [names.index("Norfolk terrier")]
    while parents[path[0]] >= 0:
        path.insert(0, int(parents[path[0]]))
    logits[path] += torch.linspace(9, 4, len(path))
    conditional = ops.tree_softmax(logits[None], parents)
    walk = ops.tree_predict(conditional, parents)[0]
    return (
        [names[i] for i in path],
        conditional[0, path],
        ops.tree_probabilities(conditional, parents)[0, path],
        walk == torch.tensor(path),
    )


@figure(height=3.4)
def tree_softmax(axes: Any) -> None:
    names, conditional, _, _ = tree_path()
    axes.barh(names, conditional, color=COLOURS[0])
    axes.invert_yaxis()
    axes.set(xlabel="P(node | parent): the share of a node in the softmax of it and its siblings", xlim=(0, 1))


@figure(height=3.4)
def tree_predict(axes: Any) -> None:
    names, _, absolute, end = tree_path()
    axes.barh(names, absolute, color=[COLOURS[1] if here else COLOURS[0] for here in end])
    axes.axvline(0.5, color=GREY, ls="--")
    axes.invert_yaxis()
    axes.set(xlabel="absolute probability; the walk goes on above 0.5 and ends at the orange node", xlim=(0, 1))


@figure(1, 5.2)
def yolo_decode(axes: Any) -> None:
    _, network, _, _, x = dog()
    with torch.no_grad():
        raw = network.forward_heads(x)[0]
    anchors = torch.tensor([[81.0, 82], [135, 169], [344, 319]])
    boxes, objectness, _ = ops.yolo_decode(raw, anchors, (416, 416))
    show(axes, "the head of 13 × 13 cells: brightest are the cells of highest objectness")
    axes.imshow(
        objectness.reshape(13, 13, 3).amax(dim=2), extent=(0, 416, 416, 0), alpha=0.45, cmap="viridis", vmin=0, vmax=1
    )
    axes.set(xlim=(0, 416), ylim=(364, 52))
    for i in objectness[0].topk(12).indices:
        draw_box(axes, boxes[0, i], COLOURS[1], lw=1.2, alpha=0.3 + 0.7 * float(objectness[0, i]))


@figure(2)
def anchor_kmeans(sizes: Any, elbow: Any) -> None:
    with warnings.catch_warnings():  # of boxes without a width, which it leaves out
        warnings.simplefilter("ignore", DataWarning)
        boxes = load_dataset(ROOT / "tests" / "data" / "bccd").boxes
    wh = (boxes[:, 2:] - boxes[:, :2]).float()
    anchors, iou = ops.anchor_kmeans(wh, 5)
    sizes.plot(*wh.T, ".", color=GREY, ms=3)
    sizes.plot(*anchors.T, "X", color=COLOURS[1], ms=9)
    sizes.set(title=f"5 anchors of {len(wh)} blood cells: average IoU {iou:.2f}", xlabel="width", ylabel="height")
    elbow.plot(range(1, 10), ops.anchor_elbow(wh, 9), "o-")
    elbow.set(title="anchor_elbow: how many pay", xlabel="anchors", ylabel="average IoU")
