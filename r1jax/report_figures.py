"""The report's figures, as SVG that takes the page's own colour of text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Curve = tuple[str, list[float], list[float]]  # label, steps, values

COLOURS = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#e11d48", "#ca8a04")
INK = "#010203"  # drawn in this, then replaced by the page's own text colour
SMOOTHED_FROM = 60  # points from which a running mean is drawn over the raw curve


def lines(curves: Sequence[Curve], xlabel: str = "step", *, legend: bool | None = None) -> str:
    """Curves over steps; over a noisy one its running mean. `legend` None: they are named where there are several."""
    figure = Figure(figsize=(4.6, 2.5), layout="constrained")
    axes = figure.subplots()
    for i, (label, steps, values) in enumerate(curves):
        colour = COLOURS[i % len(COLOURS)]
        smooth = len(values) >= SMOOTHED_FROM and _is_noisy(values)
        marker = "o" if len(values) < 30 else None
        axes.plot(steps, values, color=colour, alpha=0.3 if smooth else 1.0, lw=1.4, marker=marker, ms=3)
        axes.plot([], [], color=colour, lw=1.8, label=label)
        if smooth:
            axes.plot(steps, _running_mean(values, len(values) // 20), color=colour, lw=1.8)
    axes.set_xlabel(xlabel, fontsize=8, color=INK)
    if len(curves) > 1 if legend is None else legend:
        _legend(figure)
    return _svg(figure, axes)


def bars(names: Sequence[str], measures: dict[str, list[float | None]]) -> str:
    """Groups of bars, one group a name, with shares written above them in per cent; None leaves a gap."""
    figure = Figure(figsize=(max(4.6, 0.9 * len(names) + 1.2), 2.7), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(measures)
    for i, (measure, values) in enumerate(measures.items()):
        at = [j + (i - (len(measures) - 1) / 2) * width for j in range(len(names))]
        shown = [(x, value) for x, value in zip(at, values, strict=True) if value is not None]
        colour = COLOURS[i % len(COLOURS)]
        axes.bar([x for x, _ in shown], [v for _, v in shown], 0.92 * width, color=colour, label=measure)
        for x, value in shown:
            axes.text(x, value + 0.015, f"{100 * value:.0f}", ha="center", fontsize=7, color=INK)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(0, 1.1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0], ["0%", "25%", "50%", "75%", "100%"])
    _legend(figure)
    return _svg(figure, axes)


def _legend(figure: Figure) -> None:
    figure.legend(loc="outside upper left", ncols=4, fontsize=8, frameon=False, labelcolor=INK, handlelength=1.2)


def _svg(figure: Figure, axes: Axes) -> str:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, labelsize=8)
    axes.yaxis.get_offset_text().set(color=INK, fontsize=8)
    axes.grid(color="#888888", alpha=0.25, lw=0.6)
    axes.set_axisbelow(True)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "r1jax"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")


def _is_noisy(values: list[float]) -> bool:
    """Whether the curve turns at more than a quarter of its points: a schedule does not, a measured figure does."""
    steps = [b - a for a, b in pairwise(values)]
    return 4 * sum(a * b < 0 for a, b in pairwise(steps)) > len(values)


def _running_mean(values: list[float], half: int) -> list[float]:
    """Mean over up to `half` neighbours on either side."""
    totals = [0.0]
    for value in values:
        totals.append(totals[-1] + value)
    spans = [(max(0, i - half), min(len(values), i + half + 1)) for i in range(len(values))]
    return [(totals[end] - totals[start]) / (end - start) for start, end in spans]
