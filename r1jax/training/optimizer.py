"""AdamW or Muon with clipping and a warmup schedule, from optax."""

from __future__ import annotations

import jax
import optax
import optax.contrib

from r1jax.config import OptimizerConfig
from r1jax.types import PyTree

_NO_MATRIX = ("embed_VD", "head_DV", "router_DE")  # AdamW's under Muon too, as Moonlight has it


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
    """The optimizer of a run of `updates` updates. Weight decay acts on matrices, not on norms' scales.

    Muon moves each weight matrix by its orthogonalised momentum, scaled so that an update's root mean square is 0.2
    of the rate, as AdamW's is about: the two share learning rates. Embedding, head, router and vectors stay AdamW's.
    Source: Muon (Jordan et al. 2024), as Moonlight scales it (arXiv 2502.16982, section 2.2).
    """
    rate = schedule(config, updates)
    if config.rule == "adamw":
        rule = optax.adamw(
            rate, b1=config.beta1, b2=config.beta2, eps=config.eps, weight_decay=config.weight_decay, mask=decayed
        )
    else:
        rule = optax.contrib.muon(
            rate,
            beta=config.beta1,
            eps=config.eps,
            weight_decay=config.weight_decay,
            adam_b1=config.beta1,
            adam_b2=config.beta2,
            consistent_rms=0.2,
            muon_weight_dimension_numbers=matrices,
        )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), rule)


def decayed(params: PyTree) -> PyTree:
    """True for each parameter that weight decay acts on: all but the norms' scales."""
    return jax.tree_util.tree_map_with_path(lambda path, _: not str(path[-1].key).startswith("scale"), params)


def matrices(params: PyTree) -> PyTree:
    """Which axes of a parameter are a matrix's input and output, read off its name; None for what is no matrix.

    Other axes, of layers (N) and experts (E), count matrices. Of three axes, heads go with their head size.
    """
    return jax.tree_util.tree_map_with_path(lambda path, x: _matrix(str(path[-1].key), x.ndim), params)


def _matrix(name: str, ndim: int) -> optax.contrib.MuonDimensionNumbers | None:
    letters = name.rsplit("_", 1)[-1]
    letters = letters.removeprefix("E") if len(letters) == 3 else letters
    if name in _NO_MATRIX or "bias" in name or len(letters) < 2:
        return None
    inputs = 2 if letters == "HCD" else 1
    axes = tuple(range(ndim - len(letters), ndim))
    return optax.contrib.MuonDimensionNumbers(axes[:inputs], axes[inputs:])
