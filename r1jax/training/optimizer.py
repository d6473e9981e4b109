"""AdamW with clipping and a warmup schedule, from optax."""

from __future__ import annotations

import jax
import optax

from r1jax.config import OptimizerConfig
from r1jax.types import PyTree


def schedule(config: OptimizerConfig, updates: int) -> optax.Schedule:
    """Learning rate by update: linear from 0 over `warmup_steps`, then constant or cosine to `final_scale` of it."""
    if config.schedule == "constant":
        after = optax.constant_schedule(config.lr)
    else:
        after = optax.cosine_decay_schedule(config.lr, max(1, updates - config.warmup_steps), config.final_scale)
    warmup = optax.linear_schedule(0.0, config.lr, max(1, config.warmup_steps))
    # An update's rate is read before its count is raised: shift by one, so that the first update already moves.
    return lambda count: optax.join_schedules([warmup, after], [config.warmup_steps])(count + 1)


def make_optimizer(config: OptimizerConfig, updates: int) -> optax.GradientTransformation:
    """The optimizer of a run of `updates` updates. Weight decay acts on matrices, not on norms' scales."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            schedule(config, updates),
            b1=config.beta1,
            b2=config.beta2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=decayed,
        ),
    )


def decayed(params: PyTree) -> PyTree:
    """True for each parameter that weight decay acts on: all but the norms' scales."""
    return jax.tree_util.tree_map_with_path(lambda path, _: not str(path[-1].key).startswith("scale"), params)
