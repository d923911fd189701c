"""The figures of the detectors' papers, drawn from the networks that the definitions build.

A block is a run of layers with maps of one size: as high as the side of the map, as wide as it has layers. What
predicts stands below the maps that it reads, as in YOLO's figure 3, SSD's figure 2 and RetinaNet's figure 3.
"""

from __future__ import annotations

import functools
from typing import Any

from matplotlib.patches import Rectangle
from operator_figures import COLOURS, figure

from pydet.models import MODELS
from pydet.models.summary import Row, at_published_size

SHOWN = ("yolov1-paper", "yolov2", "yolo9000", "yolov3", "ssd300", "retinanet-resnet50")
HEADS = ("detection", "region", "yolo")
UNSEEN = ("FrozenBatchNorm2d", "BatchNorm2d", "GroupNorm", "dropout", "route", "shortcut")


def tier(row: Row) -> int:
    """0 for the backbone, 1 for a pyramid on it, 2 for what predicts."""
    if row.kind in HEADS or row.name.startswith("head."):
        return 2
    return 1 if ".fpn." in row.name else 0


def blocks(rows: list[Row]) -> list[tuple[int, list[Row]]]:
    """Runs of layers of one tier with maps of one size, in the order in which they are computed."""
    found: list[tuple[int, list[Row]]] = []
    for row in rows:
        if row.kind in UNSEEN:
            continue
        if found and found[-1][0] == tier(row) and found[-1][1][-1].shape[1:] == row.shape[1:]:
            found[-1][1].append(row)
        else:
            found.append((tier(row), [row]))
    return found


def columns(found: list[tuple[int, list[Row]]]) -> list[tuple[int, float, list[Row]]]:
    """Tier, left edge and layers of each block: the backbone from left to right, the rest below maps of its size."""
    placed, right = [], 0.0
    edges: dict[tuple[int, ...], float] = {}
    for level, rows in found:
        size = rows[-1].shape[1:]
        if level == 0 or size not in edges:
            edges[size] = right
            right += 1.55
        placed.append((level, edges[size], rows))
    return placed


def draw(axes: Any, name: str) -> None:
    _, rows = at_published_size(MODELS[name])
    placed = columns(blocks(rows))
    tiers = sorted({level for level, _, _ in placed})
    largest = max(max(rows[0].shape[1:]) for _, _, rows in placed)
    below: dict[float, float] = {}
    seen: dict[tuple[int, float], int] = {}
    for level, x, layers in placed:
        channels, *size = layers[-1].shape
        height = 0.25 + 1.75 * (max(size, default=1) / largest) ** 0.5
        top = -2.9 * tiers.index(level) - (2 - height) / 2 * (level == 0)
        turn = seen[level, x] = seen.get((level, x), -1) + 1
        if turn:  # classes and boxes of one map are two blocks: below the first and its lines of text
            top = below[x] - 1.2
        width = min(0.35 + 0.07 * len(layers), 1.3)
        colour = COLOURS[(0, 2, 1)[level]]
        axes.add_patch(Rectangle((x, top - height), width, height, fc=colour, alpha=0.8, ec="white"))
        count = "1 layer" if len(layers) == 1 else f"{len(layers)} layers"
        text = f"{channels}\n{'×'.join(map(str, size))}\n{count}"
        if level == 2:
            text = f"{layers[-1].kind}\n{channels}×{'×'.join(map(str, size))}" if layers[-1].kind in HEADS else text
        axes.text(x, top - height - 0.06, text, fontsize=7, va="top", linespacing=1.2)
        if level and not turn:
            axes.plot([x + 0.2] * 2, [below.get(x, top) - 0.8, top], color=COLOURS[(0, 2, 1)[level]], lw=0.8, ls=":")
        below[x] = top - height
    bottom = min(below.values()) - 1.1
    axes.set(xlim=(-0.1, max(x for _, x, _ in placed) + 1.6), ylim=(bottom, 0.1))
    axes.set_axis_off()


for _name in SHOWN:
    _draw = functools.partial(draw, name=_name)
    _draw.__name__ = _name  # type: ignore[attr-defined]
    figure(1, 8.0, 5.6 if _name.startswith("retinanet") else 3.4)(_draw)
