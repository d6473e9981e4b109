"""The experts' own work on one device: tokens laid out by expert in blocks, and one grouped matmul over the blocks.

Tokens are laid out by expert in blocks of a fixed size, each block belonging to one expert, so that the experts' work
is one batched matmul over blocks: at most one partly filled block an expert is wasted, and shapes do not depend on the
routing.
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
    rows_E: jax.Array  # int32, slots of each expert, whole blocks


def block_size(assignments: int, experts: int) -> int:
    """Rows of a block: about a quarter of an even share, a power of two from 8 to 256."""
    target = max(1, assignments // experts // 4)
    return min(256, max(8, 1 << (target - 1).bit_length()))


def lay_out(expert_TA: jax.Array, valid_T: jax.Array, experts: int, block: int) -> Layout:
    """The block-padded order of the assignments, stable in token order within an expert."""
    tokens, active = expert_TA.shape
    count = tokens * active
    blocks = count // block + experts
    one_hot = jax.nn.one_hot(jnp.where(valid_T[:, None], expert_TA, experts), experts, dtype=jnp.int32)
    one_hot = one_hot.reshape(count, experts)
    rank = jnp.einsum("ne,ne->n", jnp.cumsum(one_hot, axis=0) - 1, one_hot)
    load_E = one_hot.sum(axis=0)
    blocks_E = -(-load_E // block)
    end_E = jnp.cumsum(blocks_E)
    first_slot = one_hot @ ((end_E - blocks_E) * block)
    is_valid = one_hot.any(axis=1)
    slot = jnp.where(is_valid, first_slot + rank, blocks * block)
    assignment_S = jnp.full((blocks * block,), count, jnp.int32)
    assignment_S = assignment_S.at[slot].set(jnp.arange(count, dtype=jnp.int32), mode="drop", unique_indices=True)
    block_expert = jnp.searchsorted(end_E, jnp.arange(blocks), side="right")
    return Layout(
        slot.reshape(tokens, active), assignment_S, jnp.minimum(block_expert, experts - 1), load_E, blocks_E * block
    )


@jax.custom_vjp
def to_slots(x_TD: jax.Array, slot_TA: jax.Array, assignment_S: jax.Array) -> jax.Array:
    """x_SD: each slot's token, zeros where a slot is empty. Forward and backward are gathers, never scatters."""
    return jnp.take(x_TD, assignment_S // slot_TA.shape[1], axis=0, mode="fill", fill_value=0)


def _to_slots_fwd(x_TD, slot_TA, assignment_S):
    return to_slots(x_TD, slot_TA, assignment_S), (slot_TA, assignment_S)


def _to_slots_bwd(saved, d_SD):
    slot_TA, assignment_S = saved
    return from_slots(d_SD, slot_TA, assignment_S).sum(axis=1), None, None


@jax.custom_vjp
def from_slots(x_SD: jax.Array, slot_TA: jax.Array, assignment_S: jax.Array) -> jax.Array:
    """x_TAD: what stands in each assignment's slot, zeros for padding tokens. The transpose of `to_slots`."""
    return jnp.take(x_SD, slot_TA, axis=0, mode="fill", fill_value=0)


def _from_slots_fwd(x_SD, slot_TA, assignment_S):
    return from_slots(x_SD, slot_TA, assignment_S), (slot_TA, assignment_S)


def _from_slots_bwd(saved, d_TAD):
    _, assignment_S = saved
    flat = d_TAD.reshape(-1, d_TAD.shape[-1])
    return jnp.take(flat, assignment_S, axis=0, mode="fill", fill_value=0), None, None


to_slots.defvjp(_to_slots_fwd, _to_slots_bwd)
from_slots.defvjp(_from_slots_fwd, _from_slots_bwd)


def grouped_matmul(x_SD: jax.Array, w_EDF: jax.Array, layout: Layout) -> jax.Array:
    """Each slot times its expert's matrix: x_SF.

    On CPU, where `ragged_dot` is 10 to 70 times slower, a batched matmul over blocks; elsewhere `ragged_dot`.
    """

    def blocks(x_SD, w_EDF):
        x_NBD = x_SD.reshape(layout.block_expert_N.shape[0], -1, x_SD.shape[-1])
        w_NDF = w_EDF[layout.block_expert_N]
        return jnp.einsum("nbd,ndf->nbf", x_NBD, w_NDF).reshape(x_SD.shape[0], -1)

    def ragged(x_SD, w_EDF):
        return jax.lax.ragged_dot(x_SD, w_EDF, layout.rows_E)

    return jax.lax.platform_dependent(x_SD, w_EDF, cpu=blocks, default=ragged)


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


def feed_forward(x_SD: jax.Array, weights: ExpertWeights, layout: Layout) -> jax.Array:
    """down(silu(gate(x)) * up(x)) of each slot, by its expert's matrices: y_SD."""
    hidden_SF = nn.silu(grouped_matmul(x_SD, weights.gate_EDF, layout)) * grouped_matmul(x_SD, weights.up_EDF, layout)
    return grouped_matmul(hidden_SF, weights.down_EFD, layout)
