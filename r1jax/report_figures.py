"""The report's figures, as SVG that takes the page's own colour of text."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from itertools import pairwise

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Curve = tuple[str, list[float], list[float]]  # label, steps, values

COLOURS = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#e11d48", "#ca8a04")
STYLES = ("-", "--", ":", "-.")  # of the first six curves, the next six, ..
INK = "#010203"  # drawn in this, then replaced by the page's own text colour
WIDTH = 4.6  # inches, of a figure of one column
SMOOTHED_FROM = 60  # points from which a running mean is drawn over the raw curve


def lines(curves: Sequence[Curve]) -> str:
    """Curves over steps; over a noisy one its running mean."""
    figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
    axes = figure.subplots()
    for i, (label, steps, values) in enumerate(curves):
        colour = COLOURS[i % len(COLOURS)]
        axes.plot([], [], color=colour, lw=1.8, label=label)
        _draw(axes, steps, values, colour, "o" if len(values) < 30 else None)
    axes.set_xlabel("step", fontsize=8, color=INK)
    if len(curves) > 1:
        _legend(figure)
    return _svg(figure, axes)


def course(runs: Mapping[str, Sequence[Curve]]) -> str:
    """Curves of stages one after another, a colour a run; equal stages of several runs stand one above the other."""
    longest: dict[str, float] = {}
    for curves in runs.values():
        for stage, steps, _ in curves:
            longest[stage] = max(longest.get(stage, 0.0), steps[-1])
    starts = dict(zip(longest, [0.0, *itertools.accumulate(longest.values())], strict=False))
    figure = Figure(figsize=(_width(len(longest)), 2.7), layout="constrained")
    axes = figure.subplots()
    for i, (run, curves) in enumerate(runs.items()):
        colour, style = COLOURS[i % len(COLOURS)], STYLES[i // len(COLOURS) % len(STYLES)]
        axes.plot([], [], style, color=colour, lw=1.8, label=run)
        for stage, steps, values in curves:
            _draw(axes, [starts[stage] + step for step in steps], values, colour, None, style)
    top = axes.get_xaxis_transform()
    for i, (stage, start) in enumerate(starts.items()):
        axes.axvline(start, color="#888888", lw=0.6, ls=":")
        height = 1.02 if i % 2 == 0 else 1.09  # so that the names of short stages do not meet
        axes.text(start + longest[stage] / 2, height, stage, transform=top, ha="center", fontsize=7, color=INK)
    axes.set_xlabel("steps of these stages", fontsize=8, color=INK)
    axes.margins(x=0.01)
    if len(runs) > 1:
        _legend(figure)
    return _svg(figure, axes)


def bars(names: Sequence[str], measures: Mapping[str, Sequence[float | None]], *, shares: bool = True) -> str:
    """Groups of bars, one group a name, their values above them, shares in per cent; None leaves a gap."""
    figure = Figure(figsize=(_width(len(names)), 2.7), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(measures)
    most = 1.0 if shares else max(value for values in measures.values() for value in values if value is not None)
    for i, (measure, values) in enumerate(measures.items()):
        at = [j + (i - (len(measures) - 1) / 2) * width for j in range(len(names))]
        shown = [(x, value) for x, value in zip(at, values, strict=True) if value is not None]
        colour = COLOURS[i % len(COLOURS)]
        axes.bar([x for x, _ in shown], [v for _, v in shown], 0.92 * width, color=colour, label=measure)
        for x, value in shown:
            text = f"{100 * value:.0f}" if shares else f"{value:.3g}"
            axes.text(x, value + 0.015 * most, text, ha="center", fontsize=7, color=INK)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(0, 1.1 * (most or 1.0))
    if shares:
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0], ["0%", "25%", "50%", "75%", "100%"])
    if len(measures) > 1:
        _legend(figure)
    return _svg(figure, axes)


def columns(stages: int) -> int:
    """Of the page's three columns, how many a figure takes that names so many stages."""
    return min(3, round(_width(stages) / WIDTH + 0.35))


def _width(stages: int) -> float:
    """Inches that so many stages' names want."""
    return max(WIDTH, 0.9 * stages + 1.2)


def _draw(
    axes: Axes, steps: Sequence[float], values: list[float], colour: str, marker: str | None, style: str = "-"
) -> None:
    """A curve; of a noisy one the running mean over a pale one."""
    smooth = len(values) >= SMOOTHED_FROM and _is_noisy(values)
    axes.plot(steps, values, color=colour, alpha=0.3 if smooth else 1.0, lw=1.4, ls=style, marker=marker, ms=3)
    if smooth:
        axes.plot(steps, _running_mean(values, len(values) // 20), color=colour, lw=1.8, ls=style)


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
