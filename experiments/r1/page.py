"""The findings as a table for the terminal and as the page docs/findings.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from experiments.r1 import claims
from experiments.r1.intervals import Measure, together

SCRIPT = "python experiments/r1/findings.py"
MIB = 2**20
# The experiments that ask after a finding by themselves, with three seeds and arms beside it.
EXPERIMENTS = {
    "F1": ("format_reward", "algorithms"),
    "F2": ("loss_normalisation", "reward_hacking"),
    "F3": ("test_time_compute",),
    "F4": ("language_reward",),
    "F5": ("cold_start",),
    "F7": ("distillation",),
    "F8": ("test_time_compute",),
    "F9": ("algorithms",),
}
# unit -> (factor, decimals, sign in front, what follows)
UNITS = {
    "share": (100, 1, "", "%"),
    "points": (100, 1, "+", " points"),
    "times": (1, 2, "", "×"),
    "tokens": (1, 1, "", " tokens"),
    "more tokens": (1, 1, "+", " tokens"),
    "nats": (1, 2, "", " nats"),
    "more nats": (1, 2, "+", " nats"),
    "seconds": (1, 2, "", " s"),
    "bytes": (1 / MIB, 1, "", " MiB"),
}


class Result(NamedTuple):
    """A finding over the runs."""

    key: str
    title: str
    rows: tuple[tuple[claims.Row, ...], ...]  # of each run the same rows, but for their measures
    missing: str  # why it could not be measured; "" where it was


def verdict(result: Result) -> str:
    """'reproduced' where each row that has a rule keeps it in every run."""
    if result.missing:
        return "not measured"
    kept = all(row.rule.holds(row.measure) for rows in result.rows for row in rows if row.rule)
    return "reproduced" if kept else "not reproduced"


def shown(measure: Measure, unit: str) -> str:
    """A figure with its interval, such as '89.7% [88.1, 91.2]'; one without error alone."""
    factor, decimals, sign, after = UNITS[unit]

    def number(value: float) -> str:
        return f"{factor * value:{sign}.{decimals}f}"

    if not math.isfinite(measure.value):
        return "none"
    if math.isclose(measure.low, measure.high):
        return f"{number(measure.value)}{after}"
    return f"{number(measure.value)}{after} [{number(measure.low)}, {number(measure.high)}]"


def rule_text(row: claims.Row) -> str:
    if row.rule is None:
        return ""
    factor, decimals, sign, after = UNITS[row.unit]
    return f"{row.rule.side} {factor * row.rule.bound:{sign if row.rule.bound else ''}.{decimals}f}{after}"


def cells(result: Result, index: int) -> list[str]:
    """A row's figures in each run, and of several their mean."""
    rows = [rows[index] for rows in result.rows]
    values = [shown(row.measure, row.unit) for row in rows]
    if len(rows) > 1:
        values.append(shown(together([row.measure for row in rows]), rows[0].unit))
    return values


def columns(seeds: Sequence[int]) -> list[str]:
    names = [f"seed {seed}" for seed in seeds]
    return [*names, "both" if len(names) == 2 else "all"] if len(names) > 1 else names


def text(results: Sequence[Result], seeds: Sequence[int]) -> str:
    """Every row of every finding, in aligned columns."""
    lines = [["", *columns(seeds), "rule"]]
    breaks: dict[int, str] = {}
    for result in results:
        breaks[len(lines)] = f"{result.key}  {result.title}: {verdict(result)}" + (
            f" ({result.missing})" if result.missing else ""
        )
        for i, row in enumerate(result.rows[0] if result.rows else ()):
            lines.append([f"  {row.name}", *cells(result, i), rule_text(row)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    out = []
    for i, line in enumerate(lines):
        out += [breaks[i]] if i in breaks else []
        out.append("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return "\n".join(out + ([breaks[len(lines)]] if len(lines) in breaks else []))


def table(results: Sequence[Result], seeds: Sequence[int], command: str) -> list[str]:
    """The table of findings: a row each, by its headline."""
    names = columns(seeds)
    lines = [f"| finding | what | {' | '.join(names)} | verdict | command |", "| --- " * (len(names) + 4) + "|"]
    for result in results:
        one = f"`{command} --only={result.key}`"
        if result.missing:
            lines.append(f"| {result.key} {result.title} {'| ' * (1 + len(names))}| not measured | {one} |")
            continue
        index = next(i for i, row in enumerate(result.rows[0]) if row.headline)
        name, figures = result.rows[0][index].name, cells(result, index)
        lines.append(
            f"| {result.key} {result.title} | {name} | {' | '.join(figures)} | **{verdict(result)}** | {one} |"
        )
    return lines


def section(result: Result, seeds: Sequence[int], note: str) -> list[str]:
    """A finding in full."""
    lines = ["", f"## {result.key}: {result.title}", "", f"**{verdict(result)}**"]
    if result.missing:
        lines[-1] += f": {result.missing}."
    else:
        names = columns(seeds)
        lines += ["", f"| | {' | '.join(names)} | rule |", "| --- " * (len(names) + 2) + "|"]
        for i, row in enumerate(result.rows[0]):
            lines.append(f"| {row.name} | {' | '.join(cells(result, i))} | {rule_text(row)} |")
    return [*lines, *(["", note] if note else []), *experiments(result.key)]


def experiments(key: str) -> list[str]:
    """Where a finding is asked after by itself."""
    links = [f"[`{name}`](../experiments/{name}/config.py)" for name in EXPERIMENTS.get(key, ())]
    return ["", f"As an experiment of its own: {', '.join(links)}."] if links else []


def page(
    results: Sequence[Result],
    seeds: Sequence[int],
    folders: Sequence[str],
    intro: str,
    notes: dict[str, str],
    pictures: dict[str, str],
) -> str:
    """docs/findings.md.

    Args:
      intro: Markdown, with {runs} for the commands that make the runs and {command} for the script's.
      notes: Markdown to follow a finding, by its key.
      pictures: path to the title of each picture, in order.
    """
    command = " ".join([SCRIPT, *folders])
    runs = "\n".join(
        f"python -m r1jax.main --config=configs/r1_tiny.py --workdir={folder} --config.seed={seed}"
        for folder, seed in zip(folders, seeds, strict=True)
    )
    lines = [intro.replace("{runs}", runs).replace("{command}", f"{command} --write=docs/findings.md").rstrip(), ""]
    lines += table(results, seeds, command)
    for path, title in pictures.items():
        lines += ["", f"![{title}]({path})"]
    for result in results:
        lines += section(result, seeds, notes.get(result.key, ""))
    return "\n".join(lines) + "\n"
