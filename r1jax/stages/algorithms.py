"""What an RL step makes of its samples: GRPO, PPO or RAFT. Each is a stage's compiled programs and the state they move.

Shardings and donation stand here, the arithmetic in `training/`. The loop that samples is `rl.py`'s.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from r1jax import processes
from r1jax.config import RlStage
from r1jax.rewards.compose import RewardBatch
from r1jax.stages import groups
from r1jax.training.flops import forward_flops
from r1jax.training.optimizer import make_optimizer
from r1jax.training.ppo_step import PpoBatch, estimate, new_critic, ppo_step, targets
from r1jax.training.state import (
    Critic,
    TrainState,
    abstract_state,
    in_host_memory,
    jit_update,
    shardings,
    start_state,
    with_shardings,
)
from r1jax.training.step import PolicyBatch, RlBatch, rl_step, score, sft_step
from r1jax.types import Array, Packed, PyTree


class Learnt(NamedTuple):
    """What a step's learning says of itself."""

    metrics: dict[str, float]  # means over the updates
    rewards: RewardBatch
    advantages_B: np.ndarray  # of each sequence, as `samples.jsonl` has it
    waited: float  # seconds that the graders were waited for
    flops: float  # of the policy, and of a critic


def make_algorithm(config: RlStage, mesh: Mesh, pad_id: int) -> Grpo | Ppo | Raft:
    """The algorithm that a config's sections name."""
    if config.ppo:
        return Ppo(config, mesh, pad_id)
    return Raft(config, mesh, pad_id) if config.raft else Grpo(config, mesh, pad_id)


class Algorithm:
    """What the three share: the state's shapes and its start, scoring, and the walk over mini-batches and epochs."""

    def __init__(self, config: RlStage, mesh: Mesh, pad_id: int):
        self._config, self._pad_id = config, pad_id
        self.updates = config.grpo.minibatches * config.grpo.epochs  # a step
        self._optimizer = make_optimizer(config.optimizer, config.steps * self.updates)
        self._policy_abstract = abstract_state(
            config.policy, self._optimizer, mesh, with_reference=config.grpo.kl_coef > 0
        )
        self._offloads = config.offload is not None and config.offload.reference
        self._announce(self._policy_abstract)
        self._score = jax.jit(functools.partial(score, config.policy, config.batch, config.rollout.temperature))

    def _announce(self, abstract: TrainState) -> None:
        """What the state is between steps; the reference waits in the hosts' memory, where the config wants it."""
        self._at_work = abstract._replace(reference=None) if self._offloads else abstract
        self._at_hand = abstract.reference and shardings(abstract.reference)
        self.abstract = abstract._replace(reference=in_host_memory(abstract.reference)) if self._offloads else abstract
        self._place = shardings(self.abstract)

    def start(self, params: PyTree) -> TrainState:
        """A state at step 0. Takes over `params`: they are donated."""
        if not self._offloads:
            return start_state(params, self._optimizer, self._policy_abstract)
        reference = jax.device_put(params, self._place.reference)
        state = start_state(params, self._optimizer, self._policy_abstract._replace(reference=None))
        return state._replace(reference=reference)

    def refresh(self, state: TrainState) -> TrainState:
        """The policy becomes the reference."""
        if self._offloads:
            return state._replace(reference=jax.device_put(state.params, self._place.reference))
        return self._refreshed(state)

    @functools.cached_property
    def _refreshed(self) -> Callable[[TrainState], TrainState]:
        return jax.jit(
            lambda state: state._replace(reference=jax.tree.map(jnp.copy, state.params)),
            donate_argnums=0, out_shardings=self._place,
        )  # fmt: skip

    @functools.cached_property
    def _count(self) -> Callable[[jax.Array], jax.Array]:
        return jax.jit(lambda step: step + 1, donate_argnums=0, out_shardings=self._place.step)

    def _compiled(self, step: Callable[..., Any]) -> Any:
        """`step(state, batch) -> (state, metrics)`, which takes over the state."""
        return jit_update(step, self._at_work)

    def _reference(self, state: TrainState) -> PyTree:
        """The reference on the devices: for as long as it is held, where it waits elsewhere."""
        return jax.device_put(state.reference, self._at_hand) if self._offloads else state.reference

    def _scores(self, params: PyTree, parts: list[groups.Part], needed: bool = True) -> list[Array | None]:
        """logp_BL of each part under `params`, on the device; does not wait. Where not needed, None of each."""
        return [self._score(params, part.packed, part.index_BL) if needed else None for part in parts]

    def sampled(self, params: PyTree, drawn: groups.Drawn) -> np.ndarray | None:
        """logp_BL of what was drawn under the policy that drew it, for one that has moved on to learn from."""
        part = groups.pack_drawn(self._config, drawn, self._pad_id)
        return np.asarray(processes.fetch(self._score(params, part.packed, part.index_BL)))

    def _old(self, params: PyTree, batch: groups.Sampled, parts: list[groups.Part], needed: bool) -> list[Array | None]:
        """logp_BL of each part under the policy that sampled: as it was then, or that of `params`."""
        if batch.logp_old_BL is None:
            return self._scores(params, parts, needed)
        return [batch.logp_old_BL[part.those] for part in parts]

    def _walk(
        self, update: Callable[..., Any], state: TrainState, batches: list
    ) -> tuple[TrainState, dict[str, float]]:
        """All mini-batches and epochs over one rollout batch; metrics are means over the updates."""
        gathered = []
        waiting = {"reference": state.reference} if self._offloads else {}
        state = state._replace(reference=None) if self._offloads else state
        for _ in range(self._config.grpo.epochs):
            for batch in batches:
                state, metrics = update(state, batch)
                gathered.append(metrics)
        fetched = processes.fetch(gathered)
        state = state._replace(step=self._count(state.step), **waiting)
        return state, {key: float(np.mean([m[key] for m in fetched])) for key in fetched[0]}

    def _flops(self, parts: list[groups.Part], *, forwards: int, trained: int = 1) -> float:
        """Model FLOPs of `trained` networks over all epochs, and of `forwards` passes that only score."""
        passes = 3 * self._config.grpo.epochs * trained + forwards
        return passes * sum(forward_flops(self._config.policy, part.packed) for part in parts)


class Grpo(Algorithm):
    """Group-relative policy optimization: an advantage a sequence, against the mean of its group."""

    def __init__(self, config: RlStage, mesh: Mesh, pad_id: int):
        super().__init__(config, mesh, pad_id)
        # A limit of tokens that is raised has an update of its own: it is the constant that Dr. GRPO divides by.
        self.update = functools.cache(
            lambda limit: self._compiled(
                functools.partial(
                    rl_step, config.policy, config.batch, config.router, config.grpo, config.rollout.temperature,
                    limit, self._optimizer,
                )
            )
        )  # fmt: skip

    def learn(self, state: TrainState, batch: groups.Sampled) -> tuple[TrainState, Learnt]:
        """One step's updates."""
        config = self._config
        # Packing and scoring need no reward: they go on while the graders are at work.
        parts = groups.pack(config, batch, self._pad_id)
        stale, leashed = self.updates > 1, config.grpo.kl_coef > 0
        old = self._old(state.params, batch, parts, stale)  # once, before the first update moves the policy
        ref = self._scores(self._reference(state), parts, leashed)
        rewards, waited = wait(batch)
        advantages_B = groups.advantages(config, rewards)
        sampler_BL = batch.rollouts.logp_sampler_BL
        minibatches = [
            RlBatch(part.packed, part.index_BL, advantages_B[part.those], sampler_BL[part.those], *logps)
            for part, *logps in zip(parts, old, ref, strict=True)
        ]
        state, metrics = self._walk(self.update(sampler_BL.shape[1]), state, minibatches)
        forwards = (batch.logp_old_BL is None and stale) + leashed
        return state, Learnt(metrics, rewards, advantages_B, waited, self._flops(parts, forwards=forwards))


class Ppo(Algorithm):
    """Proximal policy optimization: an advantage a token, against what a critic foresaw."""

    def __init__(self, config: RlStage, mesh: Mesh, pad_id: int):
        super().__init__(config, mesh, pad_id)
        ppo = config.ppo
        assert ppo is not None, "the config names PPO"
        critic_optimizer = make_optimizer(ppo.optimizer, config.steps * self.updates)

        def critic_of(params: PyTree) -> Critic:
            return new_critic(config.policy, params, critic_optimizer)

        critic = with_shardings(jax.eval_shape(critic_of, self._policy_abstract.params), mesh)
        self._announce(self._policy_abstract._replace(critic=critic))
        self._critic_of = jax.jit(critic_of, out_shardings=shardings(critic))
        self._estimate = jax.jit(functools.partial(estimate, config.policy, config.batch))
        self._targets = jax.jit(functools.partial(targets, ppo, config.grpo))
        self._update = functools.cache(
            lambda limit: self._compiled(
                functools.partial(
                    ppo_step, config.policy, config.batch, config.router, config.grpo, ppo,
                    config.rollout.temperature, limit, self._optimizer, critic_optimizer,
                )
            )
        )  # fmt: skip

    def start(self, params: PyTree) -> TrainState:
        """A state at step 0, its critic a copy of the policy with a head that says 0."""
        state = super().start(params)
        return state._replace(critic=self._critic_of(state.params))

    def learn(self, state: TrainState, batch: groups.Sampled) -> tuple[TrainState, Learnt]:
        """One step's updates, of policy and critic."""
        assert state.critic is not None, "PPO's state has a critic"
        parts = groups.pack(self._config, batch, self._pad_id)
        leashed = self._config.grpo.kl_coef > 0
        stale = self.updates > 1 or leashed  # the KL that is part of the reward is of the policy that sampled
        old = self._old(state.params, batch, parts, stale)
        ref = self._scores(self._reference(state), parts, leashed)
        foreseen = [self._estimate(state.critic.params, part.packed, part.index_BL) for part in parts]
        rewards, waited = wait(batch)
        values_BL, mask_BL = _joined(foreseen), _joined([part.index_BL >= 0 for part in parts])
        assert values_BL is not None and mask_BL is not None, "every part has values"
        advantages_BL, returns_BL, figures = processes.fetch(
            self._targets(rewards.total_B, _joined(old), _joined(ref), values_BL, mask_BL)
        )
        sampler_BL = batch.rollouts.logp_sampler_BL
        minibatches = [
            PpoBatch(
                PolicyBatch(part.packed, part.index_BL, sampler_BL[part.those], logp_old_BL),
                advantages_BL[part.those], values_BL[part.those], returns_BL[part.those],
            )
            for part, logp_old_BL in zip(parts, old, strict=True)
        ]  # fmt: skip
        state, metrics = self._walk(self._update(sampler_BL.shape[1]), state, minibatches)
        metrics |= {name: float(x) for name, x in figures.items()}
        advantages_B = advantages_BL.sum(axis=1) / np.maximum(mask_BL.sum(axis=1), 1)
        forwards = (batch.logp_old_BL is None and stale) + leashed + 1
        flops = self._flops(parts, forwards=forwards, trained=2)
        return state, Learnt(metrics, rewards, advantages_B, waited, flops)


class Raft(Algorithm):
    """Reward-ranked fine-tuning: the cross-entropy of the samples that are kept (arXiv 2304.06767; RFT, 2308.01825)."""

    def __init__(self, config: RlStage, mesh: Mesh, pad_id: int):
        super().__init__(config, mesh, pad_id)

        def update(state: TrainState, packed: Packed) -> tuple[TrainState, dict[str, jax.Array]]:
            after, metrics = sft_step(config.policy, config.batch, config.router, 0.0, self._optimizer, state, packed)
            return after._replace(step=state.step), metrics  # the stage counts its own steps

        self._update = self._compiled(update)

    def sampled(self, params: PyTree, drawn: groups.Drawn) -> np.ndarray | None:
        """None: no ratio is formed."""
        return None

    def learn(self, state: TrainState, batch: groups.Sampled) -> tuple[TrainState, Learnt]:
        """One step's updates, on the samples kept; where a mini-batch keeps none its gradient is 0."""
        rewards, waited = wait(batch)
        kept_B = groups.kept(self._config, rewards)
        parts = groups.pack(self._config, batch, self._pad_id, kept_B)
        state, metrics = self._walk(self._update, state, [part.packed for part in parts])
        metrics["raft/kept"] = float(kept_B.mean())
        return state, Learnt(metrics, rewards, kept_B.astype(np.float32), waited, self._flops(parts, forwards=0))


def wait(batch: groups.Sampled) -> tuple[RewardBatch, float]:
    """A batch's rewards, and how many seconds they kept one waiting."""
    began = time.perf_counter()
    rewards = batch.grading.result()
    return rewards, time.perf_counter() - began


def _joined(parts: list[Array | None]) -> np.ndarray | None:
    """The parts' sequences in the batch's order, on the host."""
    return None if parts[0] is None else np.concatenate(processes.fetch(parts))
