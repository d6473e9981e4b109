"""Pictures of a sweep: final figures with their intervals, and curves over steps with their bands."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from experiments.reading import Experiment, by_seed, curves, label, means, scale

# Okabe and Ito's colours, told apart by the colour-blind; black is the standard arm's.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
STYLES = ("-", "--", "-.", ":")
WIDTH = 9.0  # inches, of a notebook's page


def final(experiment: Experiment, measures: Sequence[str], task: str | None = None) -> Figure:
    """A panel a measure, a row an arm: the mean over seeds with its interval, and every seed as a small dot."""
    figure, panels = _panels(len(measures), 0.65 + 0.32 * len(experiment.arms), share_rows=True)
    for axes, measure in zip(panels, measures, strict=True):
        figures = by_seed(experiment, measure, task).reindex(experiment.arms) * scale(measure)
        _dots(axes, experiment, figures)
        axes.set_xlabel(label(measure))
    return figure


def against(experiment: Experiment, measures: Sequence[str], standard: str | None = None) -> Figure:
    """The same of differences to the standard arm, paired by seed."""
    standard = standard or experiment.standard
    figure, panels = _panels(len(measures), 0.75 + 0.32 * max(len(experiment.arms) - 1, 1), share_rows=True)
    for axes, measure in zip(panels, measures, strict=True):
        figures = by_seed(experiment, measure) * scale(measure)
        _dots(axes, experiment, (figures - figures.loc[standard]).drop(standard))
        axes.axvline(0, color="#888888", lw=1)
        axes.set_xlabel(f"{label(measure).replace('(%)', '(points)')}\nmore than {standard}")
    return figure


def over_steps(experiment: Experiment, measures: Sequence[str], arms: Sequence[str] = (), window: int = 5) -> Figure:
    """A panel a measure, a line an arm: means over seeds of running means, with their intervals as bands.

    Args:
      arms: those to draw; empty is all. One that lacks a measure is left out of its panel.
      window: steps of the running mean.
    """
    figure, panels = _panels(len(measures), 3.0)
    arms = [arm for arm in experiment.arms if arm in (arms or experiment.arms)]
    for axes, measure in zip(panels, measures, strict=True):
        there = experiment.steps.dropna(subset=[measure])["arm"].unique()
        drawn = {arm: curves(experiment, measure, arm, window) for arm in arms if arm in there}
        for arm, curve in drawn.items():
            style = _style(experiment, arm)
            y = curve[["mean", "low", "high"]] * scale(measure)
            axes.plot(curve["step"], y["mean"], lw=1.8, **style)
            axes.fill_between(curve["step"], y["low"], y["high"], color=style["color"], alpha=0.12, lw=0)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(label(measure))
        _limit(axes, [curve["mean"] * scale(measure) for curve in drawn.values()])
    legend = [Line2D([], [], lw=1.8, **_style(experiment, arm)) for arm in arms]
    figure.legend(legend, arms, loc="outside upper left", ncols=6, frameon=False, fontsize=9)
    return figure


def _panels(count: int, height: float, share_rows: bool = False) -> tuple[Figure, list[Axes]]:
    figure, grid = plt.subplots(
        1, count, figsize=(WIDTH, height), layout="constrained", squeeze=False, sharey=share_rows
    )
    for axes in grid[0]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#888888", alpha=0.25, lw=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=9)
    return figure, list(grid[0])


def _dots(axes: Axes, experiment: Experiment, figures: pd.DataFrame) -> None:
    for row, (arm, seeds) in enumerate(figures.iterrows()):
        colour = _style(experiment, arm)["color"]
        if seeds.notna().any():
            mean, low, high, count = means(figures.loc[[arm]]).iloc[0]
            axes.plot(seeds, [row + 0.18] * len(seeds), "o", ms=3, color=colour, alpha=0.45)
            axes.plot(mean, row, "o", ms=6, color=colour)
            if count > 1:
                axes.plot([low, high], [row, row], color=colour, lw=2)
    axes.set_yticks(range(len(figures)), figures.index)
    axes.set_ylim(len(figures) - 0.5, -0.6)


def _limit(axes: Axes, lines: Sequence[pd.Series]) -> None:
    """The axis goes by the means: the interval of three seeds may be many times as wide as all of them."""
    low, high = min(line.min() for line in lines), max(line.max() for line in lines)
    if low < high:
        margin = 0.12 * (high - low)
        axes.set_ylim(low - margin, high + margin)


def _style(experiment: Experiment, arm: str) -> dict[str, str]:
    """An arm looks the same in every picture of its experiment; the standard one is black."""
    if not experiment.config.arms[arm]:
        return {"color": "#000000", "ls": "-"}
    at = [other for other in experiment.arms if experiment.config.arms[other]].index(arm)
    return {"color": COLOURS[at % len(COLOURS)], "ls": STYLES[at // len(COLOURS) % len(STYLES)]}
