"""A sweep: one stage with several changes and several seeds, from shared beginnings; and the tables of all runs.

A config says `stage` "sweep" and

    question, hypothesis  what is asked, and what is expected, written down before the run
    order, first          the stages that all runs share, as in a pipeline; run once, in workdir/first/NAME
    base                  the stage that is varied; `init_from` and the like may name a shared one
    arms                  NAME -> what differs from `base`, {} for `base` itself; run in workdir/ARM/SEED
    seeds                 added to the stage's own
    part, parts           of several machines on one workdir, each makes its part of the runs: 0 and 1 for all

Runs go one after another. Run again, a sweep goes on where it was, and a finished run is not run again.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from r1jax import pipeline, processes
from r1jax.config import AnyStage
from r1jax.stages.tables import table
from r1jax.stages.workdir import has_begun, read_result
from r1jax.training.metrics import METRICS

KEYS = ("stage", "question", "hypothesis", "order", "first", "base", "arms", "seeds", "part", "parts")
FIRST, RUN = "first", "run"
FINAL, STEPS = "final.csv", "steps.csv"


class Planned(NamedTuple):
    """A run of a sweep."""

    arm: str
    seed: int
    stage: AnyStage
    folder: Path


def run(config: ConfigDict, workdir: str) -> dict[str, Any]:
    """Runs what is left of a sweep and writes the tables of all that has finished.

    Returns:
      {"runs": {ARM: {SEED: {TASK: {"pass@1": ..., ...}}}}, "final": PATH, "steps": PATH}.

    Raises:
      ValueError: the config is wrong, of any run; told before the first one starts.
    """
    planned = plan(config, Path(workdir))
    shared = _shared(config)
    folders = {name: str(Path(workdir) / FIRST / name) for name in config.order}
    for each in planned:
        if not (has_begun(str(each.folder), each.stage) and read_result(str(each.folder)) is not None):
            pipeline.STAGES[each.stage.stage].check(each.stage, folders)
    if config.order:
        pipeline.run(shared, str(Path(workdir) / FIRST))
    mine = planned[config.part :: config.parts]
    for at, each in enumerate(mine):
        processes.say(f"\n== run {at + 1} of {len(mine)}: {each.arm}, seed {each.seed}")
        pipeline.STAGES[each.stage.stage].run(each.stage, str(each.folder), folders)
    done = [(each, result) for each in planned if (result := read_result(str(each.folder))) is not None]
    final, steps = Path(workdir) / FINAL, Path(workdir) / STEPS
    if processes.is_first():
        _write(final, as_csv(_final_rows(done)))
        _write(steps, as_csv(_step_rows([each for each, _ in done])))
    processes.say("\n" + table({f"{each.arm}/{each.seed}": result for each, result in done}))
    runs: dict[str, dict[str, Any]] = {}
    for each, result in done:
        runs.setdefault(each.arm, {})[str(each.seed)] = result
    return {"runs": runs, "final": str(final), "steps": str(steps)}


def plan(config: ConfigDict, workdir: Path) -> list[Planned]:
    """All runs of a sweep, checked: seeds within arms, so that the first seed of every arm comes early."""
    _check(config)
    runs = []
    for seed in config.seeds:
        for arm, changes in config.arms.items():
            base = config.base.copy_and_resolve_references().unlock()
            try:
                _change(base, changes, f"config.arms.{arm}")
                tree = _shared(config).to_dict()
                tree["order"] = (*tree["order"], RUN)
                tree["stages"][RUN] = base.to_dict()
                stage = pipeline.pipeline_stages(ConfigDict(tree))[RUN]
            except ValueError as error:
                raise ValueError(f"arm {arm}: {error}") from error
            stage = dataclasses.replace(stage, seed=stage.seed + seed)
            runs.append(Planned(arm, seed, stage, workdir / arm / str(seed)))
    return runs


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Rows whose keys may differ; a column is empty where a row lacks it."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _shared(config: ConfigDict) -> ConfigDict:
    return ConfigDict(dict(stage="pipeline", seed=0, order=tuple(config.order), stages=config.first.to_dict()))


def _change(config: ConfigDict, changes: Mapping[str, Any], where: str) -> None:
    """Sets what an arm changes; only keys that are there, but for sections that may be left out as a whole."""
    for key, value in changes.items():
        if isinstance(value, Mapping | ConfigDict) and isinstance(config.get(key), ConfigDict):
            _change(config[key], value, f"{where}.{key}")
        else:
            config[key] = value


def _check(config: ConfigDict) -> None:
    unknown, missing = sorted(set(config.keys()) - set(KEYS)), sorted(set(KEYS) - set(config.keys()))
    if unknown or missing:
        which = f"config.{unknown[0]} is not a key of a sweep" if unknown else f"config.{missing[0]} is missing"
        raise ValueError(f"{which}; expected {', '.join(KEYS)}")
    if not config.arms or not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise ValueError(f"a sweep needs arms and seeds, each once; got {len(config.arms)} arms, seeds {config.seeds}")
    if FIRST in config.arms:
        raise ValueError(f"config.arms names {FIRST!r}, the folder of the shared stages; choose another name")
    for text in ("question", "hypothesis"):
        if not config[text].strip():
            raise ValueError(f"config.{text} is empty; write it down before the run")
    if not 0 <= config.part < config.parts:
        raise ValueError(f"config.part is {config.part} of config.parts {config.parts}; expected 0..parts - 1")


def _final_rows(done: list[tuple[Planned, dict[str, Any]]]) -> list[dict[str, Any]]:
    return [
        {"arm": each.arm, "seed": each.seed, "task": task, **figures}
        for each, result in done
        for task, figures in result.items()
    ]


def _step_rows(done: list[Planned]) -> list[dict[str, Any]]:
    return [{"arm": each.arm, "seed": each.seed, **row} for each in done for row in _metrics(each.folder)]


def _metrics(folder: Path) -> Iterator[dict[str, Any]]:
    for line in (folder / METRICS).read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def _write(path: Path, text: str) -> None:
    """The old file or the new one, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
