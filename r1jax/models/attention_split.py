"""Attention over rows that are split over a mesh: rows over some axes, heads and a row's tokens over others.

Each device has the queries of its own tokens, a stretch of the row, and gathers the rest of the row's keys and values
in the form in which they are least: under latent attention the latents, which it expands for its own heads. What it
gathers is the only thing exchanged, and its cotangent is summed on the way back to whose it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from r1jax.config import PolicyConfig
from r1jax.mesh import ACTIVATIONS, WEIGHTS, spec
from r1jax.models.attention import KeyValue, Rows, attend_dense
from r1jax.models.attention_blockwise import attend_blockwise
from r1jax.models.sharded import axes_of, fill_up, rows_spec, ways
from r1jax.types import PyTree

Expand = Callable[[PolicyConfig, Any, PyTree], KeyValue]


def attend_split(
    config: PolicyConfig, q_RTHC: jax.Array, kept: PyTree, expand: Expand, weights: PyTree, where: Rows
) -> jax.Array:
    """`attention.attend` over the mesh that is set: [R, T, H, C].

    Args:
      kept: what keys and values are made of: arrays [R, T, W], or [R, T, K, C] with the heads split like q's.
      expand: makes them: (config, kept, weights) -> KeyValue, for the heads that it is given.
      weights: what `expand` needs: arrays [W, H, C].
    """
    part = rows_spec()
    rows, tokens = (PartitionSpec(entry) for entry in part)
    along, apart = axes_of(tokens), WEIGHTS["W"]
    heads, of_weights = spec("RTHC", ACTIVATIONS), spec("WHC", WEIGHTS)
    of_kept = jax.tree.map(lambda x: heads if x.ndim == 4 else PartitionSpec(*part, None), kept)

    def here(q_RTHC, kept, weights, segment_RT, branch_RT, mask_RTT):
        if ways(along) > 1:
            kept = jax.tree.map(lambda x: jax.lax.all_gather(x, along, axis=1, tiled=True), kept)
        if ways(apart) > 1:
            weights = jax.tree.map(lambda x: jax.lax.all_gather(x, apart, axis=0, tiled=True), weights)
        k, v = expand(config, kept, weights)
        if mask_RTT is not None:
            return attend_dense(q_RTHC, k, v, mask_RTT)
        start = jax.lax.axis_index(along) * q_RTHC.shape[1]
        return attend_blockwise(config.attention_block, q_RTHC, k, v, segment_RT, branch_RT, start)

    run = jax.shard_map(
        here,
        in_specs=(heads, of_kept, jax.tree.map(lambda _: of_weights, weights), rows, rows, part),
        out_specs=heads,
        check_vma=False,
    )
    segment_RT, branch_RT = (fill_up(jnp.asarray(x), part) for x in (where.segment_RT, where.branch_RT))
    mask_RTT = None if where.mask_RTT is None else _fill_up_mask(where.mask_RTT, part)
    kept = jax.tree.map(lambda x: fill_up(x, part), kept)
    mixed_RTHC = run(fill_up(q_RTHC, part), kept, weights, segment_RT, branch_RT, mask_RTT)
    return mixed_RTHC[: q_RTHC.shape[0], : q_RTHC.shape[1]]


def _fill_up_mask(mask_RTT: jax.Array, part: PartitionSpec) -> jax.Array:
    mask_RTT = fill_up(mask_RTT, part)
    return jnp.pad(mask_RTT, ((0, 0), (0, 0), (0, mask_RTT.shape[1] - mask_RTT.shape[2])))
