"""pass@k, maj@k and accuracy under budgets of thinking, of every checkpoint of the sweep, as a table: `curves.csv`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import r1jax
from r1jax import sweep
from r1jax.stages.budget import Budgets
from r1jax.stages.evaluate import Evaluator

CURVES = "curves.csv"
TASK = "arithmetic:test"
SAMPLES, PROBLEMS = 16, 100
BUDGETS = Budgets(thinking=(4, 8, 12, 16, 24), answer_tokens=8, extensions=0)


def write(config: ConfigDict, workdir: Path) -> Path:
    """The table of all runs of the sweep, each of which must be finished."""
    rows = [row for each in sweep.plan(config, workdir) for row in measured(each)]
    path = workdir / CURVES
    path.write_text(sweep.as_csv(rows), encoding="utf-8")
    return path


def measured(run: sweep.Planned) -> list[dict[str, Any]]:
    """A row for each number of samples and each budget; `budget` is empty where the thought is as long as it comes."""
    policy = r1jax.load(str(run.folder))
    stage = policy.stage
    evaluator = Evaluator(
        stage.evaluation, stage.data, stage.grading, template=stage.template, tokenizer=policy.tokenizer,
        engine=policy.engine, context=policy.config.context, seed=run.seed,
    )  # fmt: skip
    try:
        of = evaluator.curves(policy.params, samples=SAMPLES, limit=PROBLEMS, progress=True, budgets=BUDGETS)[TASK]
    finally:
        evaluator.close()
    arm = {"arm": run.arm, "seed": run.seed}
    free = {"budget": "", "pass@1": of["pass@1"], "mean_tokens": of["mean_tokens"]}
    by_k = [arm | free | {"k": k, "pass@k": passed, "maj@k": of["maj@k"][k]} for k, passed in of["pass@k"].items()]
    by_budget = [
        arm | {"budget": x["budget"], "pass@1": x["pass@1"], "mean_tokens": x["mean_tokens"], "forced": x["forced"]}
        | {"k": SAMPLES, "pass@k": x[f"pass@{SAMPLES}"], "maj@k": x[f"maj@{SAMPLES}"]}
        for x in of["budget"]
    ]  # fmt: skip
    return by_k + by_budget
