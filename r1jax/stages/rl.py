"""Reinforcement learning: sample groups, reward their text, update the policy with GRPO. One step a rollout batch."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from r1jax.config import RlStage
from r1jax.data import tasks, templates
from r1jax.data.loader import Loader
from r1jax.data.packing import pack_groups, pad_rows
from r1jax.data.records import Source
from r1jax.data.tokenizer import Tokenizer
from r1jax.losses import group_advantages
from r1jax.rewards.answers import check_gold
from r1jax.rewards.compose import RewardBatch, Rewards, load_rewards
from r1jax.stages.evaluate import Evaluator
from r1jax.stages.inference import (
    check_prompts,
    check_start,
    completion_text,
    encode_prompt,
    load_params,
    make_engine,
    seeds,
)
from r1jax.stages.run import Run, check_stage
from r1jax.training.flops import forward_flops, peak_flops
from r1jax.training.optimizer import make_optimizer, schedule
from r1jax.training.state import TrainState, abstract_state, shardings, start_state
from r1jax.training.step import RlBatch, rl_step, score
from r1jax.types import PyTree, Rollouts

ROLLOUT_SEEDS = 1  # purpose of these seeds, beside evaluation's


class Rewarded(NamedTuple):
    """A rollout batch with its text and rewards."""

    prompts: list[str]  # P
    prompt_ids: list[list[int]]
    texts: list[str]  # B
    rollouts: Rollouts
    rewards: RewardBatch
    advantages_B: np.ndarray


class Inputs(NamedTuple):
    """What a config names, opened and checked. `rewards` is to be closed."""

    mesh: Mesh
    sources: list[Source]
    rewards: Rewards


def run(config: RlStage, workdir: str, init_from: str | None = None) -> dict[str, Any]:
    """Runs or resumes the stage in `workdir`.

    Args:
      init_from: the folder to start from, where `config.init_from` is the name of a pipeline's stage.

    Returns:
      its result {task: figures}.
    """
    with Run(config, workdir) as run_:
        if run_.result is None:
            _train(config, run_, config.init_from if init_from is None else init_from)
        return run_.result_or_fail()


def check(config: RlStage) -> None:
    """Refuses what can be told wrong with no checkpoint at hand. Reads data; compiles nothing."""
    open_inputs(config).rewards.close()


def open_inputs(config: RlStage) -> Inputs:
    """Raises ValueError where the config, a reward function or the data are bad."""
    mesh = check_stage(config)
    rewards = load_rewards(config.rewards, config.grading)
    sources = []
    for spec in config.data.sources.values():
        data = config.data
        source = tasks.load(spec.name, "train", data_dir=data.data_dir, source_dir=data.source_dir, kwargs=spec.kwargs)
        rewards.check(source[0].keys())
        sources.append(source)
    return Inputs(mesh, sources, rewards)


def _train(config: RlStage, run_: Run, init_from: str) -> None:
    mesh, sources, rewards = open_inputs(config)
    run_.enter(rewards)
    check_start(init_from, config.policy)
    tokenizer = run_.tokenizer(lambda: Tokenizer.load(init_from))
    _check_records(config, sources, rewards, tokenizer, run_)
    loader = Loader(
        sources,
        [s.weight for s in config.data.sources.values()],
        batch=config.rollout.prompts,
        seed=config.seed,
        shuffle=True,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    engine = make_engine(config.policy, mesh, tokenizer, config.template)
    evaluator = run_.enter(
        Evaluator(
            config.evaluation, config.data, config.grading,
            template=config.template, tokenizer=tokenizer, engine=engine, context=config.policy.context,
            seed=config.seed,
        )
    )  # fmt: skip
    updates = config.grpo.minibatches * config.grpo.epochs  # a step
    optimizer = make_optimizer(config.optimizer, config.steps * updates)
    abstract = abstract_state(config.policy, optimizer, mesh, with_reference=config.grpo.kl_coef > 0)
    programs = Programs(config, optimizer, abstract)
    with jax.set_mesh(mesh):
        state, host = run_.begin(
            tokenizer, abstract, lambda: start_state(load_params(init_from, config.policy, mesh), optimizer, abstract)
        )
        if host:
            loader.set_state(host["loader"])
        rate = schedule(config.optimizer, config.steps * updates)
        peak = peak_flops()
        for step in run_.steps():
            began = time.perf_counter()
            if config.grpo.reference_refresh and step > 1 and (step - 1) % config.grpo.reference_refresh == 0:
                state = programs.refresh(state)
            batch, times = _sample(config, tokenizer, engine, rewards, state.params, next(loader), step)
            updating = time.perf_counter()
            minibatches = list(_minibatches(config, batch, tokenizer.pad_id))
            state, metrics = programs.update(state, minibatches)
            metrics |= _figures(config, batch) | batch.rewards.metrics | times
            seconds = time.perf_counter() - updating
            metrics["time/update_s"] = seconds
            metrics["update/tokens_per_s"] = float(batch.rollouts.length_B.sum()) / seconds
            metrics["update/mfu"] = programs.flops(minibatches) / seconds / peak
            metrics["lr"] = float(rate(step * updates - 1))
            metrics["time/step_s"] = time.perf_counter() - began
            run_.log(step, metrics, _sample_rows(config, batch, step))
            run_.evaluate(step, lambda **how: evaluator(state.params, **how))  # noqa: B023
            run_.save(step, state, {"loader": loader.state()})
        how = config.evaluation
        run_.finish(evaluator(state.params, samples=how.samples, limit=how.limit, progress=True))


class Programs:
    """The stage's compiled steps: shardings and donation stand here, the arithmetic in `training/step.py`."""

    def __init__(self, config: RlStage, optimizer: Any, abstract: TrainState):
        self._config = config
        place = shardings(abstract)
        temperature = config.rollout.temperature
        self._update = jax.jit(
            functools.partial(
                rl_step, config.policy, config.batch, config.router, config.grpo, temperature,
                config.rollout.max_tokens, optimizer,
            ),
            donate_argnums=0,
            out_shardings=(place, None),
        )  # fmt: skip
        self._score = jax.jit(functools.partial(score, config.policy, config.batch, temperature))
        self._refresh = jax.jit(
            lambda state: state._replace(reference=jax.tree.map(jnp.copy, state.params)),
            donate_argnums=0,
            out_shardings=place,
        )
        self._count = jax.jit(lambda state: state._replace(step=state.step + 1), donate_argnums=0, out_shardings=place)

    def refresh(self, state: TrainState) -> TrainState:
        """The policy becomes the reference."""
        return self._refresh(state)

    def update(self, state: TrainState, batches: list[RlBatch]) -> tuple[TrainState, dict[str, float]]:
        """All mini-batches and epochs over one rollout batch; metrics are means over the updates."""
        grpo = self._config.grpo
        if self._is_off_policy():  # once, before the first update moves the policy
            batches = [b._replace(logp_old_BL=self._score(state.params, b.packed, b.index_BL)) for b in batches]
        if grpo.kl_coef > 0:
            batches = [b._replace(logp_ref_BL=self._score(state.reference, b.packed, b.index_BL)) for b in batches]
        gathered = []
        for _ in range(grpo.epochs):
            for b in batches:
                state, metrics = self._update(state, b)
                gathered.append(metrics)
        fetched = jax.device_get(gathered)
        return self._count(state), {key: float(np.mean([m[key] for m in fetched])) for key in fetched[0]}

    def flops(self, batches: list[RlBatch]) -> float:
        """Model FLOPs of `update`: forward and backward each epoch, and forward for each policy that only scores."""
        passes = 3 * self._config.grpo.epochs + self._is_off_policy() + (self._config.grpo.kl_coef > 0)
        return passes * sum(forward_flops(self._config.policy, b.packed) for b in batches)

    def _is_off_policy(self) -> bool:
        return self._config.grpo.minibatches * self._config.grpo.epochs > 1


def _minibatches(config: RlStage, batch: Rewarded, pad_id: int) -> Iterator[RlBatch]:
    """The groups split in `grpo.minibatches`, packed to one shape, so that one program serves them all."""
    rollouts = batch.rollouts
    samples, length = config.rollout.samples, config.rollout.max_tokens
    prompts = config.rollout.prompts // config.grpo.minibatches
    parts = []
    for first in range(0, config.rollout.prompts, prompts):
        those = slice(first * samples, (first + prompts) * samples)
        completions = [
            row[:n].tolist() for row, n in zip(rollouts.completion_BL[those], rollouts.length_B[those], strict=True)
        ]
        packed, index_BL = pack_groups(
            batch.prompt_ids[first : first + prompts],
            completions,
            row_length=config.batch.row_length,
            row_multiple=config.batch.rows,
            length=length,
            pad_id=pad_id,
        )
        parts.append((packed, index_BL, batch.advantages_B[those], rollouts.logp_sampler_BL[those]))
    rows = max(packed.tokens_RT.shape[0] for packed, *_ in parts)
    for packed, index_BL, advantages_B, sampler_BL in parts:
        yield RlBatch(pad_rows(packed, rows, pad_id), index_BL, advantages_B, sampler_BL, None, None)


def _check_records(config: RlStage, sources: list[Source], rewards: Rewards, tokenizer: Tokenizer, run_: Run) -> None:
    """Refuses prompts that leave no room for a completion; says how many gold answers cannot be read."""
    room = min(config.policy.context, config.batch.row_length) - config.rollout.max_tokens
    what = "min(policy.context, batch.row_length) - rollout.max_tokens"
    for spec, source in zip(config.data.sources.values(), sources, strict=True):
        records = [source[i] for i in range(len(source))]
        check_prompts([r["question"] for r in records], tokenizer, config.template, room, what, spec.name)
        unread = check_gold([r["answer"] for r in records], [r["task"] for r in records], rewards.pool)
        if unread:
            where = f"{len(unread)} of {len(records)}; the first is record {unread[0]}"
            run_.say(f"{spec.name}: gold answers that cannot be read, so are compared by spelling: {where}")


def _sample(
    config: RlStage, tokenizer: Tokenizer, engine: Any, rewards: Any, params: PyTree, records: list[dict], step: int
) -> tuple[Rewarded, dict[str, float]]:
    """Prompts, completions, rewards and advantages of one step, and the seconds they took."""
    began = time.perf_counter()
    samples = config.rollout.samples
    prompts = [templates.render(config.template, r["question"]) for r in records]
    prompt_ids = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    rollouts = engine.generate(
        params,
        prompt_ids,
        seeds(config.seed, len(prompts) * samples, ROLLOUT_SEEDS, step),
        temperature=config.rollout.temperature,
        top_k=config.rollout.top_k,
        top_p=config.rollout.top_p,
        max_tokens=config.rollout.max_tokens,
    )
    sampled = time.perf_counter()
    ids = [row[:n] for row, n in zip(rollouts.completion_BL, rollouts.length_B, strict=True)]
    texts = [completion_text(tokenizer, row) for row in ids]
    keys = list(dict.fromkeys(key for record in records for key in record))
    columns = {key: [r.get(key) for r in records for _ in range(samples)] for key in keys}
    scored = rewards([p for p in prompts for _ in range(samples)], texts, columns, ids)
    advantages_PG = group_advantages(scored.total_B.reshape(-1, samples), scale=config.grpo.advantage_scale)
    times = {
        "time/rollout_s": sampled - began,
        "time/reward_s": time.perf_counter() - sampled,
        "rollout/tokens_per_s": float(rollouts.length_B.sum()) / (sampled - began),
    }
    return Rewarded(prompts, prompt_ids, texts, rollouts, scored, np.asarray(advantages_PG).reshape(-1)), times


def _figures(config: RlStage, batch: Rewarded) -> dict[str, float]:
    length_B = batch.rollouts.length_B
    spread_P = batch.rewards.total_B.reshape(-1, config.rollout.samples).std(axis=1)
    return {
        "reward/frac_zero_std": float((spread_P < 1e-6).mean()),
        "completion/mean_length": float(length_B.mean()),
        "completion/max_length": float(length_B.max()),
        "completion/frac_truncated": float(1.0 - batch.rollouts.finished_B.mean()),
    }


def _sample_rows(config: RlStage, batch: Rewarded, step: int) -> list[dict[str, Any]]:
    if not config.log.samples_every or (step - 1) % config.log.samples_every:
        return []
    samples = config.rollout.samples
    return [
        {
            "prompt": batch.prompts[b // samples],
            "completion": batch.texts[b],
            "rewards": {name: float(values[b]) for name, values in batch.rewards.by_name.items()},
            "reward": float(batch.rewards.total_B[b]),
            "advantage": float(batch.advantages_B[b]),
        }
        for b in range(min(config.log.samples, len(batch.texts)))
    ]
