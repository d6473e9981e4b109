"""A sweep: one stage with several changes and several seeds, from shared beginnings; and the tables of all runs.

A config says `stage` "sweep" and

    question, hypothesis  what is asked, and what is expected, written down before the run
    order, first          the stages that runs start from, as in a pipeline; run once, in workdir/first/NAME
    base                  the stage that is varied; `init_from` and the like may name one of `first`
    arms                  NAME -> what differs from `base`, {} for `base` itself; an arm that says `stage` is a whole
                          stage in the place of `base`. Run in workdir/ARM/SEED
    seeds                 added to the stage's own
    shared                a folder that several sweeps have in common, "" for none. With one, a stage of `first` is run
                          in shared/NAME and an arm in shared/runs/KEY, where KEY stands for its whole config: so what
                          two sweeps ask for is made once
    part, parts           of several machines on one workdir, each makes its part of the runs: 0 and 1 for all

Runs go one after another. Run again, a sweep goes on where it was, and a finished run is not run again. One process at
a time is at a folder: what another one is making is left for last, and then waited for.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from r1jax import pipeline, processes
from r1jax.config import AnyStage, as_before, to_dict
from r1jax.report_runs import RUNS as FOLDERS
from r1jax.stages.tables import table
from r1jax.stages.workdir import has_begun, held, read_result
from r1jax.training.metrics import METRICS

KEYS = ("stage", "question", "hypothesis", "order", "first", "base", "arms", "seeds", "shared", "part", "parts")
FIRST, RUN, RUNS = "first", "run", "runs"
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
    first = beginnings(config)
    folders = {name: str(_root(config, Path(workdir)) / name) for name in first}
    whole = [((FIRST, name), stage, folders[name]) for name, stage in first.items()]
    whole += [((RUN, each.arm), each.stage, str(each.folder)) for each in planned]
    unfinished = {name: stage for name, stage, folder in whole if not _finished(folder, stage)}
    for stage in unfinished.values():  # one of an arm's: a seed is nothing that a check looks at
        pipeline.STAGES[stage.stage].check(stage, folders)
    for name, stage in first.items():
        _make(f"{name}, which runs start from", stage, Path(folders[name]), folders, wait=True)
    mine = planned[config.part :: config.parts]
    titles = [f"run {at + 1} of {len(mine)}: {each.arm}, seed {each.seed}" for at, each in enumerate(mine)]
    left = [
        (title, each)
        for title, each in zip(titles, mine, strict=True)
        if not _make(title, each.stage, each.folder, folders, wait=False)
    ]
    for title, each in left:
        _make(title, each.stage, each.folder, folders, wait=True)
    done = [(each, result) for each in planned if (result := read_result(str(each.folder))) is not None]
    final, steps = Path(workdir) / FINAL, Path(workdir) / STEPS
    if processes.is_first():
        final.parent.mkdir(parents=True, exist_ok=True)
        _write(final, as_csv(_final_rows(done)))
        _write(steps, as_csv(_step_rows([each for each, _ in done])))
        folders = {f"{each.arm}/{each.seed}": os.path.relpath(each.folder, workdir) for each, _ in done}
        _write(Path(workdir) / FOLDERS, json.dumps(folders, indent=1))
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
                if "stage" in changes:
                    base = ConfigDict(changes).copy_and_resolve_references()
                else:
                    _change(base, changes, f"config.arms.{arm}")
                tree = _first(config).to_dict()
                tree["order"] = (*tree["order"], RUN)
                tree["stages"][RUN] = base.to_dict()
                stage = pipeline.pipeline_stages(ConfigDict(tree))[RUN]
            except ValueError as error:
                raise ValueError(f"arm {arm}: {error}") from error
            stage = dataclasses.replace(stage, seed=stage.seed + seed)
            folder = _root(config, workdir) / RUNS / _key(stage) if config.shared else workdir / arm / str(seed)
            runs.append(Planned(arm, seed, stage, folder))
    return runs


def beginnings(config: ConfigDict) -> dict[str, AnyStage]:
    """The stages that runs start from, checked, in order."""
    return pipeline.pipeline_stages(_first(config))


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Rows whose keys may differ; a column is empty where a row lacks it."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _finished(folder: str, stage: AnyStage) -> bool:
    return has_begun(folder, stage) and read_result(folder) is not None


def _make(title: str, stage: AnyStage, folder: Path, folders: Mapping[str, str], *, wait: bool) -> bool:
    """Runs what is left of a stage; False, and nothing done, where another process is at it and is not waited for."""
    with held(str(folder), wait=wait) as mine:
        if mine:
            processes.say(f"\n== {title}")
            pipeline.STAGES[stage.stage].run(stage, str(folder), folders)
        else:
            processes.say(f"\n== {title}: another process is at it; left for last")
        return mine


def _root(config: ConfigDict, workdir: Path) -> Path:
    return Path(config.shared) if config.shared else workdir / FIRST


def _key(stage: AnyStage) -> str:
    """A name for a config: two that could not go on in one folder have two. On another mesh a run may go on.

    What is left out does not count, nor what says that a later key changes nothing, so that a run keeps its name when
    stages learn a new option.
    """
    return hashlib.sha256(json.dumps(_said(as_before(to_dict(stage))), sort_keys=True).encode()).hexdigest()[:12]


def _said(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {key: _said(value) for key, value in tree.items() if key != "mesh" and value is not None}


def _first(config: ConfigDict) -> ConfigDict:
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
    if {FIRST, RUNS} & set(config.order):
        raise ValueError(f"config.order names {FIRST!r} or {RUNS!r}, which are folders of runs; choose another name")
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
    path = folder / METRICS
    if path.exists():  # of a stage that makes a dataset there are none
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def _write(path: Path, text: str) -> None:
    """The old file or the new one, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
