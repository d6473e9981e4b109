"""What a run of the whole recipe leaves behind, as far as the findings need it. Reads files; computes nothing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Problem = dict[str, Any]  # a line of evaluation.jsonl
ARITHMETIC = "arithmetic:test"


class MissingError(ValueError):
    """A run lacks what a finding is measured on."""


@dataclasses.dataclass
class Recipe:
    """One run. The last three fields come from its checkpoints (probes.py), the others from its files."""

    name: str
    seed: int
    problems: dict[str, dict[str, list[Problem]]]  # stage -> task -> its problems, in order
    metrics: dict[str, list[dict[str, float]]]  # stage -> a line a step
    budgets: dict[str, dict[int, np.ndarray]] = dataclasses.field(default_factory=dict)  # stage -> tokens -> correct_MK
    scores: dict[str, dict[str, np.ndarray]] = dataclasses.field(default_factory=dict)  # stage -> model -> score_M
    state_bytes: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)  # stage -> part -> bytes

    def task(self, stage: str, task: str = ARITHMETIC) -> list[Problem]:
        """Raises MissingError where the stage was not evaluated on the task."""
        found = self.problems.get(stage, {}).get(task)
        if not found:
            raise MissingError(f"{self.name}: stage {stage} has no evaluation of {task}")
        return found

    def paired(self, stages: Sequence[str], task: str = ARITHMETIC) -> list[list[Problem]]:
        """The problems that all of some stages were evaluated on, in one order.

        Raises:
          MissingError: a stage was not evaluated on the task, or they have no problem in common.
        """
        by_stage = [{(p["index"], p["question"]): p for p in self.task(stage, task)} for stage in stages]
        shared = [key for key in by_stage[0] if all(key in own for own in by_stage)]
        if not shared:
            raise MissingError(f"{self.name}: stages {', '.join(stages)} share no problem of {task}")
        return [[own[key] for key in shared] for own in by_stage]

    def series(self, stage: str, metric: str) -> np.ndarray:
        """A metric at each step. Raises MissingError where there is none."""
        found = [row[metric] for row in self.metrics.get(stage, []) if metric in row]
        if not found:
            raise MissingError(f"{self.name}: stage {stage} has no {metric}")
        return np.asarray(found, np.float64)


def read(folder: Path) -> Recipe:
    """Raises ValueError where the folder holds no stage of a run."""
    stages = sorted(path.parent for path in folder.glob("*/config.json"))
    if not stages:
        raise ValueError(f"{folder} holds no stages; give the workdir of a run of configs/r1_tiny.py")
    first = folder / "base" if folder / "base" in stages else stages[0]
    seed = json.loads((first / "config.json").read_text("utf-8"))["seed"]
    problems: dict[str, dict[str, list[Problem]]] = {}
    metrics = {}
    for stage in stages:
        tasks = problems.setdefault(stage.name, {})
        for problem in _lines(stage / "evaluation.jsonl"):
            tasks.setdefault(problem["task"], []).append(problem)
        metrics[stage.name] = _lines(stage / "metrics.jsonl")
    return Recipe(folder.name, seed, problems, metrics)


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
