"""One self-contained HTML page about one or several runs: curves, results, samples.

    python -m r1jax.report WORKDIR [WORKDIR ...] [--out=FILE]

A workdir is a stage's, a pipeline's or a sweep's. Of several runs the curves stand in one picture. The page needs no
network; text a model wrote is escaped.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from r1jax import command
from r1jax.report_figures import Curve, lines
from r1jax.report_html import CSS, escaped, figure, is_number, number, sample
from r1jax.report_runs import Stage, names, read_runs
from r1jax.report_stages import overview

_OUT = flags.DEFINE_string("out", "", "File to write; empty is WORKDIR/report.html, of the first WORKDIR.")

PANELS = {  # title -> metrics drawn together; NAME stands for any word
    "Reward": ("reward/mean", "reward/NAME/mean"),
    "Spread of reward": ("reward/std", "reward/frac_zero_std"),
    "Completion length (tokens)": ("completion/mean_length", "completion/max_length"),
    "Truncated completions (fraction)": ("completion/frac_truncated",),
    "KL to the reference (nats)": ("policy/kl",),
    "Entropy (nats)": ("policy/entropy",),
    "Clip fraction": ("policy/clip_fraction",),
    "Sampler against trainer (nats)": ("policy/sampler_mismatch",),
    "Ranked rightly (fraction)": ("preference/accuracy",),
    "Preference margin": ("preference/margin",),
    "Loss": ("loss",),
    "Gradient norm": ("grad_norm",),
    "Learning rate": ("lr",),
    "Tokens a second": ("rollout/tokens_per_s", "update/tokens_per_s"),
    "Expert load": ("moe/max_load", "moe/dropped"),
}
SHOWN_SAMPLES = 6


def main(words: list[str]) -> dict[str, str]:
    if not words:
        raise ValueError("no WORKDIR was given; expected python -m r1jax.report WORKDIR")
    return {"report": str(write_report(words, _OUT.value or None))}


def write_report(workdirs: Sequence[str | os.PathLike], out: str | os.PathLike | None = None) -> Path:
    """Writes the page and returns its path.

    Args:
      workdirs: stages', pipelines' or sweeps' workdirs, one section a stage.
      out: the file; None is `report.html` in the first workdir.

    Raises:
      FileNotFoundError: a workdir, or the folder of `out`, is not there.
      ValueError: a workdir holds no run, or one of its files is malformed.
    """
    folders = [Path(workdir) for workdir in workdirs]
    stages = read_runs(folders)
    out = Path(out) if out else folders[0] / "report.html"
    title = " · ".join(names(folders))
    temporary = out.with_name(f".{out.name}.tmp")
    temporary.write_text(_page(title, stages), encoding="utf-8")
    os.replace(temporary, out)
    return out


def _page(title: str, stages: list[Stage]) -> str:
    links: dict[str, list[str]] = {}
    for i, stage in enumerate(stages):
        links.setdefault(stage.run, []).append(f'<a href="#s{i}">{escaped(stage.name)}</a>')
    lines_ = (f"<p>{f'<b>{escaped(run)}</b> ' if run else ''}{' · '.join(of_run)}</p>" for run, of_run in links.items())
    nav = "".join(lines_) if len(stages) > 1 else ""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escaped(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{CSS}</style></head><body>'
        f"<h1>{escaped(title)}</h1><nav>{nav}</nav>{overview(stages)}"
        + "".join(_section(i, stage) for i, stage in enumerate(stages))
        + "</body></html>\n"
    )


def _section(index: int, stage: Stage) -> str:
    config = {key: value for key, value in stage.config.items() if not isinstance(value, (dict, list))}
    facts = "".join(f"<span><b>{escaped(k)}</b> {escaped(v)}</span>" for k, v in config.items() if v not in ("", None))
    curves = "".join(figure(title, lines(curves)) for title, curves in _panels(stage))
    last = stage.metrics[-1] if stage.metrics else {}
    rows = "".join(f"<tr><td>{escaped(k)}</td><td class=n>{number(v)}</td></tr>" for k, v in last.items())
    return (
        f'<section id="s{index}"><h2>{escaped(stage.label)}</h2><p class=facts>{facts}</p>'
        f"<div class=curves>{curves}</div>{_samples(stage.samples)}"
        f"<details><summary>Last step, every figure</summary><table>{rows}</table></details>"
        f"<details><summary>Config</summary><pre>{escaped(json.dumps(stage.config, indent=2))}</pre></details>"
        "</section>"
    )


def _panels(stage: Stage) -> list[tuple[str, list[Curve]]]:
    """The panels that have something to show, held-out evaluation first; of one, the table of results says it all."""
    panels = []
    for task in dict.fromkeys(str(row.get("task")) for row in stage.evaluations):
        rows = [row for row in stage.evaluations if str(row.get("task")) == task]
        curves = [_curve(measure, measure, rows) for measure in rows[0] if re.match(r"(pass|maj)@|format$", measure)]
        panels.append((f"Held-out evaluation: {task}", [curve for curve in curves if len(curve[1]) > 1]))
    names = list(dict.fromkeys(name for row in stage.metrics for name in row))
    for title, metrics in PANELS.items():
        chosen = [n for m in metrics for n in names if re.fullmatch(re.escape(m).replace("NAME", "[^/]+"), n)]
        curves = [_curve(re.sub(r"^(reward|completion|moe)/|/mean$", "", n), n, stage.metrics) for n in chosen]
        panels.append((title, [curve for curve in curves if curve[1]]))
    return [(title, curves) for title, curves in panels if curves]


def _curve(label: str, name: str, rows: list[dict[str, Any]]) -> Curve:
    points = [(float(row["step"]), float(row[name])) for row in rows if is_number(row.get(name))]
    return label, [step for step, _ in points], [value for _, value in points]


def _samples(samples: list[dict[str, Any]]) -> str:
    """The first and the last logged step's completions, side by side."""
    steps = sorted({row["step"] for row in samples if is_number(row.get("step"))})
    if not steps:
        return ""
    columns = "".join(
        f"<div><h4>step {step}</h4>"
        + "".join(sample(row) for row in [r for r in samples if r["step"] == step][:SHOWN_SAMPLES])
        + "</div>"
        for step in dict.fromkeys((steps[0], steps[-1]))
    )
    return f"<h3>Samples</h3><div class=samples>{columns}</div>"


if __name__ == "__main__":
    command.main(main, words="WORKDIR [WORKDIR ...]")
