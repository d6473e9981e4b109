"""The report's provenance: which checkpoint and which data each stage began with, how much it saw, how long it took."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from r1jax.config import PolicyConfig
from r1jax.models.policy import parameter_count
from r1jax.report_html import escaped, table
from r1jax.report_runs import KEPT, Stage

MADE = "samples:"  # before the stage whose dataset a source is
HEAD = ("stage", "kind", "from", "template", "data", "it saw", "seed", "steps", "parameters", "active a token", "took")


def provenance(stages: Sequence[Stage]) -> str:
    kept = {
        (stage.run, stage.name): sum(int(figures[KEPT]) for figures in stage.counted().values())
        for stage in stages
        if stage.counted()
    }
    rows = []
    for stage in stages:
        config, last = stage.config, stage.metrics[-1].get("step") if stage.metrics else None
        total, active = _parameters(config.get("policy"))
        steps = "" if last is None or "steps" not in config else str(last)
        if steps and last != config["steps"]:
            steps += f" of {config['steps']}"
        data = _sources(config, {name: n for (run, name), n in kept.items() if run == stage.run})
        texts = [stage.label, config.get("stage", ""), _start(config), config.get("template", ""), data, _seen(stage)]
        figures = [config.get("seed", ""), steps, counted(total), counted(active), _clock(stage.seconds)]
        rows.append([*map(escaped, texts), *map(escaped, figures)])
    return (
        f"<h3>Where the weights and the data come from</h3><div class=wide>{table(HEAD, rows, texts=6)}</div>"
        "<p class=soft>Took: from the stage's start to its result, pauses included.</p>"
    )


def _start(config: Mapping[str, Any]) -> str:
    """The checkpoints that a stage begins with and those that it is taught or scored by."""
    ways = config.get("ways", {})
    starts = dict.fromkeys(way.get("init_from", "") for way in ways.values())
    parts = [f"{start} ({', '.join(w for w in ways if ways[w].get('init_from', '') == start)})" for start in starts]
    parts = parts or [config.get("init_from") or ("no other" if "sources" in config else "scratch")]
    teacher = config.get("teacher") or {}
    parts += [f"taught by {teacher['folder']}"] if teacher.get("folder") else []
    judges = [reward.get("kwargs", {}).get("checkpoint") for reward in config.get("rewards", {}).values()]
    parts += [f"scored by {judge}" for judge in dict.fromkeys(judges) if judge]
    return ", ".join(map(str, parts))


def _sources(config: Mapping[str, Any], kept: Mapping[str, int]) -> str:
    """Names of the data with their shares, as 'gsm8k 75%, math500 25%'; of a dataset that a stage made, its size."""
    sources = config.get("data", {}).get("sources") or config.get("sources") or {}
    joined = config.get("join", {}).get("sources", {})
    parts = (", ".join(_dataset(name, share, kept) for name, share in _shares(of)) for of in (sources, joined))
    return " + ".join(filter(None, parts))


def _shares(sources: Mapping[str, Any]) -> list[tuple[str, str]]:
    weights = {spec["name"]: float(spec.get("weight", 1.0)) for spec in sources.values()}
    total = sum(weights.values())
    return [(name, f" {100 * weight / total:.3g}%" if len(weights) > 1 else "") for name, weight in weights.items()]


def _dataset(name: str, share: str, kept: Mapping[str, int]) -> str:
    made = name.removeprefix(MADE)
    return f"{made} ({kept[made]:,} samples){share}" if name != made and made in kept else f"{name}{share}"


def _seen(stage: Stage) -> str:
    """How much the stage sampled or learnt from, of what its records tell."""
    config, kind = stage.config, stage.config.get("stage")
    steps = float(stage.metrics[-1].get("step") or 0) if stage.metrics else 0.0
    if stage.counted():
        return f"{counted(sum(int(figures.get('n', 0)) for figures in stage.counted().values()))} samples"
    if kind == "rl" and "rollout" in config:
        return f"{counted(steps * config['rollout']['prompts'] * config['rollout']['samples'])} completions"
    if kind == "reward_model" and "batch" in config:
        return f"{counted(steps * config['batch']['examples'])} examples"
    pairs = ((row.get("update/tokens_per_s"), row.get("time/update_s")) for row in stage.metrics)
    tokens = sum(float(rate or 0) * float(seconds or 0) for rate, seconds in pairs)
    return f"{counted(tokens)} tokens" if tokens else ""


def _parameters(policy: Any) -> tuple[int, int] | tuple[None, None]:
    """Those of a policy and those active a token; of a config that an older release wrote, None."""
    if not isinstance(policy, dict) or policy.keys() != {field.name for field in dataclasses.fields(PolicyConfig)}:
        return None, None
    return parameter_count(PolicyConfig(**policy))


def counted(value: float | None) -> str:
    """Four digits, with k, M or B."""
    if value is None:
        return "–"
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
