"""Distillation from a teacher's logits: forward KL to the student, with the logits of a few tokens at a time."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from r1jax.losses.logprobs import from_pieces, to_pieces
from r1jax.losses.supervised import masked_sum, safe_divide
from r1jax.types import Array


def distilled_logprobs(
    hidden_RTD: Array,
    head_DV: Array,
    teacher_RTU: Array,
    teacher_head_UV: Array,
    target_RT: Array,
    *,
    chunk: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Log-probabilities of the targets, and how far the student's distribution is from the teacher's.

        kl = sum_v p_teacher(v) (ln p_teacher(v) - ln p_student(v))

    As in `token_logprobs` the logits of at most `chunk` tokens exist at once, of both: no [R, T, V] array is ever held.

    Args:
      hidden_RTD, head_DV: the student's.
      teacher_RTU, teacher_head_UV: the teacher's, of width U and the same vocabulary; no gradient reaches them.
      target_RT: token to score at each position.
      chunk: tokens whose logits may exist at once, 1 or more.

    Returns:
      (logp_RT, kl_RT, entropy_RT), float32, nats. The entropy is the student's and carries no gradient.

    Raises:
      ValueError: `chunk` is below 1.

    Source: Hinton et al. 2015 (arXiv 1503.02531), at temperature 1.
    """
    if not chunk >= 1:
        raise ValueError(f"chunk is {chunk!r}; expected 1 or more tokens")
    R, T, D = hidden_RTD.shape
    dims = chex.Dimensions(R=R, T=T, D=D, U=teacher_RTU.shape[-1], V=head_DV.shape[-1])
    chex.assert_shape(
        [head_DV, teacher_RTU, teacher_head_UV, target_RT], [dims["DV"], dims["RTU"], dims["UV"], dims["RT"]]
    )
    teacher_RTU, teacher_head_UV = jax.lax.stop_gradient((teacher_RTU, teacher_head_UV))

    @jax.checkpoint
    def score(piece: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        hidden_XD, teacher_XU, target_X = piece
        logp_XV = _log_softmax(hidden_XD, head_DV)
        teacher_XV = _log_softmax(teacher_XU, teacher_head_UV)
        hit_XV = jnp.arange(logp_XV.shape[-1])[None] == target_X[:, None]
        own_XV = jax.lax.stop_gradient(logp_XV)
        return (
            jnp.sum(jnp.where(hit_XV, logp_XV, 0.0), axis=-1),
            jnp.sum(jnp.exp(teacher_XV) * (teacher_XV - logp_XV), axis=-1),
            -jnp.sum(jnp.exp(own_XV) * own_XV, axis=-1),
        )

    pieces = tuple(to_pieces(x, chunk) for x in (hidden_RTD, teacher_RTU, target_RT))
    logp_RT, kl_RT, entropy_RT = (from_pieces(x, R, T, chunk) for x in jax.lax.map(score, pieces))
    return logp_RT, kl_RT, entropy_RT


def distillation(
    logp_RT: Array, kl_RT: Array, weight_RT: Array, *, alpha: float, normalizer: Array | None = None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The teacher's distribution and its sampled text, weighed.

        loss = sum(weight (alpha kl - (1 - alpha) logp)) / normalizer

    Args:
      logp_RT, kl_RT: of `distilled_logprobs`. Ignored, whatever they are, where the weight is 0.
      weight_RT: 1 where the target is to be learnt, else 0; fractions weigh.
      alpha: in 0..1: 1 is the teacher's distribution alone, 0 the text alone.
      normalizer: scalar, the total weight of the whole batch: given that, the losses of its micro-batches sum
        to the loss of the whole. None: this batch's own total.

    Returns:
      (loss, {"loss", "distillation/kl", "distillation/cross_entropy"}), float32 scalars; 0 when nothing is learnt.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha!r}; expected a number in 0..1")
    chex.assert_equal_shape([logp_RT, kl_RT, weight_RT])
    weight_RT = jnp.asarray(weight_RT, jnp.float32)
    total = jnp.sum(weight_RT) if normalizer is None else normalizer
    kl = safe_divide(masked_sum(kl_RT, weight_RT), total)
    entropy = -safe_divide(masked_sum(logp_RT, weight_RT), total)
    loss = alpha * kl + (1 - alpha) * entropy
    metrics = {"loss": loss, "distillation/kl": kl, "distillation/cross_entropy": entropy}
    return loss, jax.lax.stop_gradient(metrics)


def _log_softmax(hidden_XD: jax.Array, head_DV: Array) -> jax.Array:
    """Float32 log-probabilities of some tokens; the product is taken in the hidden states' dtype."""
    head_DV = jnp.asarray(head_DV, hidden_XD.dtype)
    return jax.nn.log_softmax(jnp.dot(hidden_XD, head_DV, preferred_element_type=jnp.float32), axis=-1)
