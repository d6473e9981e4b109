"""AdamW or Muon with clipping and a warmup schedule, from optax; and in which precision it remembers.

Arithmetic is float32 throughout, whatever is kept between updates.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from r1jax.config import OptimizerConfig, PrecisionConfig
from r1jax.types import PyTree

REMEMBERED = PrecisionConfig(moments="float32", master=False)  # where a config does not say
_MOMENTS = ("mu", "nu")  # as optax names them
_NO_MATRIX = ("embed_VD", "head_DV", "router_DE")  # AdamW's under Muon too, as Moonlight has it


class Mastered(NamedTuple):
    """The optimizer's state where the parameters are roundings of exact ones."""

    master: PyTree  # float32, shaped as the parameters
    inner: PyTree  # the update rule's own state


def schedule(config: OptimizerConfig, updates: int) -> optax.Schedule:
    """Learning rate by update: linear from 0 over `warmup_steps`, then constant or cosine to `final_scale` of it."""
    if config.schedule == "constant":
        after = optax.constant_schedule(config.lr)
    else:
        after = optax.cosine_decay_schedule(config.lr, max(1, updates - config.warmup_steps), config.final_scale)
    warmup = optax.linear_schedule(0.0, config.lr, max(1, config.warmup_steps))
    # An update's rate is read before its count is raised: shift by one, so that the first update already moves.
    # Jitted, for asked outside of an update it would be a dozen programs, of an operation each.
    return jax.jit(lambda count: optax.join_schedules([warmup, after], [config.warmup_steps])(count + 1))


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
    return in_precision(optax.chain(optax.clip_by_global_norm(config.clip_norm), rule), config.precision or REMEMBERED)


def in_precision(rule: optax.GradientTransformation, precision: PrecisionConfig) -> optax.GradientTransformation:
    """`rule` as if all were float32, with moments kept in `precision.moments` and, by its wish, master copies.

    Its updates are to be applied by `apply_updates`. Source: DeepSeek-V3 keeps moments in bfloat16, and gradients and
    master copies in float32 (arXiv 2412.19437, section 3.3.3).
    """

    def init(params: PyTree) -> PyTree:
        exact = optax.tree.cast(params, jnp.float32)
        inner = _cast_moments(rule.init(exact), precision.moments)
        return Mastered(exact, inner) if precision.master else inner

    def update(grads: PyTree, state: PyTree, params: PyTree | None = None) -> tuple[PyTree, PyTree]:
        exact, inner = state if precision.master else (optax.tree.cast(params, jnp.float32), state)
        updates, inner = rule.update(grads, _cast_moments(inner, "float32"), exact)
        inner = _cast_moments(inner, precision.moments)
        return updates, Mastered(exact, inner) if precision.master else inner

    return optax.GradientTransformation(init, update)


def apply_updates(params: PyTree, updates: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
    """(parameters, optimizer's state) after an update; where there are master copies, they move and are rounded."""
    if not isinstance(state, Mastered):
        return optax.apply_updates(params, updates), state
    master = optax.apply_updates(state.master, updates)
    return jax.tree.map(lambda exact, x: exact.astype(x.dtype), master, params), state._replace(master=master)


def _cast_moments(state: PyTree, dtype: str) -> PyTree:
    def cast(path: tuple, leaf: jax.Array) -> jax.Array:
        return leaf.astype(dtype) if any(getattr(key, "name", None) in _MOMENTS for key in path) else leaf

    return jax.tree_util.tree_map_with_path(cast, state)


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
