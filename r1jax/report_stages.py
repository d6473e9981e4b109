"""The report's first part: all stages side by side, those of several runs one under the other."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.report_answers import same_questions
from r1jax.report_figures import Curve, bars, columns, course
from r1jax.report_html import clipped, escaped, figure, is_number, measure, number, table
from r1jax.report_provenance import provenance
from r1jax.report_runs import KEPT, Stage
from r1jax.rewards.language import LANGUAGES, consistency

EXAMPLE = 160  # characters of a sample that was turned down
ACROSS = {  # title -> the metric, a pattern, drawn through all stages one after another
    "Accuracy reward": r"reward/accuracy/mean",
    "Completion length (tokens)": r"completion/mean_length",
    "Language consistency": r"reward/language[^/]*/mean",
}
COMPARED = {  # the same, where there are several runs to compare
    "Reward": r"reward/mean",
    "Entropy (nats)": r"policy/entropy",
    "KL to the reference (nats)": r"policy/kl",
    "Clip fraction": r"policy/clip_fraction",
    "Loss": r"loss",
}
SHOWN = r"pass@1|format|mean_tokens"  # figures of the first table


def overview(stages: Sequence[Stage]) -> str:
    """Everything that compares stages; of one stage, what does not need another."""
    ordered = by_name(stages)
    charts = [*_ladders(ordered), *(_across(stages) if len(stages) > 1 else ())]
    drawn = "".join(figure(title, svg, columns=columns(named)) for title, svg, named in charts)
    curves = f"<div class=curves>{drawn}</div>" if drawn else ""
    return _results(ordered) + curves + provenance(ordered) + _rejected(ordered) + same_questions(ordered)


def by_name(stages: Sequence[Stage]) -> list[Stage]:
    """Those of one name together, as they follow in the first run that has them."""
    names = list(dict.fromkeys(stage.name for stage in stages))
    return sorted(stages, key=lambda stage: names.index(stage.name))


def _results(stages: Sequence[Stage]) -> str:
    """A row a stage, the figures of its tasks beside each other; and every figure, a row a stage and task."""
    if not any(stage.result for stage in stages):
        return ""
    shown: dict[str, list[str]] = {}  # task -> figures that some stage has
    for stage in stages:
        for task, figures in _of_policies(stage).items():
            of_task = shown.setdefault(task, [])
            found = [m for m, v in figures.items() if re.fullmatch(SHOWN, m) and is_number(v)]
            of_task += [m for m in found if m not in of_task]
    span = sum(len(measures) for measures in shown.values())
    tasks = "".join(f"<th class=task colspan={len(ms)}>{escaped(task)}</th>" for task, ms in shown.items())
    heads = "".join(
        f"<th class='n{' first' if i == 0 else ''}'>{escaped(_short(m))}</th>"
        for ms in shown.values()
        for i, m in enumerate(ms)
    )
    rows = "".join(f"<tr><td>{escaped(stage.label)}</td>{_cells(stage, shown, span)}</tr>" for stage in stages)
    head = f"<tr><th></th>{tasks}</tr><tr><th>stage</th>{heads}</tr>" if shown else ""
    return (
        f"<h2>Results</h2><div class=wide><table class=results>{head}{rows}</table></div>"
        f"<details><summary>Every figure</summary>{_every_figure(stages)}</details>"
    )


def _of_policies(stage: Stage) -> dict[str, dict[str, Any]]:
    return {} if stage.config.get("stage") == "reward_model" else stage.evaluated()


def _cells(stage: Stage, shown: Mapping[str, Sequence[str]], span: int) -> str:
    """A stage's figures, or in words what it made."""
    evaluated = _of_policies(stage)
    if evaluated or not stage.result:
        return "".join(
            f"<td class='n{' first' if i == 0 else ''}'>{measure(m, evaluated.get(task, {}).get(m))}</td>"
            for task, measures in shown.items()
            for i, m in enumerate(measures)
        )
    words = [
        f"{number(figures[KEPT])} kept of {number(figures.get('n'))} {escaped(source)}"
        for source, figures in stage.counted().items()
    ]
    words += [
        f"{measure('accuracy', figures.get('accuracy'))} of {number(figures.get('n'))} {escaped(task)} ranked rightly"
        for task, figures in stage.evaluated().items()
    ]
    return f"<td class=soft colspan={max(span, 1)}>{'; '.join(words)}</td>"


def _short(name: str) -> str:
    return {"mean_tokens": "tokens"}.get(name, name)


def _every_figure(stages: Sequence[Stage]) -> str:
    rows = [(stage.label, task, figures) for stage in stages for task, figures in stage.evaluated().items()]
    measures = [m for m in dict.fromkeys(m for *_, r in rows for m in r) if m not in ("task", "step")]
    cells = ([escaped(n), escaped(t), *(measure(m, figures.get(m)) for m in measures)] for n, t, figures in rows)
    return table(["stage", "task", *measures], cells, texts=2)


Chart = tuple[str, str, int]  # title, SVG, how many stages it has to name


def _ladders(stages: Sequence[Stage]) -> list[Chart]:
    """Of each task that two stages or more have: accuracy, length and language, stage by stage."""
    charts = []
    names = list(dict.fromkeys(stage.name for stage in stages))
    runs = list(dict.fromkeys(stage.run for stage in stages))
    for task in dict.fromkeys(task for stage in stages for task in _of_policies(stage)):
        climbed = [name for name in names if any(s.name == name and task in _of_policies(s) for s in stages)]
        if len(climbed) < 2:
            charts += _side_by_side(stages, task)
            continue
        of = {(s.run, s.name): _figures(s, task) for s in stages}
        for title, measures, shares in (
            ("Accuracy", r"pass@1|maj@\d+" if len(runs) == 1 else "pass@1", True),
            ("Length (tokens)", "mean_tokens", False),
            ("Language consistency of the thought", "language", True),
        ):
            values: dict[str, list[float | None]] = {}
            for run in runs:
                rows = [of.get((run, name), {}) for name in climbed]
                for m in dict.fromkeys(m for row in rows for m in row if re.fullmatch(measures, m)):
                    values[run or _short(m)] = [row[m] if is_number(row.get(m)) else None for row in rows]
            if sum(v is not None for of_measure in values.values() for v in of_measure) > 1:
                drawn = bars(climbed, values, shares=shares)
                charts.append((f"{title}, stage by stage: {task}", drawn, len(climbed)))
    return charts


def _side_by_side(stages: Sequence[Stage], task: str) -> list[Chart]:
    """Of a task that one stage alone has, in several runs: a bar a run."""
    of = {stage.run: _figures(stage, task) for stage in stages if task in _of_policies(stage)}
    charts = []
    for title, measure_, shares in (("Accuracy", "pass@1", True), ("Length (tokens)", "mean_tokens", False)):
        values = [row[measure_] if is_number(row.get(measure_)) else None for row in of.values()]
        if sum(value is not None for value in values) > 1:
            drawn = bars(list(of), {_short(measure_): values}, shares=shares)
            charts.append((f"{title}, run by run: {task}", drawn, len(of)))
    return charts


def _figures(stage: Stage, task: str) -> dict[str, Any]:
    """The figures of a task, with the share of words in the question's language where it has several languages."""
    figures = dict(_of_policies(stage).get(task, {}))
    rows = [row for row in stage.problems if row.get("task") == task and row.get("completions")]
    languages = [str(row.get("language")) for row in rows]
    if len(set(languages)) > 1 and set(languages) <= set(LANGUAGES):
        texts = [str(row["completions"][0]) for row in rows]
        figures["language"] = float(np.mean(consistency([""] * len(texts), texts, languages)))
    return figures


def _across(stages: Sequence[Stage]) -> list[Chart]:
    """Metrics drawn through all stages that have them, each going on where the one before it ended."""
    charts = []
    several = len({stage.run for stage in stages}) > 1
    for title, pattern in (ACROSS | COMPARED if several else ACROSS).items():
        runs: dict[str, list[Curve]] = {}
        for stage in stages:
            name = next((n for row in stage.metrics for n in row if re.fullmatch(pattern, n)), "")
            points = [(float(r["step"]), float(r[name])) for r in stage.metrics if is_number(r.get(name))]
            if points:
                curve = (stage.name, [step for step, _ in points], [value for _, value in points])
                runs.setdefault(stage.run, []).append(curve)
        named = {curve[0] for curves in runs.values() for curve in curves}
        if runs:
            what = f"{title}, stage after stage" if len(named) > 1 or not several else f"{title}, all runs"
            charts.append((what, course(runs), len(named)))
    return charts


def _rejected(stages: Sequence[Stage]) -> str:
    """What a stage that makes data kept of each source, and what it dropped and why; bars are shares of the largest."""
    parts = []
    for stage in stages:
        for source, figures in stage.counted().items():
            counts = {what: value for what, value in figures.items() if is_number(value)}
            most = max(*counts.values(), 1)
            rows = (
                [
                    escaped(_reason(what)),
                    f"<span class=bar style='width:{12 * value / most:.2f}rem'></span>",
                    number(value),
                    _example(stage.dropped.get(what.removeprefix("dropped/"), "")),
                ]
                for what, value in counts.items()
            )
            drawn = table(["", "", "samples", "for example"], rows, texts=2)
            parts.append(f"<h4>{escaped(stage.label)}: {escaped(source)}</h4><div class=wide>{drawn}</div>")
    return f"<h3>Kept and rejected</h3>{''.join(parts)}" if parts else ""


def _example(text: str) -> str:
    return f"<span class=example>{escaped(clipped(text.strip(), EXAMPLE))}</span>" if text else ""


def _reason(what: str) -> str:
    """'dropped/long_paragraphs' in words."""
    return {"n": "sampled"}.get(what, what.replace("/", ": ").replace("_", " "))
