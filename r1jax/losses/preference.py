"""The objectives of reward models: which of two replies is better, and whether a reply is safe."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from r1jax.losses.supervised import masked_sum, safe_divide
from r1jax.types import Array


def bradley_terry(
    chosen_P: Array, rejected_P: Array, weight_P: Array, *, normalizer: Array | None = None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Negative log-likelihood of preferences, where P(chosen beats rejected) = sigmoid(chosen - rejected).

        loss = -sum(weight * log sigmoid(chosen - rejected)) / normalizer

    Args:
      chosen_P, rejected_P: scores of the two replies to each prompt. Ignored, whatever they are, where the weight is 0.
      weight_P: 1 where the pair counts, else 0; fractions weigh.
      normalizer: scalar, the total weight of the whole batch: given that, the figures of its micro-batches sum to
        those of the whole. None: this batch's own total.

    Returns:
      (loss, {"loss", "preference/accuracy": share of pairs ranked rightly (a tie is not), "preference/margin": mean
      of chosen - rejected}), float32 scalars; 0 when no pair counts.

    Source: Bradley & Terry 1952; as a loss, Ouyang et al. 2022 (arXiv 2203.02155), eq. 1; DeepSeek-R1's helpful
      reward model is trained with it.
    """
    chex.assert_rank(chosen_P, 1)
    chex.assert_equal_shape([chosen_P, rejected_P, weight_P])
    margin_P = jnp.asarray(chosen_P, jnp.float32) - jnp.asarray(rejected_P, jnp.float32)
    return _means(
        normalizer, weight_P, -jax.nn.log_sigmoid(margin_P),
        {"preference/accuracy": margin_P > 0, "preference/margin": margin_P},
    )  # fmt: skip


def pointwise(
    score_B: Array, label_B: Array, weight_B: Array, *, normalizer: Array | None = None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Binary cross-entropy of labels, where P(safe) = sigmoid(score).

        loss = -sum(weight * (label * log sigmoid(score) + (1 - label) * log sigmoid(-score))) / normalizer

    Args:
      score_B: logits. Ignored, whatever they are, where the weight is 0.
      label_B: 1 safe, 0 unsafe.
      weight_B, normalizer: as in `bradley_terry`.

    Returns:
      (loss, {"loss", "preference/accuracy": share of replies on the right side of 0, "preference/margin": mean of
      the score towards the label's side}), float32 scalars; 0 when no reply counts.

    Source: DeepSeek-R1 (arXiv 2501.12948), its safety reward model.
    """
    chex.assert_rank(score_B, 1)
    chex.assert_equal_shape([score_B, label_B, weight_B])
    side_B = jnp.where(jnp.asarray(label_B) > 0.5, 1.0, -1.0)
    towards_B = jnp.asarray(score_B, jnp.float32) * side_B
    return _means(
        normalizer, weight_B, -jax.nn.log_sigmoid(towards_B),
        {"preference/accuracy": towards_B > 0, "preference/margin": towards_B},
    )  # fmt: skip


def _means(
    normalizer: Array | None, weight: Array, loss: jax.Array, figures: dict[str, jax.Array]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Weighted means over the batch, or its share of the whole one's; only the loss carries a gradient."""
    weight = jnp.asarray(weight, jnp.float32)
    total = jnp.sum(weight) if normalizer is None else normalizer
    mean = safe_divide(masked_sum(loss, weight), total)
    metrics = {name: safe_divide(masked_sum(values, weight), total) for name, values in figures.items()}
    return mean, jax.lax.stop_gradient({"loss": mean} | metrics)
