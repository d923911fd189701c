"""The races of the README as a picture: how many times pydet's time the best other library takes."""

from __future__ import annotations

from pathlib import Path

PEER, REFERENCE, TEXT = "#2f9e6e", "#8a8f98", "#808890"
"""Legible on white and on black: the picture has no background of its own."""


def draw(bars: list[tuple[str, str, float]], path: Path) -> None:
    """Writes an SVG of bars from the top down: label, opponent and ratio of each. Needs matplotlib (".[bench]")."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "pydet", "font.size": 10, "text.color": TEXT, "xtick.color": TEXT})
    from matplotlib import pyplot

    labels, opponents, ratios = zip(*bars, strict=True)
    figure, axes = pyplot.subplots(figsize=(9, 0.36 * len(labels) + 0.9), layout="constrained")
    colours = [REFERENCE if opponent == "reference" else PEER for opponent in opponents]
    drawn = axes.barh(range(len(labels)), [ratio - 1 for ratio in ratios], left=1, color=colours, height=0.7)
    axes.bar_label(drawn, [f" {r:.3g}× {o}" for r, o in zip(ratios, opponents, strict=True)], color=TEXT)
    axes.set(xscale="log", xlim=(1, max(ratios) * 6), yticks=range(len(labels)))
    axes.set_yticklabels(labels, color=TEXT)
    axes.invert_yaxis()
    axes.set_xlabel("time of the best other library (grey: of the definition in PyTorch) over pydet's", color=TEXT)
    axes.grid(axis="x", color=TEXT, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.savefig(path, transparent=True, metadata={"Date": None})
