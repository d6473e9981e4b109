"""Results as plain text: every figure of some stages, and a pipeline's stages so far at a glance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]  # stage -> task -> figures

GLANCE = {"pass@1": "pass@1", "mean_tokens": "tokens"}  # figure -> its heading
RANKED = {"n", "accuracy"}  # the figures of a reward model


def table(rows: Results) -> str:
    """A plain-text table of results {stage: {task: figures}}, a line each."""
    flat = [(stage, task, figures) for stage, tasks_ in rows.items() for task, figures in tasks_.items()]
    keys = list(dict.fromkeys(key for _, _, figures in flat for key in figures))
    lines = [["stage", "task", *keys]]
    for stage, task, figures in flat:
        lines.append([stage, task, *(_cell(key, figures.get(key)) for key in keys)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    aligned = ["  ".join(_aligned(line, widths)) for line in lines]
    return "\n".join([aligned[0], "-" * len(aligned[0]), *aligned[1:]])


def glance(results: Results) -> str:
    """A line a stage: accuracy and length of every task, or what was kept, or how well replies were ranked."""
    shown: dict[str, list[str]] = {}  # task -> figures that some stage has
    for rows in results.values():
        for task, figures in _of_policies(rows).items():
            shown[task] = [key for key in GLANCE if key in shown.get(task, []) or figures.get(key) is not None]
    left = max(map(len, ["stage", *results]))
    blocks = {task: [max(7, len(GLANCE[key])) for key in keys] for task, keys in shown.items()}
    titles = {task: task.removesuffix(":test") for task in shown}
    widths = {task: max(len(titles[task]), sum(cells) + len(cells) - 1) for task, cells in blocks.items()}

    def line(name: str, cells: Mapping[str, Sequence[str]]) -> str:
        parts = [
            " ".join(text.rjust(width) for text, width in zip(cells[task], blocks[task], strict=True)).ljust(
                widths[task]
            )
            for task in shown
        ]
        return "   ".join([name.ljust(left), *parts]).rstrip()

    lines = ["   ".join([" " * left, *(titles[task].ljust(widths[task]) for task in shown)]).rstrip()]
    lines.append(line("stage", {task: [GLANCE[key] for key in keys] for task, keys in shown.items()}))
    lines.append("-" * max(map(len, lines)))
    for name, rows in results.items():
        policy = _of_policies(rows)
        if policy:
            cells = {t: [_cell(key, policy.get(t, {}).get(key)) for key in keys] for t, keys in shown.items()}
            lines.append(line(name, cells))
        else:
            lines.append(f"{name.ljust(left)}   {'; '.join(_in_words(task, row) for task, row in rows.items())}")
    return "\n".join(lines)


def _of_policies(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {task: figures for task, figures in rows.items() if "kept" not in figures and figures.keys() != RANKED}


def _in_words(task: str, figures: Mapping[str, Any]) -> str:
    if "kept" in figures:
        return f"{figures['kept']:,} kept of {figures['n']:,} {task}"
    return f"{_cell('accuracy', figures['accuracy'])} of {figures['n']:,} {task} ranked rightly"


def _aligned(cells: list[str], widths: list[int]) -> list[str]:
    """Names to the left, figures to the right."""
    return [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))]


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    return f"{value:.1f}" if key == "mean_tokens" else f"{100 * value:.1f}%"
