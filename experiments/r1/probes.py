"""What the findings need of a run's checkpoints: accuracy under budgets of thinking, reward models' scores, and the
bytes of a training state."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

import r1jax
from experiments.r1.records import ARITHMETIC, MissingError, Recipe
from r1jax.data.tasks import parse_name
from r1jax.mesh import make_mesh
from r1jax.rewards import preference
from r1jax.stages.budget import Budgets
from r1jax.stages.evaluate import Evaluator
from r1jax.stages.inference import ONE_DEVICE
from r1jax.stages.scoring import Scorer, open_scorer
from r1jax.training.checkpoint import Checkpoints

BUDGETS = Budgets(thinking=(4, 8, 16, 24, 32, 48), answer_tokens=16, extensions=0)
ROOM = 16  # tokens of the words that ask for the answer, at most
PROBLEMS, SAMPLES = 100, 4  # of the curve over budgets
ADVICE = "general_advice:test"  # questions that the reward models know

CURVES = ("zero", "general")
SCORED = ("reasoning", "sft2", "all", "general")
WEIGHED = ("zero", "ppo")


def budget_curve(folder: Path) -> dict[int, np.ndarray]:
    """correct_MK under each budget of thinking, by its tokens."""
    policy = r1jax.load(str(folder))
    own = policy.stage.evaluation
    specs = {name: spec for name, spec in own.tasks.items() if ":".join(parse_name(spec.name)) == ARITHMETIC}
    most = max(BUDGETS.thinking) + BUDGETS.answer_tokens + ROOM
    evaluator = Evaluator(
        dataclasses.replace(own, tasks=specs, max_tokens=max(own.max_tokens, most), batch=min(own.batch, PROBLEMS)),
        policy.stage.data, policy.stage.grading, template=policy.stage.template, tokenizer=policy.tokenizer,
        engine=policy.engine, context=policy.config.context, seed=0,
    )  # fmt: skip
    try:
        graded = evaluator.graded(policy.params, samples=SAMPLES, limit=PROBLEMS, progress=True, budgets=BUDGETS)
    finally:
        evaluator.close()
    _, *under = graded[ARITHMETIC]
    return {budget: of.correct_MK for budget, of in zip(BUDGETS.thinking, under, strict=True)}


def scores(run: Recipe, stage: str, models: Mapping[str, Scorer]) -> dict[str, np.ndarray]:
    """score_M of a stage's completions to requests for advice, the mean over each request's, by model."""
    problems = run.task(stage, ADVICE)
    questions = [p["question"] for p in problems for _ in p["completions"]]
    completions = [text for p in problems for text in p["completions"]]
    ends_M = np.cumsum([len(p["completions"]) for p in problems])[:-1]
    grade = {"helpful": preference.helpful, "harmless": preference.harmless}
    return {
        name: np.array([
            np.mean(own)
            for own in np.split(grade[name](completions, questions, checkpoint=name, scorer=scorer), ends_M)
        ])
        for name, scorer in models.items()
    }  # fmt: skip


def state_bytes(folder: Path) -> dict[str, int]:
    """Bytes of a stage's newest training state by part, from the shapes and types in its checkpoint."""
    checkpoints = Checkpoints(str(folder), keep=None)
    try:
        step = checkpoints.latest()
    finally:
        checkpoints.close()
    parts: dict[str, int] = {}
    for item in ("params", "train"):
        path = folder.resolve() / "checkpoints" / str(step) / item
        tree = ocp.PyTreeCheckpointer().metadata(path).item_metadata.tree
        for name, leaves in tree.items():
            size = sum(leaf.dtype.itemsize * math.prod(leaf.shape) for leaf in jax.tree.leaves(leaves))
            parts[name] = parts.get(name, 0) + size
    return parts


def fill(run: Recipe, folder: Path, keys: frozenset[str]) -> None:
    """Adds to a run what the findings `keys` need of its checkpoints, as far as these are there."""
    if "F8" in keys:
        run.budgets = {name: budget_curve(folder / name) for name in CURVES if _has(folder, name)}
    if "F6" in keys:
        mesh = make_mesh(ONE_DEVICE, jax.devices()[:1])
        names = [name for name in ("helpful", "harmless") if _has(folder, name)]
        models = {name: open_scorer(str(folder / name), mesh) for name in names}
        for stage in SCORED:
            try:
                run.scores[stage] = scores(run, stage, models)
            except MissingError:
                continue  # the finding says so
    if "F9" in keys:
        run.state_bytes = {name: state_bytes(folder / name) for name in WEIGHED if _has(folder, name)}


def _has(folder: Path, stage: str) -> bool:
    return (folder / stage / "checkpoints").is_dir()
