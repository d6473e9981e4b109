"""One RL step's groups: sampled, rewarded, packed. Where text and arrays meet; `rl.py` has the loop."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from r1jax import processes
from r1jax.config import RlStage
from r1jax.data import templates
from r1jax.data.packing import pack_groups, pad_rows
from r1jax.data.tokenizer import Tokenizer
from r1jax.losses import decoupled_advantages, group_advantages
from r1jax.rewards.compose import RewardBatch, Rewards
from r1jax.rollout.engine import Engine
from r1jax.stages.inference import completion_text, encode_prompt, seeds
from r1jax.stages.sharing import Gathering
from r1jax.types import Array, Packed, PyTree, Rollouts

ROLLOUT_SEEDS = 1  # purpose of these seeds, beside evaluation's
SPREAD = 1e-6  # standard deviation of a group's rewards under which they agree, but for rounding


class Asked(NamedTuple):
    """The prompts of one step."""

    records: Sequence[dict[str, Any]]  # this process's share
    prompts: list[str]  # P, of all processes
    prompt_ids: list[list[int]]


class Drawn(NamedTuple):
    """Prompts with their completions, not graded yet."""

    asked: Asked
    rollouts: Rollouts
    seconds: float  # of the rollout
    logp_old_BL: np.ndarray | None = None  # under the policy that sampled, where another may learn from them


class Sampled(NamedTuple):
    """A rollout batch whose rewards are being computed."""

    prompts: list[str]  # P
    prompt_ids: list[list[int]]
    rollouts: Rollouts
    grading: Gathering | Settled
    seconds: float  # of the rollout
    logp_old_BL: np.ndarray | None = None  # under the policy that sampled, where it may not be the one that learns


class Settled(NamedTuple):
    """Rewards that are there already, where others are still to come."""

    rewards: RewardBatch

    def result(self) -> RewardBatch:
        return self.rewards


class Part(NamedTuple):
    """A mini-batch's sequences, packed; all parts of a batch have one shape, so that one program serves them."""

    those: slice  # of the B sequences
    packed: Packed
    index_BL: Array


def ask(config: RlStage, tokenizer: Tokenizer, records: Sequence[dict[str, Any]]) -> Asked:
    """The prompts of one step.

    Args:
      records: this process's share. It grades the completions of these; the others' prompts come from their processes.
    """
    own = [templates.render(config.template, r["question"], tokenizer) for r in records]
    parts = processes.gather([(prompt, encode_prompt(tokenizer, prompt)) for prompt in own])
    prompts, prompt_ids = map(list, zip(*itertools.chain(*parts), strict=True))
    return Asked(records, prompts, prompt_ids)


def draw(config: RlStage, engine: Engine, params: PyTree, asked: Asked, step: int) -> Drawn:
    """Completions of a step's prompts."""
    began = time.perf_counter()
    rollouts = engine.generate(
        params,
        asked.prompt_ids,
        seeds(config.seed, len(asked.prompts) * config.rollout.samples, ROLLOUT_SEEDS, step),
        temperature=config.rollout.temperature,
        top_k=config.rollout.top_k,
        top_p=config.rollout.top_p,
        max_tokens=config.rollout.limit(step),
        slots=config.rollout.slots,
    )
    return Drawn(asked, rollouts, time.perf_counter() - began)


def grade(config: RlStage, tokenizer: Tokenizer, rewards: Rewards, drawn: Drawn, step: int) -> Sampled:
    """The completions as text; the graders are at work when it returns."""
    (records, prompts, prompt_ids), rollouts, samples = drawn.asked, drawn.rollouts, config.rollout.samples
    here = processes.share(len(prompts))
    those = slice(here.start * samples, here.stop * samples)
    ids = [row[:n] for row, n in zip(rollouts.completion_BL[those], rollouts.length_B[those], strict=True)]
    texts = [completion_text(tokenizer, row) for row in ids]
    repeated = columns([r for r in records for _ in range(samples)])
    asked = [p for p in prompts[here] for _ in range(samples)]
    grading = Gathering(rewards.start(asked, texts, repeated, ids, step) if asked else None)
    return Sampled(prompts, prompt_ids, rollouts, grading, drawn.seconds, drawn.logp_old_BL)


def sample(
    config: RlStage,
    tokenizer: Tokenizer,
    engine: Engine,
    rewards: Rewards,
    params: PyTree,
    records: Sequence[dict[str, Any]],
    step: int,
) -> Sampled:
    """`ask`, `draw` and `grade`: a step's prompts and completions, their graders at work."""
    drawn = draw(config, engine, params, ask(config, tokenizer, records), step)
    return grade(config, tokenizer, rewards, drawn, step)


def columns(records: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """The records' fields, a value for each record; None where one lacks a field."""
    keys = dict.fromkeys(key for record in records for key in record)
    return {key: [record.get(key) for record in records] for key in keys}


def chosen(config: RlStage, batch: Sampled) -> Sampled:
    """Of the prompts drawn the `rollout.prompts` that are learnt from, in their order; waits for the graders.

    Those whose samples' rewards differ come before those whose agree, which have advantages of 0 and are taken only to
    fill the batch. Rewards' own metrics stay those of all that was drawn: they speak of the policy, not of the choice.

    Source: DAPO (arXiv 2503.14476), section 3.2, which draws until the batch is full; here so many are drawn at once,
      whatever comes, so that a step has one shape and one cost.
    """
    rewards = batch.grading.result()
    spread_P = spread(config, rewards) >= SPREAD
    first_P = np.argsort(~spread_P, kind="stable")[: config.rollout.prompts]
    prompts = np.sort(first_P)
    those_B = (prompts[:, None] * config.rollout.samples + np.arange(config.rollout.samples)).reshape(-1)
    kept = rewards._replace(
        total_B=rewards.total_B[those_B],
        by_name={name: values[those_B] for name, values in rewards.by_name.items()},
        mine={name: values[those_B] for name, values in rewards.mine.items()},
        metrics=rewards.metrics | {"reward/frac_drawn_zero_std": float(1.0 - spread_P.mean())},
    )
    return batch._replace(
        prompts=[batch.prompts[p] for p in prompts],
        prompt_ids=[batch.prompt_ids[p] for p in prompts],
        rollouts=Rollouts(
            batch.rollouts.prompt_PL[prompts],
            batch.rollouts.prompt_length_P[prompts],
            *(values_B[those_B] for values_B in batch.rollouts[2:]),
        ),
        grading=Settled(kept),
        logp_old_BL=None if batch.logp_old_BL is None else batch.logp_old_BL[those_B],
    )


def spread(config: RlStage, rewards: RewardBatch) -> np.ndarray:
    """The standard deviation of each prompt's total rewards."""
    return rewards.total_B.reshape(-1, config.rollout.samples).std(axis=1)


def pack(config: RlStage, batch: Sampled, pad_id: int, kept_B: np.ndarray | None = None) -> list[Part]:
    """The groups split in `grpo.minibatches`, a group never across two; those not kept take no place in the rows."""
    rollouts = batch.rollouts
    length_B = rollouts.length_B if kept_B is None else np.where(kept_B, rollouts.length_B, 0)
    prompts = config.rollout.prompts // config.grpo.minibatches
    firsts = range(0, config.rollout.prompts, prompts)
    parts = [_pack(config, batch.prompt_ids[i : i + prompts], rollouts, length_B, i, pad_id) for i in firsts]
    rows = max(part.packed.tokens_RT.shape[0] for part in parts)
    return [part._replace(packed=pad_rows(part.packed, rows, pad_id)) for part in parts]


def pack_drawn(config: RlStage, drawn: Drawn, pad_id: int) -> Part:
    """All that was drawn, in one part."""
    return _pack(config, drawn.asked.prompt_ids, drawn.rollouts, drawn.rollouts.length_B, 0, pad_id)


def _pack(
    config: RlStage, prompt_ids: list[list[int]], rollouts: Rollouts, length_B: np.ndarray, first: int, pad_id: int
) -> Part:
    """The groups of some prompts, the first of which is the batch's number `first`."""
    samples = config.rollout.samples
    those = slice(first * samples, (first + len(prompt_ids)) * samples)
    packed, index_BL = pack_groups(
        prompt_ids,
        [row[:n].tolist() for row, n in zip(rollouts.completion_BL[those], length_B[those], strict=True)],
        row_length=config.batch.row_length,
        row_multiple=config.batch.rows,
        length=rollouts.completion_BL.shape[1],
        pad_id=pad_id,
    )
    return Part(those, packed, index_BL)


def advantages(config: RlStage, rewards: RewardBatch) -> np.ndarray:
    """advantages_B of a batch's rewards, in `grpo.aggregation`'s way."""
    groups = (-1, config.rollout.samples)
    scale = config.grpo.advantage_scale
    if config.grpo.aggregation == "sum_then_normalize" or not rewards.by_name:
        return np.asarray(group_advantages(rewards.total_B.reshape(groups), scale=scale)).reshape(-1)
    rewards_KPG = np.stack([values.reshape(groups) for values in rewards.by_name.values()])
    mine_KPG = np.stack([rewards.mine[name].reshape(groups) for name in rewards.by_name])
    weights_K = np.array([rewards.weights[name] for name in rewards.by_name], np.float32)
    return np.asarray(decoupled_advantages(rewards_KPG, mine_KPG, weights_K, scale=scale)).reshape(-1)


def kept(config: RlStage, rewards: RewardBatch) -> np.ndarray:
    """kept_B: the samples that RAFT learns from, as `raft.keep` says; of equals the earliest is the best."""
    assert config.raft is not None, "the config names RAFT"
    total_PG = rewards.total_B.reshape(-1, config.rollout.samples)
    enough_PG = total_PG >= config.raft.least
    if config.raft.keep == "best":
        enough_PG &= np.arange(config.rollout.samples)[None] == total_PG.argmax(axis=1)[:, None]
    return enough_PG.reshape(-1)


def figures(config: RlStage, batch: Sampled, rewards: RewardBatch) -> dict[str, float]:
    """A step's figures of rollouts and rewards."""
    length_B = batch.rollouts.length_B
    return rewards.metrics | {
        "reward/frac_zero_std": float((spread(config, rewards) < SPREAD).mean()),
        "completion/mean_length": float(length_B.mean()),
        "completion/max_length": float(length_B.max()),
        "completion/frac_truncated": float(1.0 - batch.rollouts.finished_B.mean()),
        "time/rollout_s": batch.seconds,
        "time/reward_s": rewards.seconds,
        "rollout/tokens_per_s": float(length_B.sum()) / batch.seconds,
    }


def sample_rows(
    config: RlStage,
    tokenizer: Tokenizer,
    batch: Sampled,
    rewards: RewardBatch,
    advantages_B: np.ndarray,
    step: int,
) -> list[dict[str, Any]]:
    """Lines for samples.jsonl, where it is the step's turn."""
    if not config.log.samples_every or (step - 1) % config.log.samples_every:
        return []
    samples, sampled = config.rollout.samples, batch.rollouts
    return [
        {
            "prompt": batch.prompts[b // samples],
            "completion": completion_text(tokenizer, sampled.completion_BL[b, : sampled.length_B[b]].tolist()),
            "rewards": {name: float(values[b]) for name, values in rewards.by_name.items()},
            "reward": float(rewards.total_B[b]),
            "advantage": float(advantages_B[b]),
        }
        for b in range(min(config.log.samples, len(sampled.length_B)))
    ]
