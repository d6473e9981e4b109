"""The update of a reward model, unjitted and pure, beside those of the policy in `step.py`."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from r1jax.config import ComparisonBatchConfig, PolicyConfig, RouterConfig
from r1jax.losses.preference import bradley_terry, pointwise
from r1jax.models.scalar import scores
from r1jax.training.state import TrainState
from r1jax.training.step import accumulate, apply_gradients, micro_batches, segment_count
from r1jax.types import Array, Packed


class Comparisons(NamedTuple):
    """Replies in packed rows, both of a pair in the same row."""

    packed: Packed
    place_B: Array  # flat place in [R, T] of each reply's end; of pairs the chosen and the rejected in turn
    label_B: Array | None  # 1 safe, 0 unsafe; None: pairs


def preference_step(
    config: PolicyConfig,
    batch: ComparisonBatchConfig,
    router: RouterConfig,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    given: Comparisons,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update: Bradley-Terry over pairs, or binary cross-entropy over labelled replies."""
    segments = segment_count(given.packed.segment_RT)
    places = batch.micro_rows * batch.row_length
    examples = given.place_B.shape[0] / (2 if given.label_B is None else 1)

    def loss(params, rows: Packed, micro):
        # A micro-batch holds whole examples; those of the others weigh nothing here and are counted there.
        place_B = given.place_B - micro * places
        here_B = (place_B >= 0) & (place_B < places)
        score_B, aux = scores(config, params, rows, place_B)
        if given.label_B is None:
            loss, metrics = bradley_terry(score_B[0::2], score_B[1::2], here_B[0::2], normalizer=jnp.float32(examples))
        else:
            loss, metrics = pointwise(score_B, given.label_B, here_B, normalizer=jnp.float32(examples))
        balance = aux.balance / jnp.maximum(segments, 1)
        return loss + router.balance_coef * balance, (metrics | {"moe/balance": balance}, aux)

    grads, metrics, aux = accumulate(loss, state.params, micro_batches(given.packed, batch.micro_rows))
    state, metrics = apply_gradients(state, grads, metrics, aux, router, optimizer)
    metrics["update/padding"] = jnp.mean(given.packed.segment_RT == 0)
    return state._replace(step=state.step + 1), metrics
