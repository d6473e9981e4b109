"""The sampler's own copy of a policy, in less precision than the trainer's: less memory, and less to read a token."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from r1jax.config import PolicyConfig
from r1jax.mesh import state_shardings
from r1jax.models.layers import scales_name
from r1jax.rollout.resharding import Placement, Result
from r1jax.types import PyTree

EXACT = ("router_DE", "scale_X")  # read in float32 whatever the rest is, and small
NARROW = ("embed_VD", "head_DV")  # bfloat16 in any case: no layer's


class RoundedPlacement:
    """As `Placement`, of a copy that is made anew each time: the parameters stay where and as they are.

    Args:
      abstract: the parameters' shapes, with the shardings that training gives them.
      training, sampling: the meshes of either.
      precision: `rollout.precision`, not "policy".
    """

    def __init__(self, abstract: PyTree, training: Mesh, sampling: Mesh, precision: str):
        self.mesh = sampling
        rounding = functools.partial(rounded, precision=precision)
        shapes = jax.eval_shape(rounding, abstract)
        place = state_shardings(training, shapes)
        self._round = jax.jit(rounding, out_shardings=place)
        copy = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, place)
        self._placement = Placement(copy, sampling)

    def lend(self, params: PyTree, use: Callable[[PyTree], Result]) -> tuple[Result, PyTree, dict[str, float]]:
        """As `Placement.lend`; the parameters that it gives back are those it was given."""
        result, figures = self._placement.give(self._round(params), use)
        return result, params, figures


def sampler_policy(policy: PolicyConfig, precision: str) -> PolicyConfig:
    """The policy as the sampler computes it: in bfloat16, its cache included, unless `precision` is "policy"."""
    if precision == "policy":
        return policy
    return dataclasses.replace(policy, dtype="bfloat16", param_dtype="bfloat16")


def is_rounded(policy: PolicyConfig, precision: str) -> bool:
    """Whether the sampler's copy is another than the policy's own variables."""
    return precision == "int8" or sampler_policy(policy, precision) != policy


def rounded(variables: PyTree, *, precision: str) -> PyTree:
    """A copy of a policy's variables for `sampler_policy`. Pure.

    Under "int8" the layers' matrices are 8-bit integers times a scale for each output channel (of each expert), the
    collection "scales" (`models.layers.weight`); the rest is bfloat16, as all is under "bfloat16". The router's weights
    and load biases and the norms' scales stay as they are.
    """
    assert precision in ("bfloat16", "int8"), f"nothing is rounded under rollout.precision {precision!r}"
    params, scales = {}, {}
    for path, leaf in flatten_dict(variables["params"]).items():
        name = path[-1]
        if name in EXACT:
            params[path] = jnp.copy(leaf)
        elif precision == "bfloat16" or name in NARROW or "bias" in name:
            params[path] = leaf.astype(jnp.bfloat16)
        else:
            params[path], scales[*path[:-1], scales_name(name)] = quantized(name, leaf)
    copy = {"params": unflatten_dict(params), "router": jax.tree.map(jnp.copy, variables["router"])}
    return copy | {"scales": unflatten_dict(scales)} if scales else copy


def quantized(name: str, w: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(8-bit integers in -127 .. 127, their float32 scales): w is the product of both, to half a scale.

    The scales' axes that a product with w sums over are of size 1.

    Args:
      name: of the matrix, which ends in its axes; a scanned one has an N before them.
    """
    letters = name.rsplit("_", 1)[1]
    first = w.ndim - len(letters) + letters.startswith("E")
    summed = (first, first + 1) if letters == "HCD" else (first,)
    wide = w.astype(jnp.float32)
    scale = jnp.max(jnp.abs(wide), axis=summed, keepdims=True) / 127.0
    units = jnp.round(wide / jnp.broadcast_to(jnp.where(scale > 0, scale, 1.0), w.shape))
    return units.astype(jnp.int8), scale
