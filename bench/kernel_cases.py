"""The pieces of work that several kernels can do: inputs of the workloads' shapes, and every choice as a function.

Experts are the routed feed-forward network whole, from tokens to the weighted sum, as a layout of its own is part of
what a grouped matmul costs. Attention is that of packed rows, queries scaled. Cross-entropy is the log-probability of
a token a position, from hidden states and head. `tokamax` is measured where it is installed.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental.pallas.ops.tpu.megablox import gmm

from bench import setting
from r1jax.config import PolicyConfig
from r1jax.losses.logprobs import token_logprobs
from r1jax.models.attention import attend_dense, visible
from r1jax.models.attention_blockwise import attend_blockwise
from r1jax.models.moe import local_experts, route
from r1jax.models.moe_experts import ExpertWeights, every_expert

Choice = Callable[..., jax.Array]
TOKAMAX = importlib.util.find_spec("tokamax") is not None
MEGABLOX_TILE = 128  # rows of a tile, which the rows of all experts must divide by


class Case(NamedTuple):
    """One piece of work. The first choice is the one that r1jax makes; all give the same array."""

    op: str
    shape: str
    moved: tuple[Any, ...]  # inputs that have a gradient
    fixed: tuple[Any, ...]  # those that have none
    flops: float  # of a forward pass, counting what the model asks for alone
    choices: dict[str, Choice]  # of (moved, fixed)


class Experts(NamedTuple):
    tokens: int
    width: int
    expert_ffn: int
    experts: int
    active: int


class Attention(NamedTuple):
    rows: int
    length: int
    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int


class Head(NamedTuple):
    tokens: int
    width: int
    vocab: int


# Micro-batches of the GRPO step: 4 rows of 319 tokens.
EXPERTS = {
    "moe-S": Experts(1276, 256, 128, 16, 4),
    "32 experts": Experts(2048, 384, 192, 32, 4),
}
# As many tokens each; then a larger policy's.
LENGTHS = (192, 1024, 4096)
ATTENTION = {f"dense-S, {n}": Attention(max(1, 4096 // n), n, 4, 2, 64, 64) for n in LENGTHS}
ATTENTION |= {f"moe-S, {n}": Attention(max(1, 4096 // n), n, 4, 4, 48, 32) for n in LENGTHS}
ATTENTION |= {"dense-M, 1024": Attention(4, 1024, 12, 2, 64, 64)}
HEADS = {
    "dense-S": Head(1276, 256, 4096),
    "dense-M": Head(1276, 768, 16384),
    "vocabulary 32,768": Head(1024, 512, 32768),
}


def experts_case(name: str, s: Experts, dtype: str) -> Case:
    """Tokens and a random router, which picks some experts more often than others; the routing is part of each."""
    config = dataclasses.replace(
        setting.policy("moe-S", dtype), width=s.width, expert_ffn=s.expert_ffn, experts=s.experts,
        active_experts=s.active,
    )  # fmt: skip
    draw = np.random.default_rng(0)
    x_RTD = draw.normal(size=(4, s.tokens // 4, s.width))
    gate_EDF, up_EDF = draw.normal(size=(2, s.experts, s.width, s.expert_ffn)) * s.width**-0.5
    down_EFD = draw.normal(size=(s.experts, s.expert_ffn, s.width)) * s.expert_ffn**-0.5
    router_DE = draw.normal(size=(s.width, s.experts)) * 0.02
    moved = tuple(jnp.asarray(x, dtype) for x in (x_RTD, gate_EDF, up_EDF, down_EFD, router_DE))
    choices: dict[str, Choice] = {"own": own_experts}
    choices["ragged_dot"] = functools.partial(ragged_experts, jax.lax.ragged_dot, 1)
    choices |= {"every expert, one product": dense_experts, "every expert, unrolled": unrolled_experts}
    choices["Pallas megablox"] = functools.partial(ragged_experts, megablox, MEGABLOX_TILE)
    if TOKAMAX:
        from tokamax import ragged_dot as tokamax_ragged_dot

        choices["tokamax"] = functools.partial(ragged_experts, tokamax_ragged_dot, MEGABLOX_TILE)
    choices = {key: functools.partial(choice, config) for key, choice in choices.items() if key == "own"} | {
        key: functools.partial(routed, config, choice) for key, choice in choices.items() if key != "own"
    }
    flops = 2.0 * s.tokens * s.active * 3 * s.width * s.expert_ffn
    return Case("experts", name, moved, (jnp.ones(x_RTD.shape[:2], jnp.int32),), flops, choices)


def own_experts(config: PolicyConfig, moved: tuple, fixed: tuple) -> jax.Array:
    """As the policy has it."""
    x_RTD, *weights, router_DE = moved
    bias_E = jnp.zeros(config.experts, jnp.float32)
    return local_experts(config, x_RTD, *fixed, router_DE, bias_E, ExpertWeights(*weights))[0]


def routed(config: PolicyConfig, choice: Choice, moved: tuple, fixed: tuple) -> jax.Array:
    """`choice(x_TD, weights, expert_TA, share_TA)` of the policy's own routing."""
    x_RTD, *weights, router_DE = moved
    x_TD = x_RTD.reshape(-1, config.width)
    logits_TE = jnp.matmul(x_TD.astype(jnp.float32), router_DE.astype(jnp.float32))
    routing = route(jax.nn.sigmoid(logits_TE), jnp.zeros(config.experts, jnp.float32), config)
    share_TA = routing.share_TA.astype(x_TD.dtype)
    return choice(x_TD, ExpertWeights(*weights), routing.expert_TA, share_TA).reshape(x_RTD.shape)


def ragged_experts(
    product: Choice, multiple: int, x_TD: jax.Array, w: ExpertWeights, expert_TA: jax.Array, share_TA: jax.Array
) -> jax.Array:
    """Assignments sorted by expert without padding, and a grouped matmul of groups as long as they come.

    `multiple`: what the rows of all must divide by; the last expert is given some of zeros for it.
    """
    tokens, active = expert_TA.shape
    order_N = jnp.argsort(expert_TA.reshape(-1), stable=True)
    rows_E = jnp.bincount(expert_TA.reshape(-1), length=w.gate_EDF.shape[0]).astype(jnp.int32)
    missing = -(tokens * active) % multiple
    x_ND = jnp.pad(x_TD[order_N // active], ((0, missing), (0, 0)))
    rows_E = rows_E.at[-1].add(missing)
    hidden_NF = nn.silu(product(x_ND, w.gate_EDF, rows_E)) * product(x_ND, w.up_EDF, rows_E)
    y_ND = product(hidden_NF, w.down_EFD, rows_E)[: tokens * active]
    y_TAD = jnp.zeros_like(y_ND).at[order_N].set(y_ND, unique_indices=True).reshape(tokens, active, -1)
    return jnp.einsum("tad,ta->td", y_TAD, share_TA)


def megablox(x_ND: jax.Array, w_EDF: jax.Array, rows_E: jax.Array) -> jax.Array:
    return gmm(x_ND, w_EDF, rows_E, x_ND.dtype, (MEGABLOX_TILE,) * 3)


def shares(experts: int, expert_TA: jax.Array, share_TA: jax.Array) -> jax.Array:
    """share_TE: 0 where a token did not pick an expert."""
    return jnp.einsum("ta,tae->te", share_TA, jax.nn.one_hot(expert_TA, experts, dtype=share_TA.dtype))


def dense_experts(x_TD: jax.Array, w: ExpertWeights, expert_TA: jax.Array, share_TA: jax.Array) -> jax.Array:
    """All experts read all tokens, in one product a matrix."""
    return every_expert(x_TD, shares(w.gate_EDF.shape[0], expert_TA, share_TA), w)


def unrolled_experts(x_TD: jax.Array, w: ExpertWeights, expert_TA: jax.Array, share_TA: jax.Array) -> jax.Array:
    """All experts read all tokens, one expert after another."""
    share_TE = shares(w.gate_EDF.shape[0], expert_TA, share_TA)
    y_TD = jnp.zeros_like(x_TD)
    for e in range(share_TE.shape[1]):
        hidden_TF = nn.silu(x_TD @ w.gate_EDF[e]) * (x_TD @ w.up_EDF[e])
        y_TD += (hidden_TF * share_TE[:, e : e + 1]) @ w.down_EFD[e]
    return y_TD


def attention_case(name: str, s: Attention, dtype: str) -> Case:
    """Rows of one causal segment each, as in pretraining; own kernels are given the general mask all the same."""
    draw = np.random.default_rng(0)
    q = draw.normal(size=(s.rows, s.length, s.heads, s.key_dim)) * s.key_dim**-0.5
    k = draw.normal(size=(s.rows, s.length, s.kv_heads, s.key_dim))
    v = draw.normal(size=(s.rows, s.length, s.kv_heads, s.value_dim))
    moved = tuple(jnp.asarray(x, dtype) for x in (q, k, v))
    segment_RT = jnp.ones((s.rows, s.length), jnp.int32)
    pairs = s.rows * s.length * (s.length + 1) / 2
    flops = 2.0 * pairs * s.heads * (s.key_dim + s.value_dim)
    choices: dict[str, Choice] = {"own, whole": own_whole}
    choices |= {f"own, blocks of {n}": functools.partial(own_blocks, n) for n in (128, 512) if n < s.length}
    choices["jax.nn"] = jax_nn_attention
    if TOKAMAX:
        choices["tokamax"] = tokamax_attention
    return Case("attention", name, moved, (segment_RT, 0 * segment_RT), flops, choices)


def own_whole(moved: tuple, fixed: tuple) -> jax.Array:
    return attend_dense(*moved, visible(*fixed))


def own_blocks(block: int, moved: tuple, fixed: tuple) -> jax.Array:
    return attend_blockwise(block, *moved, *fixed, np.int32(0))


def jax_nn_attention(moved: tuple, fixed: tuple) -> jax.Array:
    """Values that are narrower than keys are filled up, as it takes one width only."""
    q, k, v = moved
    filled = jnp.pad(v, [(0, 0)] * 3 + [(0, k.shape[-1] - v.shape[-1])])
    mixed = jax.nn.dot_product_attention(q, k, filled, mask=visible(*fixed)[:, None], scale=1.0)
    return mixed[..., : v.shape[-1]]


def tokamax_attention(moved: tuple, fixed: tuple) -> jax.Array:
    from tokamax import dot_product_attention

    return dot_product_attention(*moved, mask=visible(*fixed)[:, None], scale=1.0)


def head_case(name: str, s: Head, dtype: str) -> Case:
    draw = np.random.default_rng(0)
    hidden_RTD = draw.normal(size=(4, s.tokens // 4, s.width))
    head_DV = draw.normal(size=(s.width, s.vocab)) * s.width**-0.5
    target_RT = draw.integers(0, s.vocab, (4, s.tokens // 4), dtype=np.int32)
    moved = tuple(jnp.asarray(x, dtype) for x in (hidden_RTD, head_DV))
    choices: dict[str, Choice] = {
        f"own, {chunk} at a time": functools.partial(own_head, chunk) for chunk in (512, 128, s.tokens)
    }
    choices["all logits, optax"] = optax_head
    if TOKAMAX:
        choices["tokamax"] = tokamax_head
    return Case("cross-entropy", name, moved, (jnp.asarray(target_RT),), 2.0 * s.tokens * s.width * s.vocab, choices)


def own_head(chunk: int, moved: tuple, fixed: tuple) -> jax.Array:
    """The sum alone, which is all that some kernels give."""
    return token_logprobs(*moved, *fixed, chunk=chunk, with_entropy=False)[0].sum()


def optax_head(moved: tuple, fixed: tuple) -> jax.Array:
    logits_RTV = jnp.dot(*moved, preferred_element_type=jnp.float32)
    return -optax.softmax_cross_entropy_with_integer_labels(logits_RTV, *fixed).sum()


def tokamax_head(moved: tuple, fixed: tuple) -> jax.Array:
    from tokamax import linear_softmax_cross_entropy_loss

    hidden_RTD, head_DV = moved
    return -linear_softmax_cross_entropy_loss(
        hidden_RTD.reshape(-1, hidden_RTD.shape[-1]), fixed[0].reshape(-1), head_DV
    )


OPS: dict[str, dict[str, Callable[[str], Case]]] = {
    "experts": {name: functools.partial(experts_case, name, shape) for name, shape in EXPERTS.items()},
    "attention": {name: functools.partial(attention_case, name, shape) for name, shape in ATTENTION.items()},
    "cross-entropy": {name: functools.partial(head_case, name, shape) for name, shape in HEADS.items()},
}
