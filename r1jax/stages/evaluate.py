"""Evaluation: K samples a problem, graded; pass@1, pass@K, maj@K, format and mean tokens a task, and their curves."""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import Any

import numpy as np
from tqdm import tqdm

from r1jax import processes
from r1jax.config import DataConfig, EvaluationConfig, RewardsConfig
from r1jax.data import tasks, templates
from r1jax.data.records import Source
from r1jax.data.tokenizer import Tokenizer
from r1jax.rewards.compose import Rewards, load_rewards
from r1jax.rollout.engine import Engine
from r1jax.stages.budget import Budgets, check_budgets, keep_to
from r1jax.stages.correctness import PROGRAM, PROGRAMS, correct, graders, kind_of, reader
from r1jax.stages.graded import KEPT_COMPLETIONS, Graded, joined, problems, sample_curves, share, summary
from r1jax.stages.inference import check_prompts, completion_text, encode_prompt, seeds
from r1jax.stages.sharing import grade
from r1jax.training.metrics import write_jsonl
from r1jax.types import PyTree

SEED_PURPOSE = 3  # tells evaluation's seeds from training's
BUDGET_PURPOSE = 4  # and those of what is sampled under a budget of thinking
PROGRAMS_S = 86_400.0  # of a batch of programs, which have their own limits each: nothing waits for them here


def load_tasks(config: EvaluationConfig, data: DataConfig) -> dict[str, Source]:
    """The held-out problems by label, NAME:SPLIT.

    Raises:
      ValueError: a task is not known, named twice, or its data are missing or bad.
    """
    sources: dict[str, Source] = {}
    for spec in config.tasks.values():
        name, split = tasks.parse_name(spec.name)
        label = f"{name}:{split}"
        if label in sources:
            raise ValueError(f"evaluation.tasks names {label!r} twice; each task can be evaluated once")
        sources[label] = tasks.load(name, split, data_dir=data.data_dir, source_dir=data.source_dir, kwargs=spec.kwargs)
    return sources


class Evaluator:
    """Holds the held-out problems and the graders of a run. Close it to end the grading processes."""

    def __init__(
        self,
        config: EvaluationConfig,
        data: DataConfig,
        grading: RewardsConfig,
        *,
        template: str,
        tokenizer: Tokenizer,
        engine: Engine,
        context: int,
        seed: int,
    ):
        self._config, self._template, self._tokenizer = config, template, tokenizer
        self._engine, self._seed = engine, seed
        self._read = reader(template)
        self._sources = load_tasks(config, data)
        most = max(config.limit, config.every_limit) if config.limit and config.every_limit else 0
        records = []
        for label, source in self._sources.items():
            own = [source[i] for i in range(_count(len(source), most))]
            room, questions = context - config.max_tokens, [record["question"] for record in own]
            check_prompts(questions, tokenizer, template, room, "policy.context - evaluation.max_tokens", label)
            records += own
        self._rewards = _open_graders(template, records, grading)

    def __call__(
        self,
        params: PyTree,
        *,
        samples: int,
        limit: int,
        progress: bool,
        record: str | os.PathLike | None = None,
    ) -> dict[str, dict[str, Any]]:
        """{task: {"n", "pass@1", "pass@K", "maj@K", "format", "mean_tokens"}} with K = samples; see `graded.summary`.

        Args:
          record: a file that is given a line a problem, as `graded.problems` has them; whole or not at all.
        """
        graded = self.graded(params, samples=samples, limit=limit, progress=progress, budgets=None)
        if record is not None and processes.is_first():
            rows = (row for label, source in self._sources.items() for row in problems(label, source, graded[label][0]))
            write_jsonl(record, rows)
        return {label: summary(free, samples) for label, (free,) in graded.items()}

    def curves(
        self, params: PyTree, *, samples: int, limit: int, progress: bool, budgets: Budgets | None
    ) -> dict[str, dict[str, Any]]:
        """As a call, and of each task "pass@k", "maj@k" {k: share} and, given budgets, "budget", a list of figures.

        Raises:
          ValueError: a budget does not fit `evaluation.max_tokens`, or the template knows no thoughts.
        """
        results = {}
        graded = self.graded(params, samples=samples, limit=limit, progress=progress, budgets=budgets)
        for label, (free, *kept) in graded.items():
            results[label] = summary(free, samples) | sample_curves(free, samples)
            if budgets is not None:
                results[label]["budget"] = [
                    {"budget": budget, "forced": share(under.forced_MK)} | summary(under, samples)
                    for budget, under in zip(budgets.thinking, kept, strict=True)
                ]
        return results

    def graded(
        self, params: PyTree, *, samples: int, limit: int, progress: bool, budgets: Budgets | None
    ) -> dict[str, list[Graded]]:
        """Each task's completions, as they come and then under each budget. Raises as `curves` does."""
        if budgets is not None:
            check_budgets(budgets, self._template, self._tokenizer, self._config.max_tokens)
        return {
            label: self._grade(params, label, source, samples, limit, progress, budgets)
            for label, source in self._sources.items()
        }

    def close(self) -> None:
        self._rewards.close()

    def _grade(self, params, label, source, samples, limit, progress, budgets) -> list[Graded]:
        """The completions as they come, then under each budget."""
        n = _count(len(source), limit)
        parts = []
        batch = min(self._config.batch, n)
        starts = range(0, n, batch)
        hidden = not (progress and processes.is_first())
        for start in tqdm(starts, desc=f"  {label}", unit="batch", file=sys.stderr, leave=False, disable=hidden):
            records = [source[i] for i in range(start, min(start + batch, n))]
            parts.append(self._grade_batch(params, records, samples, batch, start, budgets))
        return [joined(same) for same in zip(*parts, strict=True)]

    def _grade_batch(
        self, params: PyTree, records: list[dict], samples: int, batch: int, start: int, budgets: Budgets | None
    ) -> list[Graded]:
        prompts = [templates.render(self._template, r["question"], self._tokenizer) for r in records]
        tokens = [encode_prompt(self._tokenizer, prompt) for prompt in prompts]
        filled = tokens + [tokens[0]] * (batch - len(tokens))  # the last batch keeps the shape of the others
        seed_B = seeds(self._seed, batch * samples, SEED_PURPOSE, start)
        free = self._sample(params, filled, seed_B, self._config.max_tokens)[: len(records) * samples]
        graded = [self._score(records, prompts, samples, free)]
        for budget in budgets.thinking if budgets else ():
            assert budgets is not None  # for the type checker, which does not see it from the line above
            given = iter(range(2**31))  # numbers the calls of one budget

            def go_on(texts: list[list[int]], room: int) -> list[list[int]]:
                count = 1 << (len(texts) - 1).bit_length()  # few shapes
                seed_B = seeds(self._seed, count, BUDGET_PURPOSE, start, budget, next(given))  # noqa: B023
                return self._sample(params, texts + [texts[0]] * (count - len(texts)), seed_B, room)[: len(texts)]

            repeated = [ids for ids in tokens for _ in range(samples)]
            kept, forced_B = keep_to(budget, budgets, go_on, self._tokenizer, self._template, repeated, free)
            shape = (len(records), samples)
            graded.append(self._score(records, prompts, samples, kept)._replace(forced_MK=forced_B.reshape(shape)))
        return graded

    def _sample(self, params: PyTree, prompts: list[list[int]], seed_B: np.ndarray, max_tokens: int) -> list[list[int]]:
        """Completions, in the order of the seeds."""
        out = self._engine.generate(
            params,
            prompts,
            seed_B,
            temperature=self._config.temperature,
            top_k=0,
            top_p=self._config.top_p,
            max_tokens=max_tokens,
        )
        return [row[:n].tolist() for row, n in zip(out.completion_BL, out.length_B, strict=True)]

    def _score(self, records: list[dict], prompts: list[str], samples: int, ids: list[list[int]]) -> Graded:
        texts = [completion_text(self._tokenizer, row) for row in ids]
        asked = [record for record in records for _ in range(samples)]
        graded = grade(self._rewards, [p for p in prompts for _ in range(samples)], texts, _columns(asked), ids)
        shape = (len(records), samples)
        return Graded(
            correct(graded).reshape(shape),
            graded.by_name["format"].reshape(shape),
            np.array([len(row) for row in ids], np.int32).reshape(shape),
            _groups([self._read(*row) for row in zip(texts, asked, strict=True)], samples),
            [own[:KEPT_COMPLETIONS] for own in _groups(texts, samples)],
            [kind_of(record) for record in records],
        )


def _open_graders(template: str, records: list[dict], grading: RewardsConfig) -> Rewards:
    """The graders of `records`, to be closed. Raises ValueError where programs cannot be run here, or their tests."""
    programs = [record for record in records if kind_of(record) == PROGRAM]
    if programs:
        grading = dataclasses.replace(grading, timeout_s=PROGRAMS_S)
    rewards = load_rewards(graders(template, records, grading.workers), grading)
    try:
        if programs:
            rewards.check(_columns(programs))
    except ValueError:
        rewards.close()
        raise
    return rewards


def _groups(items: list, size: int) -> list[list]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _columns(records: list[dict]) -> dict[str, list[Any]]:
    """Their fields; those that judge programs are always among them, for a task's records need not be alike."""
    keys = dict.fromkeys([*(key for record in records for key in record), *PROGRAMS])
    return {key: [record.get(key) for record in records] for key in keys}


def _count(available: int, limit: int) -> int:
    return min(available, limit) if limit else available
