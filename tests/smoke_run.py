"""The smoke pipeline, run once for all the tests that look at what a run leaves behind."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import r1jax
from configs import smoke
from r1jax import pipeline
from r1jax.config import RlStage, SftStage, stage_config
from r1jax.stages.run import Run

ROOT = Path(__file__).resolve().parent.parent
DATA_DIR = str(ROOT / ".pytest_cache" / "data")


# Several updates a rollout, so that the ratio leaves 1 and clipping acts, and a reference that is refreshed.
OFF_POLICY = {
    "zero.grpo.minibatches": 2,
    "zero.grpo.epochs": 2,
    "zero.grpo.clip_low": 0.01,
    "zero.grpo.clip_high": 0.01,
    "zero.grpo.reference_refresh": 2,
    "zero.optimizer.lr": 5e-3,
}


def config(**changes: Any) -> ConfigDict:
    """The smoke pipeline's config with `OFF_POLICY`, its data kept beside the tests' other caches.

    Args:
      changes: by path, such as {"zero.grpo.epochs": 1}.
    """
    tree = smoke.get_config()
    with tree.unlocked():
        for stage in tree.stages.values():
            stage.data.data_dir = DATA_DIR
        for path, value in (OFF_POLICY | changes).items():
            *sections, key = path.split(".")
            section = functools.reduce(lambda node, name: node[name], sections, tree.stages)
            section[key] = value
    return tree


def stage(name: str, **changes: Any) -> SftStage | RlStage:
    """One stage of it, keys without the stage's name; an RL stage starts from the finished base."""
    tree = config(**{f"{name}.{path}": value for path, value in changes.items()}).stages[name]
    if name == "zero" and "init_from" not in changes:
        with tree.unlocked():
            tree.init_from = str(finished() / "base")
    return stage_config(tree)


@functools.cache
def finished() -> Path:
    """The workdir of a finished pipeline. Read it, copy from it, do not write to it."""
    workdir = Path(tempfile.mkdtemp(prefix="r1jax-smoke-"))
    atexit.register(shutil.rmtree, workdir, ignore_errors=True)
    result = pipeline.run(config(), str(workdir))
    (workdir / "returned.json").write_text(json.dumps(result))
    return workdir


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def untimed(row: dict[str, Any]) -> dict[str, Any]:
    """A line of metrics without what depends on the clock, or on what was compiled before."""
    clocked = ("time/", "compile/", "rollout/tokens_per_s", "update/tokens_per_s", "update/mfu")
    return {key: value for key, value in row.items() if not key.startswith(clocked)}


class Killed(BaseException):
    """Stands in for SIGKILL: nothing catches it."""


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ends runs at `step`, after its metrics are logged and before it is evaluated or saved."""
    evaluate = Run.evaluate

    def evaluate_or_die(run: Run, at: int, *args: Any) -> None:
        if at == step:
            raise Killed
        evaluate(run, at, *args)

    monkeypatch.setattr(Run, "evaluate", evaluate_or_die)


def differences(one: Path, other: Path) -> list[str]:
    """What two finished stages do not have in common, of what must not depend on how often they were interrupted."""
    found = []
    if list(map(untimed, rows(one / "metrics.jsonl"))) != list(map(untimed, rows(other / "metrics.jsonl"))):
        found.append("metrics.jsonl")
    for name in ("samples.jsonl", "evaluation.jsonl", "evaluations.jsonl", "result.json", "tokenizer.model"):
        if (one / name).read_bytes() != (other / name).read_bytes():
            found.append(name)
    first, second = (r1jax.load(str(folder)).params for folder in (one, other))
    for path, leaf in jax.tree_util.tree_leaves_with_path(first):
        same = functools.reduce(lambda node, key: node[key.key], path, second)
        if np.asarray(leaf).tobytes() != np.asarray(same).tobytes():
            found.append(jax.tree_util.keystr(path))
    return found
