"""The benchmarks' section on growth, with its figure, from the lines of `bench/growth.py`.

python bench/page_growth.py runs/growth.jsonl --figure docs/benchmarks_growth.svg
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import math
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Line = dict[str, Any]
TITLES = {
    "update-length": ("update", "tokens of a row"),
    "prompt-length": ("rollout, 16 new tokens", "tokens of a prompt"),
    "generated-length": ("rollout", "tokens generated"),
    "group": ("rollout", "samples of a prompt"),
    "batch": ("update and rollout", "rows, prompts"),
    "experts": ("update and rollout, 4 active", "experts"),
    "width": ("update and rollout", "width"),
}
COLOURS = ("#3b82f6", "#f97316")
GREY = "#808080"
INTRO = """## How cost grows

One thing grows, all else stays: a small policy, so that 32,768 tokens take seconds (`bench/growth.py` has the shapes).
Each point is a process of its own. Seconds are of the processors, medians of {n}, bars from the least to the most;
memory is the process's peak above what it held before it compiled, so it has the compiler's own in it, a few tens to a
few hundred MiB. Dotted lines grow in proportion, dashed ones with the square.

![processor seconds and memory against length, batch, experts and width]({figure})

FLOPs are the model's, of each sequence whole. A rollout reads a prompt once for its group, so it grows less than they
do while the prompt is most of the work; and few sequences leave a decode step waiting for memory rather than
arithmetic. Experts that rest take no FLOPs, but the optimizer passes over their weights.

Slopes between neighbouring points, in powers of the size (1: in proportion, 2: with its square):
"""


def section(lines: list[Line], figure: str) -> str:
    """Markdown; "" where growth was not measured."""
    found = [line for line in lines if line["measure"] == "growth" and "failed" not in line]
    if not found:
        return ""
    counts = sorted({line["n"] for line in found})
    many = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    parts = [INTRO.format(n=many, figure=figure), table(found), "\n" + bends(found)]
    failed = [line for line in lines if line["measure"] == "growth" and "failed" in line]
    parts += [f"- not measured: {x['axis']} {x['series']} {x['x']:,} ({x['failed']})" for x in failed]
    return "\n".join(parts)


def curves(lines: list[Line]) -> dict[tuple[str, str], list[Line]]:
    """(axis, series) -> its points, the smallest first."""
    keys = dict.fromkeys((line["axis"], line["series"]) for line in lines)
    return {
        key: sorted((x for x in lines if (x["axis"], x["series"]) == key), key=lambda x: x["x"])
        for key in sorted(keys, key=lambda key: list(TITLES).index(key[0]))
    }


def slope(a: Line, b: Line, key: str) -> float:
    """The power of the size that `key` grows with from one point to the next."""
    return math.log(b[key] / a[key]) / math.log(b["x"] / a["x"])


def table(lines: list[Line]) -> str:
    rows = ["| what grows | | sizes | processor s | slopes | FLOPs' slopes | MiB |", "| --- |" + " --- |" * 6]
    for (axis, series), points in curves(lines).items():
        pairs = list(itertools.pairwise(points))
        cells = (
            TITLES[axis][1],
            series or TITLES[axis][0],
            ", ".join(f"{p['x']:,}" for p in points),
            ", ".join(f"{p['cpu_s']:.3g}" for p in points),
            ", ".join(f"{slope(a, b, 'cpu_s'):.1f}" for a, b in pairs),
            ", ".join(f"{slope(a, b, 'flops'):.1f}" for a, b in pairs),
            ", ".join(f"{memory(p):.0f}" for p in points),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def memory(point: Line) -> float:
    """MiB that the work, and its compilation, took at most."""
    return max(0.0, point["peak_mib"] - point["base_mib"])


def crossing(points: list[Line]) -> float:
    """The length from which a token's pairs take more FLOPs than all else, from the shapes alone."""
    last = points[-1]
    a_pair = last["pair_flops"] / (last["x"] * (last["x"] + 1) / 2)
    a_token = (last["flops"] - last["pair_flops"]) / last["x"]
    return 2 * a_token / a_pair


def bends(lines: list[Line]) -> str:
    """From which length attention is the larger half, and the slopes measured before and after."""
    said = []
    for (axis, series), points in curves(lines).items():
        if axis not in ("update-length", "prompt-length") or len(points) < 3:
            continue
        half = crossing(points)
        turn = min(points[1:-1], key=lambda p: abs(math.log(p["x"] / half)))
        before, after = slope(points[0], turn, "cpu_s"), slope(turn, points[-1], "cpu_s")
        said.append(
            f"- {TITLES[axis][0]}, {series}: attention is half of the FLOPs from {half:,.0f} tokens on. Measured, the "
            f"slope is {before:.2f} up to {turn['x']:,} tokens and {after:.2f} from there on."
        )
    return "\n".join(said)


def figure(lines: list[Line]) -> str:
    """SVG: seconds above, memory below, a column an axis; both scales logarithmic."""
    found = [line for line in lines if line["measure"] == "growth" and "failed" not in line]
    axes_of = [axis for axis in TITLES if any(line["axis"] == axis for line in found)]
    whole = Figure(figsize=(2.5 * len(axes_of), 4.6), layout="constrained")
    panels = whole.subplots(2, len(axes_of), squeeze=False)
    for column, axis in enumerate(axes_of):
        series = {name: points for (a, name), points in curves(found).items() if a == axis}
        for colour, (name, points) in zip(COLOURS, series.items(), strict=False):
            _draw(panels[0][column], panels[1][column], points, name, colour)
        for panel, key in ((panels[0][column], "cpu_s"), (panels[1][column], "memory")):
            _guides(panel, next(iter(series.values())), key)
            panel.set_xlabel(TITLES[axis][1], fontsize=8)
        panels[0][column].set_title(TITLES[axis][0], fontsize=8)
        if any(series):
            panels[0][column].legend(fontsize=7, frameon=False)
    panels[0][0].set_ylabel("processor seconds", fontsize=8)
    panels[1][0].set_ylabel("MiB above the start", fontsize=8)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "r1jax"}):
        whole.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _draw(seconds: Axes, held: Axes, points: list[Line], name: str, colour: str) -> None:
    sizes, middle = [p["x"] for p in points], [p["cpu_s"] for p in points]
    low, high = zip(*(p["cpu_span"] for p in points), strict=True)
    bars = [[m - x for m, x in zip(middle, low, strict=True)], [x - m for m, x in zip(middle, high, strict=True)]]
    seconds.errorbar(sizes, middle, yerr=bars, color=colour, marker="o", ms=3, lw=1.4, capsize=2, label=name or None)
    held.plot(sizes, [max(1.0, memory(p)) for p in points], color=colour, marker="o", ms=3, lw=1.4)
    for panel in (seconds, held):
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.tick_params(labelsize=7, which="both")
        panel.grid(alpha=0.25, lw=0.6)
        panel.spines[["top", "right"]].set_visible(False)


def _guides(panel: Axes, points: list[Line], key: str) -> None:
    """Growth in proportion and with the square, through the curve's last point."""
    last = points[-1]
    top = last["cpu_s"] if key == "cpu_s" else max(1.0, memory(last))
    sizes = [p["x"] for p in points]
    low, high = panel.get_ylim()
    limits = (min(low, high / 50), high)  # what hardly grows shall look it
    for power, style in ((1, ":"), (2, "--")):
        panel.plot(sizes, [top * (x / last["x"]) ** power for x in sizes], color=GREY, ls=style, lw=0.8)
    panel.set_ylim(limits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lines", type=Path)
    parser.add_argument("--figure", type=Path, required=True)
    args = parser.parse_args()
    lines = [json.loads(line) for line in args.lines.read_text(encoding="utf-8").splitlines()]
    args.figure.write_text(figure(lines), encoding="utf-8")
    print(section(lines, args.figure.name))


if __name__ == "__main__":
    main()
