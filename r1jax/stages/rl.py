"""Reinforcement learning: sample groups, reward their text, learn from them. One step a rollout batch."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from r1jax import processes
from r1jax.config import RlStage
from r1jax.data import tasks
from r1jax.data.loader import Loader
from r1jax.data.records import Source
from r1jax.data.tokenizer import Tokenizer
from r1jax.mesh import state_shardings
from r1jax.models.policy import abstract_variables
from r1jax.rewards.compose import Rewards, load_rewards
from r1jax.rollout.engine import check_slots
from r1jax.rollout.precision import RoundedPlacement, is_rounded, sampler_policy
from r1jax.rollout.resharding import Placement, decode_mesh
from r1jax.stages import graders, groups
from r1jax.stages.algorithms import make_algorithm
from r1jax.stages.batches import Batches, Sampler
from r1jax.stages.evaluate import Evaluator
from r1jax.stages.inference import check_prompts, check_start, load_params, make_engine
from r1jax.stages.run import NO_FOLDERS, Run, check_stage
from r1jax.training.flops import peak_flops
from r1jax.training.optimizer import schedule
from r1jax.training.state import check_host_memory
from r1jax.types import PyTree


class Inputs(NamedTuple):
    """What a config names, opened and checked. `rewards` is to be closed."""

    mesh: Mesh
    decode_mesh: Mesh
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
        processes.say(f"warning: {warning}")


def open_inputs(config: RlStage, services: graders.Makers) -> Inputs:
    """Raises ValueError where the config, a reward function, a model that one calls, or the data are bad."""
    mesh = check_stage(config)
    sampling = decode_mesh(config.rollout.mesh, mesh)
    check_slots(config.rollout.slots, sampling)
    state_shardings(sampling, abstract_variables(config.policy))
    if config.offload and config.offload.reference:
        check_host_memory("offload.reference")
    rewards = load_rewards(config.rewards, config.grading, services)
    try:
        sources = [
            tasks.load(
                spec.name, "train", data_dir=config.data.data_dir, source_dir=config.data.source_dir, kwargs=spec.kwargs
            )
            for spec in config.data.sources.values()
        ]
        return Inputs(mesh, sampling, sources, rewards, _check_rewards(config, sources, rewards))
    except Exception:
        rewards.close()
        raise


def _train(config: RlStage, run_: Run, folders: Mapping[str, str]) -> None:
    init_from = folders.get(config.init_from, config.init_from)
    mesh, sampling, sources, rewards, warnings = open_inputs(config, graders.makers(folders))
    run_.enter(rewards)
    for warning in warnings:
        run_.say(f"warning: {warning}")
    check_start(init_from, config.policy)
    tokenizer = run_.tokenizer(lambda: Tokenizer.load(init_from))
    _check_prompts(config, sources, tokenizer)
    loader = Loader(
        sources,
        [s.weight for s in config.data.sources.values()],
        batch=config.drawn(),
        seed=config.seed,
        shuffle=True,
        part=processes.share(config.drawn()),
    )
    engine = make_engine(config.policy, sampling, tokenizer, config.template)
    evaluator = run_.enter(
        Evaluator(
            config.evaluation, config.data, config.grading,
            template=config.template, tokenizer=tokenizer, engine=engine, context=config.policy.context,
            seed=config.seed,
        )
    )  # fmt: skip
    algorithm = make_algorithm(config, mesh, tokenizer.pad_id)
    placement = Placement(algorithm.abstract.params, sampling)
    sampler = _sampler(config, mesh, tokenizer, Sampler(engine, placement), algorithm.abstract.params)
    batches = Batches(config, tokenizer, sampler, rewards, loader, algorithm.sampled)
    with jax.set_mesh(mesh):
        state, host = run_.begin(
            tokenizer, algorithm.abstract, lambda: algorithm.start(load_params(init_from, config.policy, mesh))
        )
        if host:
            batches.restore(host)
        rate = schedule(config.optimizer, config.steps * algorithm.updates)
        peak, how = peak_flops(), config.evaluation

        def evaluate(**options: Any) -> dict[str, dict[str, Any]]:
            nonlocal state
            result, params, _ = placement.lend(state.params, functools.partial(evaluator, **options))
            state = state._replace(params=params)
            return result

        for step in run_.steps():
            began = time.perf_counter()
            if config.grpo.reference_refresh and step > 1 and (step - 1) % config.grpo.reference_refresh == 0:
                state = algorithm.refresh(state)
            batch, params, sampling_figures = batches.take(step, state.params)
            state = state._replace(params=params)
            batch = groups.chosen(config, batch) if config.dynamic_sampling else batch
            sampled = time.perf_counter()
            state, learnt = algorithm.learn(state, batch)
            seconds = time.perf_counter() - sampled - learnt.waited
            metrics = learnt.metrics | groups.figures(config, batch, learnt.rewards) | sampling_figures
            metrics["time/reward_wait_s"] = learnt.waited + sampling_figures.get("time/reward_wait_s", 0.0)
            metrics["time/update_s"] = seconds
            metrics["update/tokens_per_s"] = float(batch.rollouts.length_B.sum()) / seconds
            metrics["update/mfu"] = learnt.flops / seconds / peak
            metrics["lr"] = float(rate(step * algorithm.updates - 1))
            metrics["time/step_s"] = time.perf_counter() - began
            run_.log(
                step, metrics, groups.sample_rows(config, tokenizer, batch, learnt.rewards, learnt.advantages_B, step)
            )
            run_.evaluate(step, lambda: evaluate(samples=how.every_samples, limit=how.every_limit, progress=False))
            run_.save(step, state, batches.state(step))
        final = evaluate(samples=how.samples, limit=how.limit, progress=True, record=run_.problems)
        run_.finish(final)


def _sampler(config: RlStage, mesh: Mesh, tokenizer: Tokenizer, own: Sampler, abstract: PyTree) -> Sampler:
    """The policy's own sampler, or that of a rounded copy."""
    precision = config.rollout.precision
    if not is_rounded(config.policy, precision):
        return own
    policy = sampler_policy(config.policy, precision)
    engine = make_engine(policy, own.placement.mesh, tokenizer, config.template)
    return Sampler(engine, RoundedPlacement(abstract, mesh, own.placement.mesh, precision))


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
    room = min(config.policy.context, config.batch.row_length) - config.rollout.longest()
    what = "min(policy.context, batch.row_length) - rollout.max_tokens"
    for spec, source in zip(config.data.sources.values(), sources, strict=True):
        questions = [source[i]["question"] for i in range(len(source))]
        check_prompts(questions, tokenizer, config.template, room, what, spec.name)
