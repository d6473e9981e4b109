"""Ordered stages, each in its own sub-folder, each starting from earlier ones by name. Resumable: a finished stage is
skipped, a killed one goes on where it was."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from r1jax.config import RlStage, SftStage, stage_config
from r1jax.report import write_report
from r1jax.stages import rl, sft
from r1jax.stages.evaluate import table
from r1jax.stages.workdir import write_result

RUN = {"sft": sft.run, "rl": rl.run}


def run(config: ConfigDict, workdir: str) -> dict[str, Any]:
    """Runs a stage's or a pipeline's config in `workdir`.

    Returns:
      {"stages": {NAME: {TASK: {"pass@1": ..., ...}}}, "report": PATH}; a single stage is named by its kind.

    Raises:
      ValueError: a config is wrong; every stage is checked before the first one starts.
    """
    if config.get("stage") != "pipeline":
        stage = stage_config(config)
        results = {stage.stage: RUN[stage.stage](stage, workdir)}
        return {"stages": results, "report": str(write_report([workdir], Path(workdir) / "report.html"))}
    stages = pipeline_stages(config, workdir)
    results = {}
    for name, stage in stages.items():
        print(f"== stage {name} ({stage.stage}) in {Path(workdir) / name}", file=sys.stderr, flush=True)
        results[name] = RUN[stage.stage](stage, str(Path(workdir) / name))
    write_result(workdir, results)
    report = write_report([workdir], Path(workdir) / "report.html")
    print(f"\n{table(results)}\n\nreport: {report}", file=sys.stderr, flush=True)
    return {"stages": results, "report": str(report)}


def pipeline_stages(config: ConfigDict, workdir: str) -> dict[str, SftStage | RlStage]:
    """The stages of a pipeline in order, checked, `init_from` turned from a stage's name into its folder.

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
    stages: dict[str, SftStage | RlStage] = {}
    for name in tree["order"]:
        stage = stage_config(tree["stages"][name])
        if stage.init_from in tree["stages"] and stage.init_from not in stages:
            raise ValueError(f"config.stages.{name}.init_from is {stage.init_from!r}, a stage that comes no earlier")
        start = str(Path(workdir) / stage.init_from) if stage.init_from in stages else stage.init_from
        stages[name] = dataclasses.replace(stage, init_from=start, seed=stage.seed + tree["seed"])
    return stages
