"""The update of a student that sees its teacher's distribution, unjitted and pure, beside SFT's in `step.py`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from r1jax.config import BatchConfig, PolicyConfig, RouterConfig
from r1jax.losses.distillation import distillation, distilled_logprobs
from r1jax.models.policy import forward, head
from r1jax.training.state import TrainState
from r1jax.training.step import accumulate, apply_gradients, micro_batches, segment_count
from r1jax.types import Packed, PyTree


def distillation_step(
    config: PolicyConfig,
    teacher_config: PolicyConfig,
    batch_config: BatchConfig,
    router: RouterConfig,
    alpha: float,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    packed: Packed,
    teacher: PyTree,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update over packed rows: `sft_step`, with the teacher's forward pass beside the student's."""
    weight = jnp.sum(packed.weight_RT)
    segments = segment_count(packed.segment_RT)

    def loss(params, rows: Packed, _):
        hidden_RTD, aux = forward(config, params, rows)
        teacher_RTU, _ = forward(teacher_config, teacher, rows)
        logp_RT, kl_RT, entropy_RT = distilled_logprobs(
            hidden_RTD, head(config, params), teacher_RTU, head(teacher_config, teacher), rows.target_RT,
            chunk=batch_config.logit_chunk,
        )  # fmt: skip
        loss, metrics = distillation(logp_RT, kl_RT, rows.weight_RT, alpha=alpha, normalizer=weight)
        balance = aux.balance / jnp.maximum(segments, 1)
        metrics |= {
            "policy/entropy": jnp.sum(jax.lax.stop_gradient(entropy_RT) * rows.weight_RT) / jnp.maximum(weight, 1.0),
            "moe/balance": balance,
        }
        return loss + router.balance_coef * balance, (metrics, aux)

    grads, metrics, aux = accumulate(loss, state.params, micro_batches(packed, batch_config.micro_rows))
    state, metrics = apply_gradients(state, grads, metrics, aux, router, optimizer)
    metrics["update/padding"] = jnp.mean(packed.segment_RT == 0)
    return state._replace(step=state.step + 1), metrics
