"""DeepSeekMoE (arXiv 2412.19437, section 2.1.2): shared experts, and routed ones picked by group-limited top-k.

Dispatch is dropless: every token reaches all its experts, whatever the load. On one device tokens are laid out by
expert (`moe_experts.py`); where a mesh of several is set, they travel to their experts first (`moe_parallel.py`).
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from r1jax.config import PolicyConfig
from r1jax.models.layers import GatedFFN, weight
from r1jax.models.moe_experts import (
    ExpertWeights,
    block_size,
    every_expert,
    feed_forward,
    from_slots,
    lay_out,
    to_slots,
)
from r1jax.models.moe_parallel import Tokens, exchange
from r1jax.models.sharded import axes_of, fill_up, is_split, rows_spec

FEW_TOKENS = 128  # of decoding, up to which every expert reads every token on CPU


class Routing(NamedTuple):
    expert_TA: jax.Array  # int32, the experts of each token
    share_TA: jax.Array  # float32, their combine weights
    score_TE: jax.Array  # float32, unbiased affinities


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


def balance_loss(
    routing: Routing, segment_T: jax.Array, config: PolicyConfig, segments: int, axes: tuple[str, ...]
) -> jax.Array:
    """Sum over sequences of sum_e f_e P_e (arXiv 2412.19437, eqs. 17-20, without alpha and the mean over sequences).

    f_e is the share of the sequence's assignments that went to e, times E / A; P_e its mean normalised score.

    Args:
      segment_T: id of the sequence of each token, in 1 .. segments; 0 for padding.
      axes: mesh axes that the tokens of a sequence are split over, in a `shard_map`.
    """
    one_hot = jax.nn.one_hot(routing.expert_TA, config.experts, dtype=jnp.float32).sum(axis=1)
    normal = routing.score_TE / (routing.score_TE.sum(-1, keepdims=True) + 1e-20)
    counted = jnp.concatenate([one_hot, normal, jnp.ones((segment_T.shape[0], 1))], axis=1)
    sums = jax.ops.segment_sum(counted, segment_T, num_segments=segments + 1)[1:]
    sums = jax.lax.psum(sums, axes) if axes else sums
    picked, score, length = jnp.split(sums, [config.experts, 2 * config.experts], axis=1)
    length_safe = jnp.maximum(length, 1.0)
    f = jax.lax.stop_gradient(picked / length_safe) * (config.experts / config.active_experts)
    return (f * score / length_safe).sum()


class MoE(nn.Module):
    """Shared and routed experts. The load bias, in the collection "router", is read here and set in training."""

    config: PolicyConfig

    @nn.compact
    def __call__(self, x: jax.Array, segment: jax.Array) -> tuple[jax.Array, MoeOutput]:
        """Args: x [R, T, D] or [B, D]; segment of its shape, id of each token's sequence: unique over the batch, those
        of row r in r * T + 1 .. (r + 1) * T, and 0 for padding.
        """
        c = self.config
        router_DE = self.param(
            "router_DE", nn.initializers.normal(c.init_scale), (c.width, c.experts), jnp.dtype(c.param_dtype)
        )
        bias_E = self.variable("router", "bias_E", jnp.zeros, (c.experts,), jnp.float32).value
        weights = ExpertWeights(
            weight(self, c, "gate_EDF", (c.experts, c.width, c.expert_ffn)),
            weight(self, c, "up_EDF", (c.experts, c.width, c.expert_ffn)),
            weight(self, c, "down_EFD", (c.experts, c.expert_ffn, c.width)),
        )
        experts = split_experts if is_split() else local_experts
        y, output = experts(c, x, segment, router_DE, bias_E, weights)
        if c.shared_experts:
            y += GatedFFN(c, c.shared_experts * c.expert_ffn, name="shared")(x)
        return y, output


def _routing(c: PolicyConfig, x_TD: jax.Array, router_DE: jax.Array, bias_E: jax.Array) -> Routing:
    logits = jnp.matmul(x_TD.astype(jnp.float32), router_DE.astype(jnp.float32))
    score_TE = jax.nn.sigmoid(logits) if c.score == "sigmoid" else jax.nn.softmax(logits, axis=-1)
    return route(score_TE, bias_E, c)


def local_experts(
    c: PolicyConfig,
    x: jax.Array,
    segment: jax.Array,
    router_DE: jax.Array,
    bias_E: jax.Array,
    weights: ExpertWeights,
) -> tuple[jax.Array, MoeOutput]:
    """(the routed experts' output, shaped as x; what was counted), on one device."""
    x_TD, segment_T = x.reshape(-1, c.width), segment.reshape(-1)
    routing = _routing(c, x_TD, router_DE, bias_E)
    if x.ndim == 2 and x.shape[0] <= FEW_TOKENS:
        return _decoded(c, x, routing, weights)
    y_TD, output = _by_slots(c, x_TD, segment_T, routing, weights)
    return y_TD.reshape(x.shape), output


def _decoded(c: PolicyConfig, x_BD: jax.Array, routing: Routing, weights: ExpertWeights) -> tuple[jax.Array, MoeOutput]:
    """A few single tokens, in decoding. On CPU every expert reads them all."""
    every = jnp.arange(1, x_BD.shape[0] + 1)

    def all_experts(x_BD, routing, weights):
        chosen_BAE = jax.nn.one_hot(routing.expert_TA, c.experts, dtype=jnp.float32)
        share_BE = jnp.einsum("ba,bae->be", routing.share_TA, chosen_BAE)
        return every_expert(x_BD, share_BE, weights)

    def slots(x_BD, routing, weights):
        return _by_slots(c, x_BD, every, routing, weights)[0]

    y_BD = jax.lax.platform_dependent(x_BD, routing, weights, cpu=all_experts, default=slots)
    load_E = jax.nn.one_hot(routing.expert_TA, c.experts, dtype=jnp.int32).sum(axis=(0, 1))
    return y_BD, MoeOutput(load_E, balance_loss(routing, every, c, every.shape[0], ()), jnp.int32(0))


def _by_slots(
    c: PolicyConfig, x_TD: jax.Array, segment_T: jax.Array, routing: Routing, weights: ExpertWeights
) -> tuple[jax.Array, MoeOutput]:
    """(y_TD, what was counted), of tokens laid out by expert."""
    block = block_size(routing.expert_TA.size, c.experts)
    layout = lay_out(routing.expert_TA, segment_T > 0, c.experts, block)
    where = (layout.slot_TA, layout.assignment_S)
    share_SX = to_slots(routing.share_TA.reshape(-1, 1), layout.slot_TA.reshape(-1, 1), layout.assignment_S)
    y_SD = feed_forward(to_slots(x_TD, *where), weights, layout, share_SX[:, 0])
    y_TD = from_slots(y_SD, *where)
    placed = (layout.assignment_S < routing.expert_TA.size).sum()
    balance = balance_loss(routing, segment_T, c, segment_T.shape[0], ())
    return y_TD, MoeOutput(layout.load_E, balance, layout.load_E.sum() - placed)


def split_experts(
    c: PolicyConfig,
    x: jax.Array,
    segment: jax.Array,
    router_DE: jax.Array,
    bias_E: jax.Array,
    weights: ExpertWeights,
) -> tuple[jax.Array, MoeOutput]:
    """`local_experts` over the mesh that is set: each device routes its own tokens, then they go to their experts.

    A batch of single tokens is split over the axes of rows and of a row's tokens alike.
    """
    part = rows_spec() if x.ndim == 3 else PartitionSpec(axes_of(rows_spec()), None)
    x_RTD = x if x.ndim == 3 else x[:, None]
    length = x_RTD.shape[1]
    filled_RTD, segment_RT = fill_up(x_RTD, part), fill_up(segment.reshape(x_RTD.shape[:2]), part)
    row_axes, token_axes = (axes_of(PartitionSpec(entry)) for entry in part)

    def route_here(x_RTD, segment_RT, router_DE, bias_E):
        routing = _routing(c, x_RTD.reshape(-1, c.width), router_DE, bias_E)
        first = jax.lax.axis_index(row_axes) * x_RTD.shape[0] * length
        segment_T = jnp.where(segment_RT > 0, segment_RT - first, 0).reshape(-1)
        balance = balance_loss(routing, segment_T, c, x_RTD.shape[0] * length, token_axes)
        expert_RTA, share_RTA = (y.reshape(*segment_RT.shape, -1) for y in routing[:2])
        return expert_RTA, share_RTA, jax.lax.psum(balance, row_axes)

    wide, whole = PartitionSpec(*part, None), PartitionSpec()
    run = jax.shard_map(route_here, in_specs=(wide, part, whole, whole), out_specs=(wide, wide, whole))
    expert_RTA, share_RTA, balance = run(filled_RTD, segment_RT, router_DE, bias_E)
    tokens = Tokens(filled_RTD, expert_RTA, share_RTA, segment_RT > 0)
    y_RTD, counted = exchange(c.experts, part, tokens, weights)
    y_RTD = y_RTD[: x_RTD.shape[0], :length]
    return y_RTD.reshape(x.shape), MoeOutput(counted.load_E, balance, counted.dropped)
