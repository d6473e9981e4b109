"""PPO's update, unjitted and pure, beside GRPO's in `step.py`: the policy's, and that of its critic.

The critic is a policy of its own with a scalar head, started from the policy's weights, as in DeepSeekMath's and R1's
comparison with GRPO: a second trunk, gradient and pair of moments, which is the memory that GRPO does without.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from r1jax.config import BatchConfig, GrpoConfig, PolicyConfig, PpoConfig, RouterConfig
from r1jax.losses.policy_gradient import kl_estimate, normalizer, ppo_loss
from r1jax.losses.value import explained_variance, generalized_advantages, token_rewards, value_loss, whiten
from r1jax.models.scalar import scalar_variables, values
from r1jax.training.state import Critic, TrainState
from r1jax.training.step import (
    PolicyBatch,
    accumulate,
    apply_gradients,
    corrections,
    look_up,
    micro_batches,
    of_micro_batch,
    segment_count,
    skipping,
    update_policy,
)
from r1jax.types import Array, Packed, PyTree


class PpoBatch(NamedTuple):
    """One mini-batch, as `step.RlBatch`, with an advantage and a return for each token."""

    policy: PolicyBatch
    advantages_BL: Array
    values_old_BL: Array  # before the first update over these rollouts
    returns_BL: Array


def new_critic(config: PolicyConfig, policy: PyTree, optimizer: optax.GradientTransformation) -> Critic:
    """A critic that values everything 0, with a copy of the policy's trunk."""
    params = jax.tree.map(jnp.copy, scalar_variables(config, policy))
    return Critic(params, optimizer.init(params["params"]))


def estimate(config: PolicyConfig, batch: BatchConfig, params: PyTree, packed: Packed, index_BL: Array) -> jax.Array:
    """values_BL: what the critic foresees before each sampled token, no gradient; 0 where there is no token."""
    of_rows = skipping(lambda rows: values(config, params, rows)[0])
    values_MrT = jax.lax.map(of_rows, micro_batches(packed, batch.micro_rows))
    return look_up(values_MrT.reshape(-1), index_BL)


def targets(
    ppo: PpoConfig,
    grpo: GrpoConfig,
    rewards_B: Array,
    logp_old_BL: Array | None,
    logp_ref_BL: Array | None,
    values_BL: Array,
    mask_BL: Array,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """(advantages_BL, returns_BL, metrics) of a whole rollout batch, before its first update."""
    metrics, kl_BL = {}, jnp.zeros(mask_BL.shape, jnp.float32)
    if logp_old_BL is not None and logp_ref_BL is not None:
        kl_BL = kl_estimate(logp_old_BL, logp_ref_BL, grpo.kl_estimator)
        metrics["policy/kl"] = jnp.sum(kl_BL, where=mask_BL) / jnp.maximum(jnp.sum(mask_BL), 1)
    rewards_BL = token_rewards(rewards_B, kl_BL, mask_BL, kl_coef=grpo.kl_coef)
    advantages_BL, returns_BL = generalized_advantages(
        rewards_BL, values_BL, mask_BL, discount=ppo.discount, decay=ppo.decay
    )
    metrics["value/explained_variance"] = explained_variance(values_BL, returns_BL, mask_BL)
    metrics["value/mean"] = jnp.sum(values_BL, where=mask_BL) / jnp.maximum(jnp.sum(mask_BL), 1)
    if grpo.advantage_scale == "batch":
        advantages_BL = whiten(advantages_BL, mask_BL)
    return advantages_BL, returns_BL, metrics


def ppo_step(
    config: PolicyConfig,
    batch_config: BatchConfig,
    router: RouterConfig,
    grpo: GrpoConfig,
    ppo: PpoConfig,
    temperature: float,
    max_length: int,
    optimizer: optax.GradientTransformation,
    critic_optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: PpoBatch,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update of policy and critic over one mini-batch; `state.step` is left alone."""
    whole = normalizer(batch.policy.index_BL >= 0)

    def objective(logp_BL: jax.Array, here_BL: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        weights_BL, figures = corrections(grpo, batch.policy, logp_BL, here_BL, whole)
        loss, metrics = ppo_loss(
            logp_BL,
            batch.policy.logp_old_BL,
            batch.advantages_BL if weights_BL is None else batch.advantages_BL * weights_BL,
            here_BL,
            clip_low=grpo.clip_low,
            clip_high=grpo.clip_high,
            reduction=grpo.reduction,
            max_length=max_length,
            normalizer=whole,
        )
        return loss, metrics | figures

    state, metrics = update_policy(config, batch_config, router, temperature, optimizer, objective, state, batch.policy)
    critic, value_metrics = update_critic(config, batch_config, router, ppo, critic_optimizer, state, batch)
    return state._replace(critic=critic), metrics | value_metrics


def update_critic(
    config: PolicyConfig,
    batch_config: BatchConfig,
    router: RouterConfig,
    ppo: PpoConfig,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: PpoBatch,
) -> tuple[Critic, dict[str, jax.Array]]:
    """One update of the critic towards the returns."""
    assert state.critic is not None, "PPO's state has a critic"
    packed, index_BL = batch.policy.packed, batch.policy.index_BL
    tokens = jnp.sum(index_BL >= 0, dtype=jnp.float32)
    segments = segment_count(packed.segment_RT)

    def loss(params, rows: Packed, micro):
        values_RT, aux = values(config, params, rows)
        local_BL, here_BL = of_micro_batch(index_BL, micro, batch_config)
        values_BL = look_up(values_RT.reshape(-1), local_BL)
        loss, metrics = value_loss(
            values_BL, batch.values_old_BL, batch.returns_BL, here_BL, clip=ppo.value_clip, normalizer=tokens
        )
        return loss + router.balance_coef * aux.balance / jnp.maximum(segments, 1), (metrics, aux)

    grads, metrics, aux = accumulate(loss, state.critic.params, micro_batches(packed, batch_config.micro_rows))
    alone = TrainState(state.step, state.critic.params, state.critic.optimizer, None)
    alone, all_metrics = apply_gradients(alone, grads, metrics, aux, router, optimizer)
    metrics = {name: x for name, x in all_metrics.items() if name.startswith("value/")}
    return Critic(alone.params, alone.optimizer), metrics | {"value/grad_norm": all_metrics["grad_norm"]}
