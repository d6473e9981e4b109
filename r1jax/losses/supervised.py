"""The supervised objective, and the one masked sum of this room."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from r1jax.types import Array


def masked_sum(values: Array, weight: Array, axis: int | None = None) -> jax.Array:
    """sum(values * weight), where a value of weight 0 counts nothing even if it is NaN or infinite."""
    return jnp.sum(jnp.where(weight != 0, values, 0.0) * weight, axis=axis)


def safe_divide(total: jax.Array, count: Array) -> jax.Array:
    """total / count, and 0 / 0 is 0: the mean over nothing."""
    return total / jnp.where(count == 0, 1.0, count)


def cross_entropy(
    logp_RT: Array, weight_RT: Array, *, normalizer: Array | None = None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Weighted mean negative log-likelihood of the targets.

        loss = -sum(logp * weight) / normalizer

    Args:
      logp_RT: log-probability of each target, nats. Ignored, whatever it is, where the weight is 0.
      weight_RT: 1 where the target is to be learnt, else 0; fractions weigh.
      normalizer: scalar, the total weight of the whole batch: given that, the losses of its micro-batches sum
        to the loss of the whole. None: this batch's own total.

    Returns:
      (loss, {"loss"}), float32 scalars; 0 when nothing is to be learnt.
    """
    chex.assert_rank(logp_RT, 2)
    chex.assert_equal_shape([logp_RT, weight_RT])
    weight_RT = jnp.asarray(weight_RT, jnp.float32)
    total = jnp.sum(weight_RT) if normalizer is None else normalizer
    loss = -safe_divide(masked_sum(jnp.asarray(logp_RT, jnp.float32), weight_RT), total)
    return loss, {"loss": jax.lax.stop_gradient(loss)}
