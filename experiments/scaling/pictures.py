"""The two pictures of docs/scaling.md: bounds against the number of chips."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from experiments.scaling.bounds import Bound

COLOURS = {"v5p": "#0072b2", "v6e": "#d55e00", "H200": "#009e73"}
WHAT = {
    "update": ("MFU of an update, %", lambda b, time: 100 * b.model_flops / b.peak / time),
    "token": ("tokens/s a chip", lambda b, time: b.tokens / time / b.chips),
}


def draw(name: str, found: dict[tuple[str, str], list[Bound]], path: Path) -> None:
    """One panel a policy, one band a chip: from no overlap to all. It begins where the policy begins to fit."""
    title, value = WHAT[name]
    policies = list(dict.fromkeys(policy for policy, _ in found))
    with matplotlib.rc_context(
        {"svg.hashsalt": name, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    ):
        figure = Figure(figsize=(10, 3), layout="constrained")
        axes = figure.subplots(1, len(policies))
        for ax, policy in zip(axes, policies, strict=True):
            for chip, colour in COLOURS.items():
                line = found[policy, chip]
                counts = [b.chips for b in line]
                high = [value(b, b.least) for b in line]
                low = [value(b, b.summed) for b in line]
                ax.plot(counts, high, "o-", color=colour, label=chip, markersize=3, linewidth=1)
                ax.plot(counts, low, "--", color=colour, linewidth=1)
                ax.fill_between(counts, low, high, color=colour, alpha=0.1, linewidth=0)
            ax.set_xscale("log", base=2)
            ax.set_xticks([4, 16, 64, 256, 1024, 4096], ["4", "16", "64", "256", "1024", "4096"])
            ax.set_ylim(bottom=0)
            ax.set_title(policy, fontsize=9)
            ax.set_xlabel("chips")
        axes[0].set_ylabel(title)
        axes[-1].legend(frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})
