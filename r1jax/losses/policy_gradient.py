"""The policy's objectives: GRPO's, the clipped term plus a KL to the reference; PPO's, with an advantage a token."""

from __future__ import annotations

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from r1jax.losses.advantages import check_option
from r1jax.losses.supervised import masked_sum, safe_divide
from r1jax.types import Array

KL_ESTIMATORS = ("k3", "k2", "k1")
REDUCTIONS = ("sequence", "token", "constant")
IMPORTANCES = ("token", "sequence", "sequence_mean")


class Normalizer(NamedTuple):
    """What a mini-batch's sums are divided by; the same for every micro-batch cut from it."""

    sequences: Array  # float32 scalar, sequences that have a masked token
    tokens: Array  # float32 scalar, masked tokens
    rows: Array  # float32 scalar, sequences, also those that have none


def normalizer(mask_BL: Array) -> Normalizer:
    """The counts of a whole mini-batch, to hand to `grpo_loss` with each of its micro-batches.

    Args:
      mask_BL: non-zero where the policy chose the token.
    """
    chex.assert_rank(mask_BL, 2)
    chosen_BL = jnp.asarray(mask_BL) != 0
    return Normalizer(
        sequences=jnp.sum(jnp.any(chosen_BL, axis=1), dtype=jnp.float32),
        tokens=jnp.sum(chosen_BL, dtype=jnp.float32),
        rows=jnp.float32(mask_BL.shape[0]),
    )


def grpo_loss(
    logp_BL: Array,
    logp_old_BL: Array | None,
    logp_ref_BL: Array | None,
    advantages_B: Array,
    mask_BL: Array,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    kl_coef: float = 0.001,
    kl_estimator: str = "k3",
    reduction: str = "sequence",
    importance: str = "token",
    max_length: int | None = None,
    normalizer: Normalizer | None = None,
    weights_BL: Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The GRPO objective, to be minimised.

        r = exp(logp - logp_old)                              d = logp_ref - logp
        policy = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)
        KL     = exp(d) - d - 1 (k3)  |  d^2 / 2 (k2)  |  -d (k1)
        token loss = policy + kl_coef KL

    All in float32 and nats. The gradient flows through `logp_BL` alone.

    Args:
      logp_BL: log-probability of each token under the policy now.
      logp_old_BL: the same when the rollouts were made; None on-policy: r is 1, its gradient that of logp.
      logp_ref_BL: the same under the reference; None leaves the KL out, which needs `kl_coef=0`.
      advantages_B: of each sequence.
      mask_BL: non-zero where the policy chose the token; elsewhere nothing is read, be it NaN.
      clip_low, clip_high: how far r may fall below or rise above 1 before the gain stops counting.
      kl_coef: weight of the KL. A float, not traced.
      kl_estimator: "k3", "k2" or "k1"; the last, differentiated as here, has zero expected gradient on-policy.
      reduction: "sequence" averages each sequence's own tokens, then the sequences that have any (DeepSeekMath,
        R1); "token" sums over all tokens and divides by their number (DAPO); "constant" divides the sum by
        B * max_length (Dr. GRPO).
      importance: what r is. "token": each token's. "sequence": exp of the sum of a sequence's differences, as
        R1 writes it; "sequence_mean": exp of their mean (GSPO). In these two the policy term is one number a
        sequence, averaged over the sequences that have a token; the KL stays per token under `reduction`.
      max_length: tokens, for "constant".
      normalizer: `normalizer(mask_BL)` of the whole mini-batch: given that, the losses, gradients and metrics of
        its micro-batches sum to those of the whole. None: this batch's own.
      weights_BL: what each token's policy term is multiplied by, its KL not (`sampler_weights`); `importance` is then
        "token". None: 1.

    Returns:
      (loss, metrics), float32 scalars: "loss"; "policy/ratio_mean" and "policy/clip_fraction" (share where the
      clipped branch is taken) over tokens, or over sequences under the sequence ratios; "policy/kl", the mean of
      the estimator over tokens, when there is a reference. A batch with no token gives 0.

    Raises:
      ValueError: an unknown option, a negative coefficient, "constant" without `max_length`, a KL without reference,
        weights of tokens under the ratio of a sequence.

    Source: DeepSeekMath (arXiv 2402.03300) eq. 3-4, DeepSeek-R1 (2501.12948) eq. 1-2, DAPO (2503.14476),
      Dr. GRPO (2503.20783), GSPO (2507.18071).
    """
    _check_options(clip_low, clip_high, kl_coef, kl_estimator, reduction, importance, max_length)
    if kl_coef and logp_ref_BL is None:
        raise ValueError(f"logp_ref_BL is None with kl_coef {kl_coef}; expected an array, or kl_coef=0")
    if weights_BL is not None and importance != "token":
        raise ValueError(f'importance is {importance!r} with weights_BL, one a token; expected "token"')
    _check_shapes(logp_BL, logp_old_BL, logp_ref_BL, advantages_B, mask_BL, weights_BL)
    mask_BL = (jnp.asarray(mask_BL) != 0).astype(jnp.float32)
    logp_BL = jnp.asarray(logp_BL, jnp.float32)
    norm = _own_or_given(mask_BL, normalizer)

    difference_BL = _difference(logp_BL, logp_BL if logp_old_BL is None else logp_old_BL, mask_BL)
    log_ratio_BX, mask_BX = _log_ratio(difference_BL, mask_BL, importance)
    advantages_B1 = jax.lax.stop_gradient(jnp.asarray(advantages_B, jnp.float32))[:, None]
    policy_BX, clipped_BX = _clipped_term(log_ratio_BX, advantages_B1, clip_low, clip_high)
    if importance == "token":
        weighed_BX = policy_BX if weights_BL is None else jax.lax.stop_gradient(jnp.asarray(weights_BL)) * policy_BX
        loss = _reduce(weighed_BX, mask_BL, reduction, max_length, norm)
        count = norm.tokens
    else:
        loss = safe_divide(masked_sum(policy_BX, mask_BX), norm.sequences)
        count = norm.sequences

    metrics = {
        "policy/clip_fraction": safe_divide(masked_sum(clipped_BX, mask_BX), count),
        "policy/ratio_mean": safe_divide(masked_sum(jnp.exp(log_ratio_BX), mask_BX), count),
    }
    if logp_ref_BL is not None:
        kl_BL = _kl(-_difference(logp_BL, logp_ref_BL, mask_BL), kl_estimator)
        metrics["policy/kl"] = safe_divide(masked_sum(kl_BL, mask_BL), norm.tokens)
        if kl_coef:
            loss += kl_coef * _reduce(kl_BL, mask_BL, reduction, max_length, norm)
    metrics["loss"] = loss
    return loss, jax.lax.stop_gradient(metrics)


def sampler_weights(
    logp_old_BL: Array, logp_sampler_BL: Array, mask_BL: Array, *, cap: float, normalizer: Normalizer | None = None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Truncated importance weights: how much likelier the trainer's policy holds a token than the sampler's did.

        w = min(exp(logp_old - logp_sampler), cap)

    Both are the policy that sampled, in the arithmetic of either. Weighed so, what the sampler drew has the expectation
    that the trainer's draws would have, but for what the cap cuts off to bound the variance.

    Args:
      logp_old_BL: as the trainer computes it. Without gradient.
      logp_sampler_BL: as the sampler did, when it drew the token.
      mask_BL: non-zero where the policy chose the token; elsewhere nothing is read and the weight is 1.
      cap: at least 1.
      normalizer: of the whole mini-batch, as in `grpo_loss`: the metrics of micro-batches then sum to its own.

    Returns:
      (weights_BL, {"policy/sampler_weight", their mean over tokens, "policy/sampler_truncated", the share cut off}),
      float32.

    Raises:
      ValueError: a cap below 1, which would weigh down what an exact sampler drew.

    Source: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training"; IMPALA
      (arXiv 1802.01561), section 4.1.
    """
    if not cap >= 1:
        raise ValueError(f"cap is {cap!r}; expected at least 1, the weight of an exact sampler's tokens")
    chex.assert_equal_shape([logp_old_BL, logp_sampler_BL, mask_BL])
    mask_BL = (jnp.asarray(mask_BL) != 0).astype(jnp.float32)
    norm = _own_or_given(mask_BL, normalizer)
    old_BL = jax.lax.stop_gradient(jnp.asarray(logp_old_BL, jnp.float32))
    difference_BL = _difference(old_BL, logp_sampler_BL, mask_BL)
    is_cut_BL = difference_BL > math.log(cap)
    weights_BL = jnp.exp(jnp.minimum(difference_BL, math.log(cap)))
    metrics = {
        "policy/sampler_weight": safe_divide(masked_sum(weights_BL, mask_BL), norm.tokens),
        "policy/sampler_truncated": safe_divide(masked_sum(is_cut_BL.astype(jnp.float32), mask_BL), norm.tokens),
    }
    return weights_BL, metrics


def ppo_loss(
    logp_BL: Array,
    logp_old_BL: Array | None,
    advantages_BL: Array,
    mask_BL: Array,
    *,
    clip_low: float,
    clip_high: float,
    reduction: str,
    max_length: int | None = None,
    normalizer: Normalizer | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """PPO's clipped surrogate: `grpo_loss` with a ratio and an advantage for each token, and no KL (it is a reward).

        loss = reduce -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A),   r = exp(logp - logp_old)

    Args:
      advantages_BL: of each token (`losses.value.generalized_advantages`); ignored outside the mask.
      The others are as in `grpo_loss`.

    Returns:
      (loss, {"loss", "policy/ratio_mean", "policy/clip_fraction"}), float32 scalars; 0 where there is no token.

    Raises:
      ValueError: as `grpo_loss`.

    Source: PPO (arXiv 1707.06347), eq. 7, with either bound of its own.
    """
    _check_options(clip_low, clip_high, 0.0, "k1", reduction, "token", max_length)
    dims = chex.Dimensions(B=logp_BL.shape[0], L=logp_BL.shape[-1])
    chex.assert_shape([x for x in (logp_BL, logp_old_BL, advantages_BL, mask_BL) if x is not None], dims["BL"])
    mask_BL = (jnp.asarray(mask_BL) != 0).astype(jnp.float32)
    logp_BL = jnp.asarray(logp_BL, jnp.float32)
    norm = _own_or_given(mask_BL, normalizer)
    log_ratio_BL = _difference(logp_BL, logp_BL if logp_old_BL is None else logp_old_BL, mask_BL)
    advantages_BL = jax.lax.stop_gradient(jnp.where(mask_BL != 0, jnp.asarray(advantages_BL, jnp.float32), 0.0))
    policy_BL, clipped_BL = _clipped_term(log_ratio_BL, advantages_BL, clip_low, clip_high)
    loss = _reduce(policy_BL, mask_BL, reduction, max_length, norm)
    metrics = {
        "loss": loss,
        "policy/clip_fraction": safe_divide(masked_sum(clipped_BL, mask_BL), norm.tokens),
        "policy/ratio_mean": safe_divide(masked_sum(jnp.exp(log_ratio_BL), mask_BL), norm.tokens),
    }
    return loss, jax.lax.stop_gradient(metrics)


def kl_estimate(logp_BL: Array, logp_ref_BL: Array, estimator: str) -> jax.Array:
    """KL(policy || reference) of each token, float32, nats, as `grpo_loss` estimates it; without gradient."""
    check_option("kl_estimator", estimator, KL_ESTIMATORS)
    chex.assert_equal_shape([logp_BL, logp_ref_BL])
    return jax.lax.stop_gradient(
        _kl(jnp.asarray(logp_ref_BL, jnp.float32) - jnp.asarray(logp_BL, jnp.float32), estimator)
    )


def _check_options(clip_low, clip_high, kl_coef, kl_estimator, reduction, importance, max_length) -> None:
    check_option("kl_estimator", kl_estimator, KL_ESTIMATORS)
    check_option("reduction", reduction, REDUCTIONS)
    check_option("importance", importance, IMPORTANCES)
    for field, got in (("clip_low", clip_low), ("clip_high", clip_high), ("kl_coef", kl_coef)):
        if not got >= 0:
            raise ValueError(f"{field} is {got!r}; expected a number of 0 or more")
    if reduction == "constant" and (max_length is None or max_length < 1):
        raise ValueError(f'max_length is {max_length!r}; reduction="constant" divides by it: give it in tokens')


def _check_shapes(logp_BL, logp_old_BL, logp_ref_BL, advantages_B, mask_BL, weights_BL) -> None:
    dims = chex.Dimensions(B=logp_BL.shape[0], L=logp_BL.shape[-1])
    given = [x for x in (logp_BL, logp_old_BL, logp_ref_BL, mask_BL, weights_BL) if x is not None]
    chex.assert_shape(given, dims["BL"])
    chex.assert_shape(advantages_B, dims["B"])


def _own_or_given(mask_BL: jax.Array, given: Normalizer | None) -> Normalizer:
    return normalizer(mask_BL) if given is None else given


def _difference(logp_BL: jax.Array, other_BL: Array, mask_BL: jax.Array) -> jax.Array:
    """logp - other, and 0 outside the mask: cut before any exp, so that no gradient meets a NaN there."""
    other_BL = jax.lax.stop_gradient(jnp.asarray(other_BL, jnp.float32))
    return jnp.where(mask_BL != 0, logp_BL - other_BL, 0.0)


def _log_ratio(difference_BL: jax.Array, mask_BL: jax.Array, importance: str) -> tuple[jax.Array, jax.Array]:
    """ln r and its mask: [B, L], or [B, 1] for the ratios of whole sequences."""
    if importance == "token":
        return difference_BL, mask_BL
    tokens_B1 = jnp.sum(mask_BL, axis=1, keepdims=True)
    total_B1 = jnp.sum(difference_BL, axis=1, keepdims=True)
    has_token_B1 = (tokens_B1 > 0).astype(jnp.float32)
    return (total_B1 if importance == "sequence" else safe_divide(total_B1, tokens_B1)), has_token_B1


def _clipped_term(
    log_ratio_BX: jax.Array, advantages_BX: jax.Array, clip_low: float, clip_high: float
) -> tuple[jax.Array, jax.Array]:
    """-min(r A, clip(r) A), and where the clipped branch is the lesser; of a sequence's one advantage, X may be 1.

    Which branch that is gets decided on ln r, and r is formed for the other alone: a ratio that overflows float32
    (easily reached by a whole sequence's) must not turn a clipped, hence zero, gradient into 0 * inf.
    """
    above_BX = (advantages_BX > 0) & (log_ratio_BX > math.log1p(clip_high))
    below_BX = (advantages_BX < 0) & (log_ratio_BX < (math.log1p(-clip_low) if clip_low < 1 else -math.inf))
    clipped_BX = above_BX | below_BX
    ratio_BX = jnp.exp(jnp.where(clipped_BX | (advantages_BX == 0), 0.0, log_ratio_BX))
    bound_BX = jnp.where(above_BX, 1 + clip_high, 1 - clip_low)
    return -jnp.where(clipped_BX, bound_BX, ratio_BX) * advantages_BX, clipped_BX.astype(jnp.float32)


def _kl(d_BL: jax.Array, estimator: str) -> jax.Array:
    """KL(policy || reference) of a token from d = logp_ref - logp (Schulman, "Approximating KL divergence")."""
    if estimator == "k3":
        return jnp.expm1(d_BL) - d_BL
    return d_BL**2 / 2 if estimator == "k2" else -d_BL


def _reduce(
    values_BL: jax.Array, mask_BL: jax.Array, reduction: str, max_length: int | None, norm: Normalizer
) -> jax.Array:
    if reduction == "sequence":
        means_B = safe_divide(masked_sum(values_BL, mask_BL, axis=1), jnp.sum(mask_BL, axis=1))
        return safe_divide(jnp.sum(means_B), norm.sequences)
    total = masked_sum(values_BL, mask_BL)
    if reduction == "token":
        return safe_divide(total, norm.tokens)
    assert max_length is not None, "checked with the options"
    return safe_divide(total, norm.rows * max_length)
