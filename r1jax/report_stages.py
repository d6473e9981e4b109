"""The report's first part: all stages side by side, from the accuracy ladder to where each one's weights come from."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from r1jax.config import PolicyConfig
from r1jax.data.templates import TEMPLATES
from r1jax.models.policy import parameter_count
from r1jax.report_figures import Curve, bars, lines
from r1jax.report_html import escaped, figure, is_number, mark, measure, number, table

KEPT = "kept"  # figures that have it count what came in, was kept and was dropped; the others are of an evaluation
SHOWN_QUESTIONS = 6
ACROSS = {  # title -> the metric, a pattern, drawn through all stages one after another
    "Accuracy reward, stage after stage": r"reward/accuracy/mean",
    "Completion length (tokens), stage after stage": r"completion/mean_length",
    "Language consistency, stage after stage": r"reward/language[^/]*/mean",
}


class Stage(NamedTuple):
    """What one stage's workdir holds."""

    name: str
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    result: dict[str, dict[str, Any]]  # task -> measure -> value; of a stage that makes data, source -> what -> number


def overview(stages: Sequence[Stage]) -> str:
    """Everything that compares stages; of one stage, what does not need another."""
    charts = [*_ladders(stages), *(_across(stages) if len(stages) > 1 else ())]
    drawn = "".join(figure(title, svg) for title, svg in charts)
    curves = f"<div class=curves>{drawn}</div>" if drawn else ""
    return _results(stages) + curves + _provenance(stages) + _rejected(stages) + _same_questions(stages)


def evaluated(stage: Stage) -> dict[str, dict[str, Any]]:
    """The figures by task."""
    return {
        task: figures for task, figures in stage.result.items() if isinstance(figures, dict) and KEPT not in figures
    }


def _results(stages: Sequence[Stage]) -> str:
    """One table of final evaluations, a row a stage and task."""
    rows = [(stage.name, task, figures) for stage in stages for task, figures in evaluated(stage).items()]
    measures = [m for m in dict.fromkeys(m for *_, r in rows for m in r) if m not in ("task", "step")]
    if not rows:
        return ""
    cells = ([escaped(n), escaped(t), *(measure(m, figures.get(m)) for m in measures)] for n, t, figures in rows)
    return f"<h2>Results</h2>{table(['stage', 'task', *measures], cells, texts=2)}"


def _ladders(stages: Sequence[Stage]) -> list[tuple[str, str]]:
    """A chart a task: pass@1 and the majority's accuracy, stage by stage, where two stages or more have them."""
    charts = []
    for task in dict.fromkeys(task for stage in stages for task in evaluated(stage)):
        climbed = [(s.name, evaluated(s)[task]) for s in stages if task in evaluated(s)]
        names = dict.fromkeys(m for _, figures in climbed for m in figures if re.fullmatch(r"pass@1|maj@\d+", m))
        values = {m: [f[m] if is_number(f.get(m)) else None for _, f in climbed] for m in names}
        if len(climbed) > 1 and values:
            charts.append((f"Accuracy, stage by stage: {task}", bars([name for name, _ in climbed], values)))
    return charts


def _across(stages: Sequence[Stage]) -> list[tuple[str, str]]:
    """Metrics drawn through all stages that have them, each going on where the one before it ended."""
    charts = []
    for title, pattern in ACROSS.items():
        curves: list[Curve] = []
        done = 0.0
        for stage in stages:
            name = next((n for row in stage.metrics for n in row if re.fullmatch(pattern, n)), "")
            points = [(float(r["step"]), float(r[name])) for r in stage.metrics if is_number(r.get(name))]
            if points:
                curves.append((stage.name, [done + step for step, _ in points], [value for _, value in points]))
                done += points[-1][0]
        if curves:
            charts.append((title, lines(curves, "steps of these stages", legend=True)))
    return charts


def _provenance(stages: Sequence[Stage]) -> str:
    """Where each stage's weights and data come from."""
    head = ["stage", "kind", "from", "template", "data", "seed", "steps", "parameters", "active a token"]
    rows = []
    for stage in stages:
        config, last = stage.config, stage.metrics[-1].get("step") if stage.metrics else None
        total, active = _parameters(config.get("policy"))
        texts = [stage.name, config.get("stage", ""), _start(config), config.get("template", "")]
        of = "" if last is None or "steps" not in config else f"{last} of {config['steps']}"
        figures = [config.get("seed", ""), of, _counted(total), _counted(active)]
        rows.append([*map(escaped, texts), escaped(_sources(config)), *map(escaped, figures)])
    return f"<h3>Where the weights and the data come from</h3>{table(head, rows, texts=5)}"


def _start(config: Mapping[str, Any]) -> str:
    """The checkpoints that a stage begins with; cold-start data may be written by several."""
    ways = [way.get("init_from", "") for way in config.get("ways", {}).values()]
    return ", ".join(dict.fromkeys(ways)) or config.get("init_from") or "scratch"


def _sources(config: Mapping[str, Any]) -> str:
    """Names of the data with their shares, as 'gsm8k 75%, math500 25%'."""
    sources = config.get("data", {}).get("sources") or config.get("sources") or {}
    weights = {spec["name"]: float(spec.get("weight", 1.0)) for spec in sources.values()}
    if len(weights) < 2:
        return ", ".join(weights)
    return ", ".join(f"{name} {100 * weight / sum(weights.values()):.3g}%" for name, weight in weights.items())


def _parameters(policy: Any) -> tuple[int, int] | tuple[None, None]:
    """Those of a policy and those active a token; of a config that an older release wrote, None."""
    if not isinstance(policy, dict) or policy.keys() != {field.name for field in dataclasses.fields(PolicyConfig)}:
        return None, None
    return parameter_count(PolicyConfig(**policy))


def _counted(value: int | None) -> str:
    if value is None:
        return "–"
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.4g}{unit}"
    return str(value)


def _rejected(stages: Sequence[Stage]) -> str:
    """What a stage that makes data kept of each source, and what it dropped and why; bars are shares of the largest."""
    parts = []
    for stage in stages:
        for source, figures in stage.result.items():
            if not isinstance(figures, dict) or KEPT not in figures:
                continue
            counts = {what: value for what, value in figures.items() if is_number(value)}
            most = max(*counts.values(), 1)
            rows = (
                [
                    escaped(_reason(what)),
                    f"<span class=bar style='width:{12 * value / most:.2f}rem'></span>",
                    number(value),
                ]
                for what, value in counts.items()
            )
            parts.append(
                f"<h4>{escaped(stage.name)}: {escaped(source)}</h4>{table(['', '', 'samples'], rows, texts=2)}"
            )
    return f"<h3>Kept and rejected</h3>{''.join(parts)}" if parts else ""


def _reason(what: str) -> str:
    """'dropped/long_paragraphs' in words."""
    return {"n": "sampled"}.get(what, what.replace("/", ": ").replace("_", " "))


def _same_questions(stages: Sequence[Stage]) -> str:
    """What several stages answered to a question, a column a stage: the last logged answer of each."""
    asked: dict[str, dict[int, dict[str, Any]]] = {}
    for i, stage in enumerate(stages):
        for row in stage.samples:
            answers = asked.setdefault(question(row, stage.config.get("template")), {})
            if i not in answers or row.get("step", 0) > answers[i].get("step", 0):
                answers[i] = row
    common = sorted((q for q in asked if len(asked[q]) > 1), key=lambda q: -len(asked[q]))[:SHOWN_QUESTIONS]
    if not common:
        return ""
    shown = sorted({i for q in common for i in asked[q]})
    rows = ([escaped(q), *(_answer(asked[q].get(i)) for i in shown)] for q in common)
    head = ["question", *(stages[i].name for i in shown)]
    return f"<h3>The same questions, stage by stage</h3><div class=wide>{table(head, rows, texts=len(head))}</div>"


def question(row: Mapping[str, Any], template: Any) -> str:
    """The question of a logged sample: what its prompt has between the template's opening and its end."""
    prompt = str(row.get("prompt", ""))
    before, _, after = TEMPLATES.get(str(template), "{prompt}").partition("{prompt}")
    return prompt.removeprefix(before).removesuffix(after).strip()


def _answer(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    reward = f"<br><i>step {number(row.get('step'))}, reward {number(row.get('reward'))}</i>"
    return f"<span class=out>{mark(row.get('completion', ''))}</span>{reward}"
