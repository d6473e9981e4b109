"""Evaluates a checkpoint: one JSON line a task with pass@1, pass@K, maj@K, format and mean tokens.

python -m r1jax.evaluate --checkpoint=runs/zero/zero --tasks=arithmetic:test,gsm8k:test --samples=16
python -m r1jax.evaluate --checkpoint=runs/zero/zero --tasks=arithmetic:test --samples=16 --curves --budgets=8,16,32

The first line's figures are always there. --curves adds pass@k and maj@k for k = 1, 2, 4, ..; --budgets the figures
under budgets of thinking.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from absl import flags

import r1jax
from r1jax import command
from r1jax.config import ConvertedStage, RlStage, SftStage, TaskSpec
from r1jax.data import tasks
from r1jax.stages.budget import Budgets
from r1jax.stages.evaluate import Evaluator

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A stage's workdir or a converted checkpoint.", required=True)
_TASKS = flags.DEFINE_list(
    "tasks", None, "NAME[:SPLIT], comma-separated; as in a config's data.sources.", required=True
)
_SAMPLES = flags.DEFINE_integer("samples", 1, "K: completions a problem.", lower_bound=1)
_LIMIT = flags.DEFINE_integer("limit", 0, "Problems a task; 0 is all.", lower_bound=0)
_TEMPERATURE = flags.DEFINE_float("temperature", None, "Of sampling; the checkpoint's own if not given.", lower_bound=0)
_TOP_P = flags.DEFINE_float("top_p", None, "Of sampling; the checkpoint's own if not given.")
_MAX_TOKENS = flags.DEFINE_integer("max_tokens", None, "Of a completion; the checkpoint's if not given.", lower_bound=1)
_SOURCE_DIR = flags.DEFINE_string("source_dir", None, "Folder of raw data files; the checkpoint's own if not given.")
_CURVES = flags.DEFINE_boolean("curves", False, "Adds pass@k and maj@k for k = 1, 2, 4, .., K.")
_BUDGETS = flags.DEFINE_list("budgets", [], "Tokens of thinking, comma-separated: adds the figures under each.")
_ANSWER_TOKENS = flags.DEFINE_integer(
    "answer_tokens", 16, "Of an answer asked for at the end of a budget.", lower_bound=1
)
_EXTENSIONS = flags.DEFINE_integer(
    "extensions", 0, "How often a thought that ends within its budget is told to go on.", lower_bound=0
)
_SEED = flags.DEFINE_integer("seed", 0, "Of sampling.", lower_bound=0)


def main(_: list[str]) -> list[dict[str, Any]]:
    policy = r1jax.load(_CHECKPOINT.value)
    own = policy.stage.evaluation
    kwargs = known_parameters(policy.stage)
    named = {":".join(tasks.parse_name(name)): tasks.parse_name(name)[0] for name in _TASKS.value}
    config = dataclasses.replace(
        own,
        tasks={label: TaskSpec(label, kwargs.get(name, {})) for label, name in named.items()},
        limit=_LIMIT.value,
        temperature=own.temperature if _TEMPERATURE.value is None else _TEMPERATURE.value,
        top_p=own.top_p if _TOP_P.value is None else _TOP_P.value,
        max_tokens=own.max_tokens if _MAX_TOKENS.value is None else _MAX_TOKENS.value,
    )
    data = policy.stage.data
    if _SOURCE_DIR.value is not None:
        data = dataclasses.replace(data, source_dir=_SOURCE_DIR.value)
    evaluator = Evaluator(
        config, data, policy.stage.grading, template=policy.stage.template, tokenizer=policy.tokenizer,
        engine=policy.engine, context=policy.config.context, seed=_SEED.value,
    )  # fmt: skip
    how: dict[str, Any] = dict(samples=_SAMPLES.value, limit=_LIMIT.value, progress=True)
    budgets = _budgets()
    try:
        if _CURVES.value or budgets:
            results = evaluator.curves(policy.params, **how, budgets=budgets)
        else:
            results = evaluator(policy.params, **how)
    finally:
        evaluator.close()
    return [{"task": task} | figures for task, figures in results.items()]


def _budgets() -> Budgets | None:
    """Raises ValueError where a budget is no number."""
    if not _BUDGETS.value:
        return None
    bad = [text for text in _BUDGETS.value if not text.strip().isdecimal()]
    if bad:
        raise ValueError(f"--budgets holds {bad[0]!r}; expected numbers of tokens, such as 16,32,64")
    return Budgets(tuple(map(int, _BUDGETS.value)), _ANSWER_TOKENS.value, _EXTENSIONS.value)


def known_parameters(stage: SftStage | RlStage | ConvertedStage) -> dict[str, dict[str, Any]]:
    """The parameters that a checkpoint's config gives to tasks, by name without split; its evaluation's come first."""
    trained = {spec.name: spec.kwargs for spec in stage.data.sources.values()}
    return trained | {tasks.parse_name(spec.name)[0]: spec.kwargs for spec in stage.evaluation.tasks.values()}


if __name__ == "__main__":
    command.main(main)
