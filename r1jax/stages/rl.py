"""Reinforcement learning: sample groups, reward their text, update the policy with GRPO. One step a rollout batch."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from r1jax.config import RlStage
from r1jax.data import tasks
from r1jax.data.loader import Loader
from r1jax.data.records import Source
from r1jax.data.tokenizer import Tokenizer
from r1jax.rewards.compose import Rewards, load_rewards
from r1jax.stages import graders, groups
from r1jax.stages.evaluate import Evaluator
from r1jax.stages.inference import check_prompts, check_start, load_params, make_engine
from r1jax.stages.run import NO_FOLDERS, Run, check_stage
from r1jax.training.flops import forward_flops, peak_flops
from r1jax.training.optimizer import make_optimizer, schedule
from r1jax.training.state import TrainState, abstract_state, shardings, start_state
from r1jax.training.step import RlBatch, rl_step, score
from r1jax.types import Array


class Inputs(NamedTuple):
    """What a config names, opened and checked. `rewards` is to be closed."""

    mesh: Mesh
    sources: list[Source]
    rewards: Rewards
    warnings: list[str]  # what the rewards say of the records


def run(config: RlStage, workdir: str, folders: Mapping[str, str] = NO_FOLDERS) -> dict[str, Any]:
    """Runs or resumes the stage in `workdir`.

    Args:
      folders: of a pipeline's stages, by the names that a config may give in a folder's place.

    Returns:
      its result {task: figures}.
    """
    with Run(config, workdir) as run_:
        if run_.result is None:
            _train(config, run_, folders)
        return run_.result_or_fail()


def check(config: RlStage, folders: Mapping[str, str] = NO_FOLDERS) -> None:
    """Refuses what can be told wrong before earlier stages have run. Reads data; compiles nothing."""
    inputs = open_inputs(config, graders.checkers(folders))
    inputs.rewards.close()
    for warning in inputs.warnings:
        print(f"warning: {warning}", file=sys.stderr)


def open_inputs(config: RlStage, services: graders.Makers) -> Inputs:
    """Raises ValueError where the config, a reward function, a model that one calls, or the data are bad."""
    mesh = check_stage(config)
    rewards = load_rewards(config.rewards, config.grading, services)
    try:
        sources = [
            tasks.load(
                spec.name, "train", data_dir=config.data.data_dir, source_dir=config.data.source_dir, kwargs=spec.kwargs
            )
            for spec in config.data.sources.values()
        ]
        return Inputs(mesh, sources, rewards, _check_rewards(config, sources, rewards))
    except Exception:
        rewards.close()
        raise


def _train(config: RlStage, run_: Run, folders: Mapping[str, str]) -> None:
    init_from = folders.get(config.init_from, config.init_from)
    mesh, sources, rewards, warnings = open_inputs(config, graders.makers(folders))
    run_.enter(rewards)
    for warning in warnings:
        run_.say(f"warning: {warning}")
    check_start(init_from, config.policy)
    tokenizer = run_.tokenizer(lambda: Tokenizer.load(init_from))
    _check_prompts(config, sources, tokenizer)
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
        peak, how = peak_flops(), config.evaluation
        for step in run_.steps():
            began = time.perf_counter()
            if config.grpo.reference_refresh and step > 1 and (step - 1) % config.grpo.reference_refresh == 0:
                state = programs.refresh(state)
            batch = groups.sample(config, tokenizer, engine, rewards, state.params, next(loader), step)
            # Packing and scoring need no reward: they go on while the graders are at work.
            sampled = time.perf_counter()
            parts = groups.pack(config, batch, tokenizer.pad_id)
            scores = programs.score(state, parts)
            waiting = time.perf_counter()
            scored = batch.grading.result()
            waited = time.perf_counter() - waiting
            advantages_B = groups.advantages(config, scored)
            minibatches = [
                RlBatch(part.packed, part.index_BL, advantages_B[part.those],
                        batch.rollouts.logp_sampler_BL[part.those], *logps)
                for part, logps in zip(parts, scores, strict=True)
            ]  # fmt: skip
            state, metrics = programs.update(state, minibatches)
            metrics |= groups.figures(config, batch, scored)
            seconds = time.perf_counter() - sampled - waited
            metrics["time/reward_wait_s"] = waited
            metrics["time/update_s"] = seconds
            metrics["update/tokens_per_s"] = float(batch.rollouts.length_B.sum()) / seconds
            metrics["update/mfu"] = programs.flops(minibatches) / seconds / peak
            metrics["lr"] = float(rate(step * updates - 1))
            metrics["time/step_s"] = time.perf_counter() - began
            run_.log(step, metrics, groups.sample_rows(config, batch, scored, advantages_B, step))
            run_.evaluate(
                step,
                lambda: evaluator(state.params, samples=how.every_samples, limit=how.every_limit, progress=False),  # noqa: B023
            )
            run_.save(step, state, {"loader": loader.state()})
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

    def score(self, state: TrainState, parts: list[groups.Part]) -> list[tuple[Array | None, Array | None]]:
        """(logp_old_BL, logp_ref_BL) of each part, on the device, where the objective needs them. Does not wait."""
        none: list[Array | None] = [None] * len(parts)
        old, ref = none, none
        if self._is_off_policy():  # once, before the first update moves the policy
            old = [self._score(state.params, part.packed, part.index_BL) for part in parts]
        if self._config.grpo.kl_coef > 0:
            ref = [self._score(state.reference, part.packed, part.index_BL) for part in parts]
        return list(zip(old, ref, strict=True))

    def update(self, state: TrainState, batches: list[RlBatch]) -> tuple[TrainState, dict[str, float]]:
        """All mini-batches and epochs over one rollout batch; metrics are means over the updates."""
        gathered = []
        for _ in range(self._config.grpo.epochs):
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


def _check_rewards(config: RlStage, sources: list[Source], rewards: Rewards) -> list[str]:
    """What the rewards say of the records. Raises ValueError where they refuse them."""
    warnings, names = [], set()
    for spec, source in zip(config.data.sources.values(), sources, strict=True):
        fields = groups.columns([source[i] for i in range(len(source))])
        warnings += [f"{spec.name}: {warning}" for warning in rewards.check(fields)]
        names |= set(fields["task"])
    return warnings + rewards.check_routes(names)


def _check_prompts(config: RlStage, sources: list[Source], tokenizer: Tokenizer) -> None:
    """Refuses prompts that leave no room for a completion."""
    room = min(config.policy.context, config.batch.row_length) - config.rollout.max_tokens
    what = "min(policy.context, batch.row_length) - rollout.max_tokens"
    for spec, source in zip(config.data.sources.values(), sources, strict=True):
        questions = [source[i]["question"] for i in range(len(source))]
        check_prompts(questions, tokenizer, config.template, room, what, spec.name)
