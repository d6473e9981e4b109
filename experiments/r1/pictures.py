"""The findings' pictures: accuracy stage by stage, length over R1-Zero's steps, accuracy over budgets of thinking."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.r1.claims import accuracy
from experiments.r1.intervals import Measure, mean
from experiments.r1.records import ARITHMETIC, Recipe

LADDER = ("base", "zero", "zero_language", "cold_start", "reasoning", "sft2", "all", "general", "student", "distilled",
          "alone", "ppo")  # fmt: skip
COLOURS = ("#3b82f6", "#f97316", "#10b981", "#a855f7")
INK = "#7d8590"  # legible on white and on black
WINDOW = 9  # steps of the running mean


def ladder(runs: Sequence[Recipe]) -> str | None:
    """pass@1 on arithmetic by stage, a bar a run. None where no stage was evaluated."""
    names = [name for name in LADDER if all(ARITHMETIC in run.problems.get(name, {}) for run in runs)]
    if not names:
        return None
    figure, axes = _canvas(6.6)
    width = 0.8 / len(runs)
    for i, run in enumerate(runs):
        at = np.arange(len(names)) + (i - (len(runs) - 1) / 2) * width
        measures = [accuracy(run.task(name)) for name in names]
        axes.bar(at, [100 * m.value for m in measures], 0.9 * width, color=COLOURS[i % 4], label=f"seed {run.seed}")
        axes.errorbar(at, [100 * m.value for m in measures], _errors(measures), fmt="none", ecolor=INK, lw=1)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_ylim(0, 100)
    axes.set_ylabel("pass@1, %", fontsize=8, color=INK)
    return _svg(figure, axes)


def length(runs: Sequence[Recipe]) -> str | None:
    """Mean tokens of a completion over R1-Zero's steps."""
    curves = [(run, run.series("zero", "completion/mean_length")) for run in runs if run.metrics.get("zero")]
    if not curves:
        return None
    figure, axes = _canvas(4.6)
    for i, (run, values) in enumerate(curves):
        smooth = np.convolve(values, np.ones(WINDOW) / WINDOW, "valid") if len(values) >= WINDOW else values
        skipped = (len(values) - len(smooth)) // 2
        axes.plot(np.arange(1, len(values) + 1), values, color=COLOURS[i % 4], alpha=0.3, lw=1)
        axes.plot(np.arange(len(smooth)) + 1 + skipped, smooth, color=COLOURS[i % 4], label=f"seed {run.seed}")
    axes.set_xlabel("step of zero", fontsize=8, color=INK)
    axes.set_ylabel("tokens of a completion", fontsize=8, color=INK)
    return _svg(figure, axes)


def budget(runs: Sequence[Recipe]) -> str | None:
    """pass@1 over tokens of thinking; solid is the last policy, dashed R1-Zero."""
    if not any(run.budgets for run in runs):
        return None
    figure, axes = _canvas(4.6)
    for i, run in enumerate(runs):
        for stage, curve in run.budgets.items():
            at = sorted(curve)
            measures = [mean(curve[tokens].mean(axis=1)) for tokens in at]
            style = "-" if stage == "general" else "--"
            axes.errorbar(at, [100 * m.value for m in measures], _errors(measures), fmt=f"o{style}", ms=3, lw=1.4,
                          color=COLOURS[i % 4], label=f"{stage}, seed {run.seed}")  # fmt: skip
    axes.set_xlabel("tokens of thinking", fontsize=8, color=INK)
    axes.set_ylabel("pass@1, %", fontsize=8, color=INK)
    axes.set_ylim(0, 100)
    return _svg(figure, axes)


def _errors(measures: Sequence[Measure]) -> list[list[float]]:
    """How far the intervals reach below and above, in per cent."""
    return [
        [100 * max(m.value - m.low, 0.0) for m in measures],
        [100 * max(m.high - m.value, 0.0) for m in measures],
    ]


def _canvas(width: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, 2.9), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure, axes: Axes) -> str:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, labelsize=8)
    axes.grid(color=INK, alpha=0.25, lw=0.6)
    axes.set_axisbelow(True)
    figure.legend(
        loc="outside upper left", ncols=2 if figure.get_figwidth() < 5 else 4, fontsize=8, frameon=False, labelcolor=INK
    )
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "r1jax"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
