"""DeepSeekMoE (arXiv 2412.19437, section 2.1.2): shared experts, and routed ones picked by group-limited top-k.

Dispatch is dropless: every token reaches all its experts, whatever the load. Tokens are laid out by expert in
blocks of a fixed size, each block belonging to one expert, so that the experts' work is one batched matmul over
blocks: at most one partly filled block an expert is wasted, and shapes do not depend on the routing.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from r1jax.config import PolicyConfig
from r1jax.models.layers import GatedFFN, weight


class Routing(NamedTuple):
    expert_TA: jax.Array  # int32, the experts of each token
    share_TA: jax.Array  # float32, their combine weights
    score_TE: jax.Array  # float32, unbiased affinities


class Layout(NamedTuple):
    """Where each (token, expert) assignment stands in the expert-sorted, block-padded order of slots."""

    slot_TA: jax.Array  # int32; the number of slots where the token is padding
    assignment_S: jax.Array  # int32, the inverse, t * A + a; T * A for an empty slot
    block_expert_N: jax.Array  # int32, the expert of each block
    load_E: jax.Array  # int32, tokens that each expert received
    rows_E: jax.Array  # int32, slots of each expert, whole blocks


class MoeOutput(NamedTuple):
    load_E: jax.Array  # int32, assignments
    balance: jax.Array  # float32, sequence-wise balance loss, summed over sequences
    dropped: jax.Array  # int32, assignments that found no slot


def route(score_TE: jax.Array, bias_E: jax.Array, config: PolicyConfig) -> Routing:
    """Picks each token's experts by biased scores and weighs them by unbiased ones.

    Groups are ranked by the sum of their two best biased scores (V3), or by their best (V2); experts of the groups
    that are not kept stand at -inf, so that no bias can bring them back (a zero there can be beaten by a negative
    bias). With `norm_topk` a token's weights are made to sum to 1 before they are scaled.

    Source: arXiv 2412.19437, eqs. 13-16, and its reference `inference/model.py`; V2: arXiv 2405.04434, section 2.2.
    """
    biased = score_TE + bias_E[None]
    if config.expert_groups > 1:
        grouped = biased.reshape(-1, config.expert_groups, config.experts // config.expert_groups)
        counted = min(2, grouped.shape[-1]) if config.group_score == "top2" else 1
        of_group = jax.lax.top_k(grouped, counted)[0].sum(-1)
        kept = jax.lax.top_k(of_group, config.kept_groups)[1]
        is_kept = jax.nn.one_hot(kept, config.expert_groups, dtype=bool).any(axis=1)
        biased = jnp.where(is_kept[:, :, None], grouped, -jnp.inf).reshape(biased.shape)
    expert_TA = jax.lax.top_k(biased, config.active_experts)[1]
    chosen = jax.nn.one_hot(expert_TA, config.experts, dtype=score_TE.dtype)
    share_TA = jnp.einsum("te,tae->ta", score_TE, chosen)
    if config.norm_topk:
        share_TA = share_TA / (share_TA.sum(-1, keepdims=True) + 1e-20)
    return Routing(expert_TA, share_TA * config.routed_scale, score_TE)


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


def balance_loss(routing: Routing, segment_T: jax.Array, config: PolicyConfig) -> jax.Array:
    """Sum over sequences of sum_e f_e P_e (arXiv 2412.19437, eqs. 17-20, without alpha and the mean over sequences).

    f_e is the share of the sequence's assignments that went to e, times E / A; P_e its mean normalised score.

    Args:
      segment_T: id of the sequence of each token, unique over the batch; 0 for padding.
    """
    tokens = segment_T.shape[0]
    one_hot = jax.nn.one_hot(routing.expert_TA, config.experts, dtype=jnp.float32).sum(axis=1)
    normal = routing.score_TE / (routing.score_TE.sum(-1, keepdims=True) + 1e-20)
    sums = jax.ops.segment_sum(
        jnp.concatenate([one_hot, normal, jnp.ones((tokens, 1))], axis=1), segment_T, num_segments=tokens + 1
    )[1:]
    picked, score, length = jnp.split(sums, [config.experts, 2 * config.experts], axis=1)
    length_safe = jnp.maximum(length, 1.0)
    f = jax.lax.stop_gradient(picked / length_safe) * (config.experts / config.active_experts)
    return (f * score / length_safe).sum()


class MoE(nn.Module):
    """Shared and routed experts. The load bias, in the collection "router", is read here and set in training."""

    config: PolicyConfig

    @nn.compact
    def __call__(self, x: jax.Array, segment: jax.Array) -> tuple[jax.Array, MoeOutput]:
        """Args: x [..., D]; segment [...], id of each token's sequence, unique over the batch, 0 for padding."""
        c = self.config
        x_TD = x.reshape(-1, c.width)
        router_DE = self.param(
            "router_DE", nn.initializers.normal(c.init_scale), (c.width, c.experts), jnp.dtype(c.param_dtype)
        )
        bias_E = self.variable("router", "bias_E", jnp.zeros, (c.experts,), jnp.float32).value
        logits = jnp.matmul(x_TD.astype(jnp.float32), router_DE.astype(jnp.float32))
        score_TE = jax.nn.sigmoid(logits) if c.score == "sigmoid" else jax.nn.softmax(logits, axis=-1)
        routing = route(score_TE, bias_E, c)
        segment_T = segment.reshape(-1)
        block = block_size(routing.expert_TA.size, c.experts)
        layout = lay_out(routing.expert_TA, segment_T > 0, c.experts, block)
        y_TD = self._experts(x_TD, routing, layout)
        if c.shared_experts:
            y_TD += GatedFFN(c, c.shared_experts * c.expert_ffn, name="shared")(x_TD)
        placed = (layout.assignment_S < routing.expert_TA.size).sum()
        output = MoeOutput(layout.load_E, balance_loss(routing, segment_T, c), layout.load_E.sum() - placed)
        return y_TD.reshape(x.shape), output

    def _experts(self, x_TD: jax.Array, routing: Routing, layout: Layout) -> jax.Array:
        c = self.config
        gate_EDF = weight(self, c, "gate_EDF", (c.experts, c.width, c.expert_ffn))
        up_EDF = weight(self, c, "up_EDF", (c.experts, c.width, c.expert_ffn))
        down_EFD = weight(self, c, "down_EFD", (c.experts, c.expert_ffn, c.width))
        x_SD = to_slots(x_TD, layout.slot_TA, layout.assignment_S)
        hidden_SF = nn.silu(grouped_matmul(x_SD, gate_EDF, layout)) * grouped_matmul(x_SD, up_EDF, layout)
        y_TAD = from_slots(grouped_matmul(hidden_SF, down_EFD, layout), layout.slot_TA, layout.assignment_S)
        return jnp.einsum("tad,ta->td", y_TAD, routing.share_TA.astype(y_TAD.dtype))
