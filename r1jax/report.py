"""One self-contained HTML page about one or several runs: curves, results, samples.

    python -m r1jax.report WORKDIR [WORKDIR ...] [--out=FILE]

A workdir is a stage's or a pipeline's. The page needs no network; text a model wrote is escaped.
"""

from __future__ import annotations

import html
import io
import json
import math
import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from absl import flags
from matplotlib.figure import Figure

from r1jax import command
from r1jax.training.metrics import METRICS, SAMPLES, read_jsonl

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
COLOURS = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#e11d48", "#ca8a04")
INK = "#010203"  # drawn in this, then replaced by the page's own text colour
SMOOTHED_FROM = 60  # points from which a running mean is drawn over the raw curve
EVALUATIONS = "evaluations.jsonl"
SHOWN_SAMPLES, SHOWN_CHARACTERS = 6, 4000
PROMPT_TAIL = 120  # characters: templates open alike, the question stands at the end
Evaluations = dict[str, dict[str, float]]  # task -> measure -> value


class Stage(NamedTuple):
    """What one stage's workdir holds."""

    name: str
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    result: Evaluations


def main(words: list[str]) -> dict[str, str]:
    if not words:
        raise ValueError("no WORKDIR was given; expected python -m r1jax.report WORKDIR")
    return {"report": str(write_report(words, _OUT.value or None))}


def write_report(workdirs: Sequence[str | os.PathLike], out: str | os.PathLike | None = None) -> Path:
    """Writes the page and returns its path.

    Args:
      workdirs: stages' or pipelines' workdirs, one section a stage.
      out: the file; None is `report.html` in the first workdir.

    Raises:
      FileNotFoundError: a workdir, or the folder of `out`, is not there.
      ValueError: a workdir holds no run, or one of its files is malformed.
    """
    stages = [stage for workdir in workdirs for stage in read_stages(Path(workdir))]
    out = Path(out) if out else Path(workdirs[0]) / "report.html"
    title = " · ".join(Path(workdir).resolve().name for workdir in workdirs)
    temporary = out.with_name(f".{out.name}.tmp")
    temporary.write_text(_page(title, stages), encoding="utf-8")
    os.replace(temporary, out)
    return out


def read_stages(workdir: Path) -> list[Stage]:
    """The stages of a workdir: itself, or a pipeline's sub-folders in the order they ran."""
    if not workdir.is_dir():
        raise FileNotFoundError(f"workdir {str(workdir)!r} is not a folder; give the --workdir of a run")
    if (workdir / METRICS).exists():
        return [_read_stage(workdir)]
    found = {path.parent.name: path.parent for path in workdir.glob(f"*/{METRICS}")}
    if not found:
        raise ValueError(f"workdir {str(workdir)!r} holds no run: neither {METRICS} nor a stage's sub-folder has one")
    finished = [name for name in _read_json(workdir / "result.json") if name in found]
    begun = sorted(set(found) - set(finished), key=lambda name: (found[name] / METRICS).stat().st_mtime)
    return [_read_stage(found[name]) for name in finished + begun]


def _read_stage(workdir: Path) -> Stage:
    metrics, evaluations, samples = (
        read_jsonl(workdir / name) if (workdir / name).exists() else [] for name in (METRICS, EVALUATIONS, SAMPLES)
    )
    config, result = _read_json(workdir / "config.json"), _read_json(workdir / "result.json")
    return Stage(workdir.name, config, metrics, evaluations, samples, result)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); delete it or run the stage again") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is {type(value).__name__}; expected a JSON object")
    return value


def _page(title: str, stages: list[Stage]) -> str:
    links = " · ".join(f'<a href="#s{i}">{_text(s.name)}</a>' for i, s in enumerate(stages)) if len(stages) > 1 else ""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{CSS}</style></head><body>'
        f"<h1>{_text(title)}</h1><nav>{links}</nav>{_results(stages)}"
        + "".join(_section(i, stage) for i, stage in enumerate(stages))
        + "</body></html>\n"
    )


def _section(index: int, stage: Stage) -> str:
    config = {key: value for key, value in stage.config.items() if not isinstance(value, (dict, list))}
    facts = "".join(f"<span><b>{_text(key)}</b> {_text(value)}</span>" for key, value in config.items() if value != "")
    panels = _panels(stage)
    curves = "".join(f"<figure><figcaption>{_text(t)}</figcaption>{_svg(curves)}</figure>" for t, curves in panels)
    last = stage.metrics[-1] if stage.metrics else {}
    rows = "".join(f"<tr><td>{_text(k)}</td><td class=n>{_number(v)}</td></tr>" for k, v in last.items())
    return (
        f'<section id="s{index}"><h2>{_text(stage.name)}</h2><p class=facts>{facts}</p>'
        f"<div class=curves>{curves}</div>{_samples(stage.samples)}"
        f"<details><summary>Last step, every figure</summary><table>{rows}</table></details>"
        f"<details><summary>Config</summary><pre>{_text(json.dumps(stage.config, indent=2))}</pre></details></section>"
    )


Curve = tuple[str, list[float], list[float]]  # label, steps, values


def _panels(stage: Stage) -> list[tuple[str, list[Curve]]]:
    """The panels that have something to show, held-out evaluation first."""
    panels = []
    for task in dict.fromkeys(str(row.get("task")) for row in stage.evaluations):
        rows = [row for row in stage.evaluations if str(row.get("task")) == task]
        curves = [_curve(measure, measure, rows) for measure in rows[0] if re.match(r"(pass|maj)@|format$", measure)]
        panels.append((f"Held-out evaluation: {task}", [curve for curve in curves if curve[1]]))
    names = list(dict.fromkeys(name for row in stage.metrics for name in row))
    for title, metrics in PANELS.items():
        chosen = [n for m in metrics for n in names if re.fullmatch(re.escape(m).replace("NAME", "[^/]+"), n)]
        curves = [_curve(re.sub(r"^(reward|completion|moe)/|/mean$", "", n), n, stage.metrics) for n in chosen]
        panels.append((title, [curve for curve in curves if curve[1]]))
    return [(title, curves) for title, curves in panels if curves]


def _curve(label: str, name: str, rows: list[dict[str, Any]]) -> Curve:
    points = [(float(row["step"]), float(row[name])) for row in rows if _is_number(row.get(name))]
    return label, [step for step, _ in points], [value for _, value in points]


def _svg(curves: list[Curve]) -> str:
    figure = Figure(figsize=(4.6, 2.5), layout="constrained")
    axes = figure.subplots()
    for (label, steps, values), colour in zip(curves, COLOURS * len(curves), strict=False):
        smooth = len(values) >= SMOOTHED_FROM and _is_noisy(values)
        marker = "o" if len(values) < 30 else None
        axes.plot(steps, values, color=colour, alpha=0.3 if smooth else 1.0, lw=1.4, marker=marker, ms=3)
        axes.plot([], [], color=colour, lw=1.8, label=label)
        if smooth:
            axes.plot(steps, _running_mean(values, len(values) // 20), color=colour, lw=1.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, labelsize=8)
    axes.yaxis.get_offset_text().set(color=INK, fontsize=8)
    axes.grid(color="#888888", alpha=0.25, lw=0.6)
    axes.set_xlabel("step", fontsize=8, color=INK)
    if len(curves) > 1:
        figure.legend(loc="outside upper left", ncols=4, fontsize=8, frameon=False, labelcolor=INK, handlelength=1.2)
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


def _results(stages: list[Stage]) -> str:
    """One table of final evaluations, a row a stage and task."""
    rows = [(s.name, task, r) for s in stages for task, r in s.result.items() if isinstance(r, dict)]
    measures = [m for m in dict.fromkeys(m for *_, r in rows for m in r) if m not in ("task", "step")]
    if not rows:
        return ""
    head = "".join(f"<th class=n>{_text(m)}</th>" for m in measures)
    body = "".join(
        f"<tr><td>{_text(name)}</td><td>{_text(task)}</td>"
        + "".join(f"<td class=n>{_measure(measure, result.get(measure))}</td>" for measure in measures)
        + "</tr>"
        for name, task, result in rows
    )
    return f"<h2>Results</h2><table><tr><th>stage</th><th>task</th>{head}</tr>{body}</table>"


def _samples(samples: list[dict[str, Any]]) -> str:
    """The first and the last logged step's completions, side by side."""
    steps = sorted({row["step"] for row in samples if _is_number(row.get("step"))})
    if not steps:
        return ""
    columns = "".join(
        f"<div><h4>step {step}</h4>"
        + "".join(_sample(row) for row in [r for r in samples if r["step"] == step][:SHOWN_SAMPLES])
        + "</div>"
        for step in dict.fromkeys((steps[0], steps[-1]))
    )
    return f"<h3>Samples</h3><div class=samples>{columns}</div>"


def _sample(row: dict[str, Any]) -> str:
    rewards = row.get("rewards")
    by_name = rewards if isinstance(rewards, dict) else {}
    named: dict[str, Any] = {"reward": row.get("reward"), **by_name, "advantage": row.get("advantage")}
    chips = "".join(
        f"<span class='chip {'good' if value > 0 else 'bad' if value < 0 else ''}'>{_text(key)} {value:.3g}</span>"
        for key, value in named.items()
        if _is_number(value)
    )
    prompt, completion = str(row.get("prompt", "")), mark(row.get("completion", ""))
    tail = _text(prompt if len(prompt) <= PROMPT_TAIL else "…" + prompt[-PROMPT_TAIL:])
    return (
        f"<article><p class=prompt title='{_text(_clipped(prompt))}'>{tail}</p>"
        f"<p class=out>{completion}</p>{chips}</article>"
    )


def mark(completion: Any) -> str:
    """A completion as HTML: what stands between think or answer tags is coloured; a tag left open runs on."""
    parts, open_tags = [], ""
    for piece in re.split(r"(</?(?:think|answer)>)", _clipped(completion)):
        tag = re.fullmatch(r"</?(think|answer)>", piece)
        if tag and not piece.startswith("</"):
            parts.append(f'<span class="{tag[1]}">')
            open_tags += "x"
        parts.append(f"<i>{_text(piece)}</i>" if tag else _text(piece))
        if tag and piece.startswith("</") and open_tags:
            parts.append("</span>")
            open_tags = open_tags[1:]
    return "".join(parts) + "</span>" * len(open_tags)


def _clipped(text: Any) -> str:
    text = str(text)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + f"… ({len(text)} characters)"


def _text(value: Any) -> str:
    """Escaped; lone surrogates, which UTF-8 cannot hold, become question marks."""
    return html.escape(str(value)).encode("utf-8", "replace").decode("utf-8")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: Any) -> str:
    return f"{value:,.4g}" if _is_number(value) else _text(value)


def _measure(name: str, value: Any) -> str:
    """Rates are shown in per cent."""
    rate = re.match(r"(pass|maj)@|format$", name) and _is_number(value)
    return f"{100 * value:.1f}%" if rate else "" if value is None else _number(value)


CSS = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1f2430;--soft:#667085;--line:#d9dee7;--card:#f6f8fb;
--think:#e8f0fe;--answer:#dcf5e7;--good:#15803d;--bad:#be123c}
@media(prefers-color-scheme:dark){:root{--bg:#12151c;--fg:#e6e9ef;--soft:#98a2b3;--line:#2c3340;--card:#1a1f29;
--think:#1c2c4a;--answer:#123a28;--good:#4ade80;--bad:#fb7185}}
body{background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif;max-width:1280px;margin:2rem auto;
padding:0 1.5rem}h1{font-size:1.7rem}h2{margin-top:2.2rem;border-bottom:1px solid var(--line);padding-bottom:.3rem}
h4{margin:.4rem 0;color:var(--soft)}a{color:#3b82f6}.facts span{margin-right:1.4rem;color:var(--soft)}
.facts b{color:var(--fg);font-weight:600}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.3rem .9rem .3rem 0;border-bottom:1px solid var(--line);text-align:left}.n{text-align:right}
.curves{display:grid;grid-template-columns:repeat(auto-fill,minmax(360px,1fr));gap:1rem}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.6rem}
figcaption{font-weight:600;font-size:.9rem}svg{width:100%;height:auto}
.samples{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:1.2rem}
article{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.7rem .9rem;margin-bottom:.8rem}
.prompt,.out{white-space:pre-wrap;overflow-wrap:anywhere;margin:.2rem 0 .5rem}
.prompt{color:var(--soft);font-size:.82rem}
.think,.answer{border-radius:4px;padding:.1rem .2rem;background:var(--think)}.answer{background:var(--answer)}
i{font-style:normal;color:var(--soft);font-size:.85em}.chip{display:inline-block;border:1px solid var(--line);
border-radius:99px;padding:0 .6rem;margin-right:.4rem;font-size:.8rem}.good{color:var(--good)}.bad{color:var(--bad)}
details{margin:.8rem 0}pre{overflow:auto;background:var(--card);padding:1rem;border-radius:8px;font-size:.8rem}
"""


if __name__ == "__main__":
    command.main(main, words="WORKDIR [WORKDIR ...]")
