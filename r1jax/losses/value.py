"""A critic's part of PPO: rewards a token, generalized advantage estimation, and the loss of the values."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from r1jax.losses.supervised import masked_sum, safe_divide
from r1jax.types import Array


def token_rewards(rewards_B: Array, kl_BL: Array, mask_BL: Array, *, kl_coef: float) -> jax.Array:
    """A sequence's reward at its last token, less a penalty at every token for leaving the reference.

        r[b, t] = reward[b] (t is the last masked token) - kl_coef kl[b, t]

    Args:
      rewards_B: of each sequence.
      kl_BL: an estimate of the KL at each token, nats, of the policy that sampled.
      mask_BL: non-zero where the policy chose the token: a sequence's first so many places.

    Returns:
      rewards_BL, float32; 0 outside the mask.

    Source: Ouyang et al. 2022 (arXiv 2203.02155), eq. 2; DeepSeekMath (arXiv 2402.03300), eq. 2.
    """
    dims = _dimensions(mask_BL)
    chex.assert_shape([rewards_B, kl_BL], [dims["B"], dims["BL"]])
    mask_BL = jnp.asarray(mask_BL) != 0
    is_last_BL = mask_BL & ~jnp.pad(mask_BL[:, 1:], ((0, 0), (0, 1)))
    rewards_BL = jnp.where(is_last_BL, jnp.asarray(rewards_B, jnp.float32)[:, None], 0.0)
    return rewards_BL - kl_coef * jnp.where(mask_BL, jnp.asarray(kl_BL, jnp.float32), 0.0)


def generalized_advantages(
    rewards_BL: Array, values_BL: Array, mask_BL: Array, *, discount: float, decay: float
) -> tuple[jax.Array, jax.Array]:
    """Generalized advantage estimation over sequences that end, and the returns that the values are to predict.

        delta[t] = r[t] + discount V[t + 1] - V[t]          A[t] = delta[t] + discount decay A[t + 1]
        returns[t] = A[t] + V[t]

    Past a sequence's last token V and A are 0: one that was cut off at the limit of tokens counts as ended there.

    Args:
      rewards_BL: of each token.
      values_BL: V, the expected sum of rewards from this token on, of the text before it.
      mask_BL: non-zero where the policy chose the token: a sequence's first so many places.
      discount: gamma, of a reward a token later; 1 in language models.
      decay: lambda, in 0..1: 1 is reward minus value, 0 the error of one step's prediction.

    Returns:
      (advantages_BL, returns_BL), float32, without gradient; 0 outside the mask.

    Raises:
      ValueError: `discount` or `decay` is out of 0..1.

    Source: Schulman et al. 2016 (arXiv 1506.02438), eqs. 11-16.
    """
    for field, got in (("discount", discount), ("decay", decay)):
        if not 0 <= got <= 1:
            raise ValueError(f"{field} is {got!r}; expected a number in 0..1")
    dims = _dimensions(mask_BL)
    chex.assert_shape([rewards_BL, values_BL], dims["BL"])
    mask_BL = jnp.asarray(mask_BL) != 0
    rewards_BL, values_BL = (
        jnp.where(mask_BL, jax.lax.stop_gradient(jnp.asarray(x, jnp.float32)), 0.0) for x in (rewards_BL, values_BL)
    )
    next_BL = jnp.pad(values_BL[:, 1:], ((0, 0), (0, 1)))
    delta_BL = rewards_BL + discount * next_BL - values_BL

    def back(after_B: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        delta_B, mask_B = now
        advantage_B = jnp.where(mask_B, delta_B + discount * decay * after_B, 0.0)
        return advantage_B, advantage_B

    start_B = jnp.zeros(mask_BL.shape[0], jnp.float32)
    _, advantages_LB = jax.lax.scan(back, start_B, (delta_BL.T, mask_BL.T), reverse=True)
    return advantages_LB.T, advantages_LB.T + values_BL


def whiten(advantages_BL: Array, mask_BL: Array, *, eps: float = 1e-4) -> jax.Array:
    """The masked advantages minus their mean, over their population standard deviation + eps; 0 outside the mask."""
    chex.assert_shape(advantages_BL, _dimensions(mask_BL)["BL"])
    mask_BL = (jnp.asarray(mask_BL) != 0).astype(jnp.float32)
    tokens = jnp.sum(mask_BL)
    mean = safe_divide(masked_sum(advantages_BL, mask_BL), tokens)
    centred_BL = jnp.where(mask_BL != 0, jnp.asarray(advantages_BL, jnp.float32) - mean, 0.0)
    return centred_BL / (jnp.sqrt(safe_divide(jnp.sum(centred_BL**2), tokens)) + eps)


def value_loss(
    values_BL: Array,
    values_old_BL: Array,
    returns_BL: Array,
    mask_BL: Array,
    *,
    clip: float,
    normalizer: Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Half the mean squared error of the values, each held near what it was when the text was sampled.

        loss = 1/2 mean max((V - R)^2, (clip(V, V_old - clip, V_old + clip) - R)^2)

    Args:
      values_BL: V now; the gradient flows through it alone.
      values_old_BL: V before the first update over these rollouts. Not read where `clip` is 0.
      returns_BL: R, what V is to predict.
      mask_BL: non-zero where the policy chose the token.
      clip: in units of reward; 0 does not clip. A float, not traced.
      normalizer: scalar, the masked tokens of the whole mini-batch: given that, the figures of its micro-batches sum
        to those of the whole. None: this batch's own.

    Returns:
      (loss, {"value/loss", "value/clip_fraction": share of tokens where the clipped error is the greater}), float32
      scalars; 0 where there is no token.

    Source: PPO (arXiv 1707.06347), eq. 9; the clipping is that of its authors' code.
    """
    if not clip >= 0:
        raise ValueError(f"clip is {clip!r}; expected a number of 0 or more")
    chex.assert_shape([values_BL, values_old_BL, returns_BL], _dimensions(mask_BL)["BL"])
    mask_BL = (jnp.asarray(mask_BL) != 0).astype(jnp.float32)
    tokens = jnp.sum(mask_BL) if normalizer is None else normalizer
    values_BL = jnp.asarray(values_BL, jnp.float32)
    old_BL, returns_BL = (jax.lax.stop_gradient(jnp.asarray(x, jnp.float32)) for x in (values_old_BL, returns_BL))
    error_BL = (jnp.where(mask_BL != 0, values_BL - returns_BL, 0.0)) ** 2
    clipped_BL = jnp.zeros_like(error_BL)
    if clip:
        held_BL = jnp.clip(values_BL, old_BL - clip, old_BL + clip)
        held_error_BL = jnp.where(mask_BL != 0, held_BL - returns_BL, 0.0) ** 2
        clipped_BL = (held_error_BL > error_BL).astype(jnp.float32)
        error_BL = jnp.maximum(error_BL, held_error_BL)
    loss = safe_divide(masked_sum(error_BL, mask_BL), tokens) / 2
    metrics = {"value/loss": loss, "value/clip_fraction": safe_divide(masked_sum(clipped_BL, mask_BL), tokens)}
    return loss, jax.lax.stop_gradient(metrics)


def explained_variance(values_BL: Array, returns_BL: Array, mask_BL: Array) -> jax.Array:
    """1 - var(returns - values) / var(returns) over the masked tokens: 1 foreseen exactly, 0 as well as by a constant.

    0 where the returns do not vary.
    """
    chex.assert_shape([values_BL, returns_BL], _dimensions(mask_BL)["BL"])
    mask_BL = (jnp.asarray(mask_BL) != 0).astype(jnp.float32)
    tokens = jnp.sum(mask_BL)

    def variance(x_BL: Array) -> jax.Array:
        mean = safe_divide(masked_sum(x_BL, mask_BL), tokens)
        return safe_divide(masked_sum((x_BL - mean) ** 2, mask_BL), tokens)

    returns_BL = jnp.asarray(returns_BL, jnp.float32)
    spread = variance(returns_BL)
    rest = variance(returns_BL - jnp.asarray(values_BL, jnp.float32))
    return jnp.where(spread > 0, 1.0 - safe_divide(rest, spread), 0.0)


def _dimensions(mask_BL: Array) -> chex.Dimensions:
    chex.assert_rank(mask_BL, 2)
    return chex.Dimensions(B=mask_BL.shape[0], L=mask_BL.shape[1])
