"""Ordered stages, each in its own sub-folder, each starting from earlier ones by name. Resumable: a finished stage is
skipped, a killed one goes on where it was."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from r1jax import processes
from r1jax.config import (
    AnyStage,
    ColdStartStage,
    DatasetStage,
    RejectionStage,
    RewardModelStage,
    RlStage,
    SftStage,
    TrainedStage,
    stage_config,
)
from r1jax.report import write_report
from r1jax.stages import cold_start, graders, rejection, reward_model, rl, sft
from r1jax.stages.inference import check_architecture
from r1jax.stages.run import SAMPLES
from r1jax.stages.tables import glance
from r1jax.stages.workdir import has_begun, read_result, write_result

STAGES: dict[str, Any] = {
    "sft": sft,
    "rl": rl,
    "reward_model": reward_model,
    "rejection": rejection,
    "cold_start": cold_start,
}


def run(config: ConfigDict, workdir: str) -> dict[str, Any]:
    """Runs a stage's or a pipeline's config in `workdir`.

    Returns:
      {"stages": {NAME: {TASK: {"pass@1": ..., ...}}}, "report": PATH}; a single stage is named by its kind.

    Raises:
      ValueError: a config is wrong; every stage is checked before the first one starts.
    """
    if config.get("stage") != "pipeline":
        stage = stage_config(config)
        result = {stage.stage: STAGES[stage.stage].run(stage, workdir)}
        return {"stages": result, "report": _report(workdir)}
    stages = pipeline_stages(config)
    folders = {name: str(Path(workdir) / name) for name in stages}
    for name, stage in stages.items():
        _check(name, stage, folders)
    results: dict[str, Any] = {}
    begun = time.monotonic()
    for name, stage in stages.items():
        if processes.leaving():
            raise processes.Preempted(f"told to stop before {name}")
        say(_heading(list(stages), name, stage.stage, int(time.monotonic() - begun)))
        results[name] = STAGES[stage.stage].run(stage, folders[name], folders)
        if len(results) > 1:
            say("\n" + glance(results))
    write_result(workdir, results)
    report = _report(workdir)
    say(f"\nreport: {report}")
    return {"stages": results, "report": report}


def _report(workdir: str) -> str:
    return processes.agreed(lambda: str(write_report([workdir], Path(workdir) / "report.html")))


def _heading(names: list[str], name: str, kind: str, seconds: int) -> str:
    """Where the pipeline is, and what is left."""
    at = names.index(name)
    left = ", ".join(names[at + 1 :]) or "the report"
    clock = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"\n== stage {at + 1} of {len(names)}: {name} ({kind}), {clock} after the start; then {left}"


def say(message: str) -> None:
    processes.say(message)


def _check(name: str, stage: AnyStage, folders: Mapping[str, str]) -> None:
    """Refuses a stage that could not run, before an earlier one has taken hours. A finished one is not looked at."""
    try:
        if not (has_begun(folders[name], stage) and read_result(folders[name]) is not None):
            STAGES[stage.stage].check(stage, folders)
    except ValueError as error:
        raise ValueError(f"stage {name}: {error}") from error


def pipeline_stages(config: ConfigDict) -> dict[str, AnyStage]:
    """The stages of a pipeline in order, checked; `init_from` may name an earlier one.

    The pipeline's seed is added to each stage's, so that one number re-seeds them all.
    """
    tree = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    unknown = sorted(tree.keys() - {"stage", "seed", "order", "stages"})
    if unknown:
        raise ValueError(f"config.{unknown[0]} is not a key of a pipeline; known keys: stage, seed, order, stages")
    for key, kind in (("seed", int), ("order", (list, tuple)), ("stages", Mapping)):
        if not isinstance(tree.get(key), kind):
            raise ValueError(f"config.{key} is {tree.get(key)!r}; a pipeline needs a seed, an order and its stages")
    if sorted(tree["order"]) != sorted(tree["stages"]):
        raise ValueError(
            f"config.order names {', '.join(tree['order'])}; config.stages has {', '.join(tree['stages'])}: "
            "each stage must be named once"
        )
    stages: dict[str, AnyStage] = {}
    for name in tree["order"]:
        try:
            stage = stage_config(tree["stages"][name])
        except ValueError as error:
            raise ValueError(f"stage {name}: {error}") from error
        for key, earlier in _named(stage).items():
            if earlier not in tree["stages"]:
                continue
            if earlier not in stages:
                raise ValueError(f"config.stages.{name}.{key} is {earlier!r}, a stage that comes no earlier")
            _check_kind(f"config.stages.{name}.{key}", earlier, stages[earlier])
        if isinstance(stage, TrainedStage):
            start = stages.get(stage.init_from)
            if isinstance(start, SftStage | RlStage):
                check_architecture(f"stage {stage.init_from}", start.policy, stage.policy)
        stages[name] = dataclasses.replace(stage, seed=stage.seed + tree["seed"])
    return stages


def _named(stage: AnyStage) -> dict[str, str]:
    """The folders, or stages' names, that a stage's config mentions, by key."""
    named: dict[str, str] = {}
    if isinstance(stage, ColdStartStage):
        named |= {f"ways.{way}.init_from": spec.init_from for way, spec in stage.ways.items()}
        named["rewriter.model"] = str(stage.rewriter.model.get("checkpoint", ""))
    else:
        named["init_from"] = stage.init_from
    sources = {} if isinstance(stage, RewardModelStage) else {"data": stage.data.sources}
    if isinstance(stage, RejectionStage):
        sources["join"] = stage.join.sources
    for section, specs in sources.items():
        made = {key: spec.name for key, spec in specs.items() if spec.name.startswith(SAMPLES)}
        named |= {f"{section}.sources.{key}": name.removeprefix(SAMPLES) for key, name in made.items()}
    if isinstance(stage, RlStage | DatasetStage):
        named |= {f"rewards.{reward}": folder for reward, folder in graders.checkpoints(stage.rewards).items()}
    return named


def _check_kind(key: str, name: str, stage: AnyStage) -> None:
    """Refuses a stage that does not make what `key` asks for. What a reward asks for, it checks itself."""
    if key.endswith("init_from") and not isinstance(stage, SftStage | RlStage):
        what = "a reward model, which writes no text" if isinstance(stage, RewardModelStage) else "a dataset"
        raise ValueError(f"{key} is {name!r}, {what}; expected a stage that makes a policy")
    if ".sources." in key and not isinstance(stage, DatasetStage):
        raise ValueError(f"{key} is {name!r}, which makes no dataset; expected a rejection or a cold_start stage")
