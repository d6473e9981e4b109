"""The experts' own work on one device: tokens laid out by expert, and one grouped matmul over what was laid out.

Tokens are laid out by expert in blocks of a fixed size, each block belonging to one expert, so that the experts' work
is one batched matmul over blocks: at most one partly filled block an expert is wasted, and shapes do not depend on the
routing. On CPU, where the load is even enough for it, each expert has an equal share of the same slots instead, and no
block takes a copy of its expert's matrix.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp


class ExpertWeights(NamedTuple):
    gate_EDF: jax.Array
    up_EDF: jax.Array
    down_EFD: jax.Array


class Layout(NamedTuple):
    """Where each (token, expert) assignment stands in the expert-sorted, block-padded order of slots."""

    slot_TA: jax.Array  # int32; the number of slots where the token is padding
    assignment_S: jax.Array  # int32, the inverse, t * A + a; T * A for an empty slot
    block_expert_N: jax.Array  # int32, the expert of each block
    load_E: jax.Array  # int32, tokens that each expert received
    rows_E: jax.Array  # int32, slots of each expert, whole blocks or the equal share
    is_even: jax.Array  # bool: the slots of each expert are an equal share of all


def block_size(assignments: int, experts: int) -> int:
    """Rows of a block: about a quarter of an even share, a power of two from 8 to 256."""
    target = max(1, assignments // experts // 4)
    return min(256, max(8, 1 << (target - 1).bit_length()))


def lay_out(expert_TA: jax.Array, valid_T: jax.Array, experts: int, block: int) -> Layout:
    """The expert-sorted order of the assignments, stable in token order within an expert."""
    tokens, active = expert_TA.shape
    count = tokens * active
    blocks = count // block + experts
    one_hot = jax.nn.one_hot(jnp.where(valid_T[:, None], expert_TA, experts), experts, dtype=jnp.int32)
    one_hot = one_hot.reshape(count, experts)
    rank = jnp.einsum("ne,ne->n", jnp.cumsum(one_hot, axis=0) - 1, one_hot)
    load_E = one_hot.sum(axis=0)
    blocks_E = -(-load_E // block)
    end_E = jnp.cumsum(blocks_E)
    share = blocks * block // experts
    is_even = jax.lax.platform_dependent(load_E.max() <= share, cpu=lambda fits: fits, default=jnp.zeros_like)
    first_E = jnp.where(is_even, jnp.arange(experts) * share, (end_E - blocks_E) * block)
    is_valid = one_hot.any(axis=1)
    slot = jnp.where(is_valid, one_hot @ first_E + rank, blocks * block)
    assignment_S = jnp.full((blocks * block,), count, jnp.int32)
    assignment_S = assignment_S.at[slot].set(jnp.arange(count, dtype=jnp.int32), mode="drop", unique_indices=True)
    block_expert = jnp.minimum(jnp.searchsorted(end_E, jnp.arange(blocks), side="right"), experts - 1)
    rows_E = jnp.where(is_even, share, blocks_E * block)
    return Layout(slot.reshape(tokens, active), assignment_S, block_expert, load_E, rows_E, is_even)


@jax.custom_vjp
def to_slots(x_TD: jax.Array, slot_TA: jax.Array, assignment_S: jax.Array) -> jax.Array:
    """x_SD: each slot's token, zeros where a slot is empty. Forward and backward are gathers, never scatters."""
    return jnp.take(x_TD, assignment_S // slot_TA.shape[1], axis=0, mode="fill", fill_value=0)


@jax.custom_vjp
def from_slots(y_SD: jax.Array, slot_TA: jax.Array, assignment_S: jax.Array) -> jax.Array:
    """y_TD: the sum of what stands in a token's slots, zeros for padding tokens. The transpose of `to_slots`."""
    return jnp.take(y_SD, slot_TA, axis=0, mode="fill", fill_value=0).sum(axis=1)


to_slots.defvjp(lambda x, *where: (to_slots(x, *where), where), lambda where, d: (from_slots(d, *where), None, None))
from_slots.defvjp(lambda y, *where: (from_slots(y, *where), where), lambda where, d: (to_slots(d, *where), None, None))


def grouped_matmul(x_SD: jax.Array, w_EDF: jax.Array, layout: Layout) -> jax.Array:
    """Each slot times its expert's matrix: x_SF.

    On CPU, where `ragged_dot` is 10 to 70 times slower, a batched matmul; elsewhere `ragged_dot`.
    """

    def ragged(x_SD, w_EDF, layout):
        return jax.lax.ragged_dot(x_SD, w_EDF, layout.rows_E)

    return jax.lax.platform_dependent(x_SD, w_EDF, layout, cpu=_batched, default=ragged)


def _by_share(x_SD: jax.Array, w_EDF: jax.Array) -> jax.Array:
    """Of an even layout: a product an expert."""
    slots, experts = x_SD.shape[0], w_EDF.shape[0]
    used = slots // experts * experts
    y_SF = jnp.matmul(x_SD[:used].reshape(experts, -1, x_SD.shape[-1]), w_EDF).reshape(used, -1)
    return jnp.pad(y_SF, ((0, slots - used), (0, 0)))


def _by_block(x_SD: jax.Array, w_EDF: jax.Array, block_expert_N: jax.Array) -> jax.Array:
    """A product a block, each with a copy of its expert's matrix."""
    x_NBD = x_SD.reshape(block_expert_N.shape[0], -1, x_SD.shape[-1])
    return jnp.matmul(x_NBD, w_EDF[block_expert_N]).reshape(x_SD.shape[0], -1)


@jax.custom_vjp
def _batched(x_SD: jax.Array, w_EDF: jax.Array, layout: Layout) -> jax.Array:
    """The derivative is a choice of its own, so that neither way keeps for it what the other would need."""
    return jax.lax.cond(layout.is_even, lambda x, w, _: _by_share(x, w), _by_block, x_SD, w_EDF, layout.block_expert_N)


def _batched_bwd(saved, d_SF):
    x_SD, w_EDF, layout = saved

    def of_shares(x, w, _, d):
        return jax.vjp(_by_share, x, w)[1](d)

    def of_blocks(x, w, block_expert_N, d):
        return jax.vjp(lambda x, w: _by_block(x, w, block_expert_N), x, w)[1](d)

    d_x, d_w = jax.lax.cond(layout.is_even, of_shares, of_blocks, x_SD, w_EDF, layout.block_expert_N, d_SF)
    return d_x, d_w, None


_batched.defvjp(lambda x, w, layout: (_batched(x, w, layout), (x, w, layout)), _batched_bwd)


def every_expert(x_TD: jax.Array, share_TE: jax.Array, weights: ExpertWeights) -> jax.Array:
    """y_TD: what all experts make of all tokens, weighed by shares that are 0 where a token did not pick an expert.

    For few tokens: an expert's matrices are read where they lie, and to copy them, as `grouped_matmul` does on CPU,
    takes about as long as their product with a hundred tokens.
    """
    x_ETD = jnp.broadcast_to(x_TD, (share_TE.shape[1], *x_TD.shape))
    hidden_ETF = nn.silu(jnp.matmul(x_ETD, weights.gate_EDF)) * jnp.matmul(x_ETD, weights.up_EDF)
    hidden_TEF = jnp.swapaxes(hidden_ETF, 0, 1) * share_TE[:, :, None].astype(hidden_ETF.dtype)
    down_ED = weights.down_EFD.reshape(-1, weights.down_EFD.shape[-1])
    return hidden_TEF.reshape(x_TD.shape[0], -1) @ down_ED


def feed_forward(
    x_SD: jax.Array, weights: ExpertWeights, layout: Layout, share_S: jax.Array | None = None
) -> jax.Array:
    """share * down(silu(gate(x)) * up(x)) of each slot, by its expert's matrices: y_SD."""
    hidden_SF = nn.silu(grouped_matmul(x_SD, weights.gate_EDF, layout)) * grouped_matmul(x_SD, weights.up_EDF, layout)
    if share_S is not None:  # before the product, whose output is the wider
        hidden_SF = hidden_SF * share_S[:, None].astype(hidden_SF.dtype)
    return grouped_matmul(hidden_SF, weights.down_EFD, layout)
