"""Who attends to whom, and the softmax attention that every kind of layer shares: over rows, and against caches.

The kinds are `attention_mla.py` and `attention_gqa.py`; each gives queries, keys and values, of K key-value heads that
H query heads share (query head h reads key-value head h // (H / K)).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from r1jax.config import PolicyConfig
from r1jax.models.attention_blockwise import MASKED, attend_blockwise
from r1jax.types import Array, PyTree


class Rows(NamedTuple):
    """What attention over packed rows needs: who sees whom, and where each token stands."""

    position_RT: Array
    segment_RT: Array
    branch_RT: Array
    mask_RTT: jax.Array | None  # bool [query, key]; None where attention goes block by block


class DecodeStep(NamedTuple):
    """What attention in decode needs beside the caches: one new token for each of B = P * G sequences."""

    position_B: Array
    prompt_length_P: Array
    newest: Array  # int32 scalar: the slot of the sequences' own caches that was written last; a cache is a ring


class LayerCache(NamedTuple):
    """What one layer keeps of each token, W floats, in arrays that end in slots and channels (leading N: all layers).

    Keys and values [X, K, S, C] of grouped attention, latents [X, S, W] of latent attention: what one head reads lies
    together, so that no product of a decode step has to turn a cache around first.
    """

    prompt: PyTree  # X = P: written by prefill, shared by the G samples of a prompt
    own: PyTree  # X = B: one slot a sampled token


class KeyValue(NamedTuple):
    """Keys and values of K heads; which tokens, its axes say."""

    k: jax.Array  # [..., K, C]
    v: jax.Array  # [..., K, C], of a C of its own


def make_rows(config: PolicyConfig, position_RT: Array, segment_RT: Array, branch_RT: Array) -> Rows:
    """`Rows` of some packed rows. Their mask is made once for all layers, if one block of it is the whole."""
    dense = not config.attention_block or segment_RT.shape[1] <= config.attention_block
    return Rows(position_RT, segment_RT, branch_RT, visible(segment_RT, branch_RT) if dense else None)


def visible(segment_RT: Array, branch_RT: Array) -> jax.Array:
    """mask_RTT: a token sees itself and earlier ones of its segment, of its own branch or of the shared branch 0."""
    same = segment_RT[:, :, None] == segment_RT[:, None, :]
    branch = (branch_RT[:, :, None] == branch_RT[:, None, :]) | (branch_RT[:, None, :] == 0)
    length = segment_RT.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))
    return same & branch & causal[None]


def attend(config: PolicyConfig, q_RTHC: jax.Array, kv: KeyValue, where: Rows) -> jax.Array:
    """softmax(q k^T, where a token sees another) v, the softmax in float32; q comes scaled. Returns [R, T, H, C].

    Args:
      kv: k [R, T, K, C], v [R, T, K, C].
    """
    if where.mask_RTT is None:
        return attend_blockwise(config.attention_block, q_RTHC, *kv, where.segment_RT, where.branch_RT, np.int32(0))
    return attend_dense(q_RTHC, kv.k, kv.v, where.mask_RTT)


@jax.custom_vjp
def attend_dense(q_RTHC: jax.Array, k_RTKC: jax.Array, v_RTKC: jax.Array, mask_RTT: jax.Array) -> jax.Array:
    """`attend` with all scores at once; of some tokens' queries, or of all, and the keys of all.

    The derivative is written out so that no [T, T] array is ever transposed, only the narrow ones beside it: on CPU
    forward and backward take two thirds of the time that autodiff's form takes.
    """
    return _dense_fwd(q_RTHC, k_RTKC, v_RTKC, mask_RTT)[0]


def _dense_fwd(q_RTHC, k_RTKC, v_RTKC, mask_RTT):
    heads, kv_heads, length = q_RTHC.shape[2], k_RTKC.shape[2], q_RTHC.shape[1]
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q_RTHC, k_RTKC, v_RTKC))
    q = q.reshape(-1, kv_heads, heads // kv_heads * length, q.shape[-1])  # the heads that share keys, one after another
    score = jnp.matmul(q, jnp.swapaxes(k, 2, 3), preferred_element_type=jnp.float32)
    score_RHTT = jnp.where(mask_RTT[:, None], score.reshape(-1, heads, *mask_RTT.shape[1:]), MASKED)
    share = jax.nn.softmax(score_RHTT, axis=-1).astype(v.dtype).reshape(score.shape)
    mixed = checkpoint_name(jnp.matmul(share, v), "attention")
    return _unfold(mixed, heads), (q, k, v, share, mixed)


def _unfold(x: jax.Array, heads: int) -> jax.Array:
    """[R, K, H / K * T, C] -> [R, T, H, C]."""
    return jnp.swapaxes(x.reshape(x.shape[0], heads, -1, x.shape[-1]), 1, 2)


def _dense_bwd(saved, d_RTHC):
    q, k, v, share, mixed = saved
    d = jnp.swapaxes(d_RTHC, 1, 2).reshape(mixed.shape)
    flip = functools.partial(jnp.swapaxes, axis1=2, axis2=3)
    d_v = flip(jnp.matmul(flip(d), share))
    d_share = jnp.matmul(d, flip(v), preferred_element_type=jnp.float32)
    lost = jnp.sum(d.astype(jnp.float32) * mixed.astype(jnp.float32), axis=-1, keepdims=True)
    d_score = (share * (d_share - lost)).astype(q.dtype)
    d_q, d_k = jnp.matmul(d_score, k), flip(jnp.matmul(flip(q), d_score))
    return _unfold(d_q, d_RTHC.shape[2]), jnp.swapaxes(d_k, 1, 2), jnp.swapaxes(d_v, 1, 2), None


attend_dense.defvjp(_dense_fwd, _dense_bwd)


def attend_cached(q_BHC: jax.Array, prompt: KeyValue, own: KeyValue, new: KeyValue, where: DecodeStep) -> jax.Array:
    """Attention of one new token a sequence to its prompt, to what it sampled before, and to itself: [B, H, C].

    The G samples of a prompt read its keys and values where they lie, once for all. A sequence's own tokens stand in
    the slots up to the newest, and before the first slot goes on at the last; their order does not matter.

    Args:
      q_BHC: scaled queries.
      prompt: k and v [P, K, S, C].
      own: k and v [B, K, S, C].
      new: k and v [B, K, C] of the token itself.
    """
    batch, heads, width = q_BHC.shape
    prompts, kv_heads, prompt_slots, _ = prompt.k.shape
    own_slots, shared, group = own.k.shape[2], heads // kv_heads, batch // prompts
    q_BKHC = q_BHC.reshape(batch, kv_heads, shared, width)
    q_PKXC = jnp.swapaxes(q_BKHC.reshape(prompts, group, kv_heads, -1), 1, 2).reshape(prompts, kv_heads, -1, width)

    def by_sequence(x_PKXS):
        """[P, K, G * H / K, S] -> [B, K, H / K, S]."""
        x = x_PKXS.reshape(prompts, kv_heads, group, shared, -1)
        return jnp.swapaxes(x, 1, 2).reshape(batch, kv_heads, shared, -1)

    on_prompt = jnp.einsum("pkxc,pksc->pkxs", q_PKXC, prompt.k, preferred_element_type=jnp.float32)
    in_prompt_PS = jnp.arange(prompt_slots)[None] < where.prompt_length_P[:, None]
    on_prompt = by_sequence(jnp.where(in_prompt_PS[:, None, None], on_prompt, MASKED))
    on_own = jnp.einsum("bkhc,bksc->bkhs", q_BKHC, own.k, preferred_element_type=jnp.float32)
    age_S = where.newest - jnp.arange(own_slots)
    age_S = jnp.where(age_S < 0, age_S + own_slots, age_S)
    own_B = where.position_B - jnp.repeat(where.prompt_length_P, group)  # tokens in each sequence's own cache
    on_own = jnp.where((age_S[None] < own_B[:, None])[:, None, None], on_own, MASKED)
    on_new = jnp.einsum("bkhc,bkc->bkh", q_BKHC, new.k, preferred_element_type=jnp.float32)[..., None]

    score = jnp.concatenate([on_prompt, on_own, on_new], axis=-1)
    share = jax.nn.softmax(score, axis=-1).astype(q_BHC.dtype)
    of_prompt, of_own, of_new = jnp.split(share, [prompt_slots, prompt_slots + own_slots], axis=-1)
    of_prompt = jnp.swapaxes(of_prompt.reshape(prompts, group, kv_heads, -1), 1, 2)
    of_prompt = of_prompt.reshape(prompts, kv_heads, -1, prompt_slots)
    mixed = by_sequence(jnp.einsum("pkxs,pksc->pkxc", of_prompt, prompt.v))
    mixed += jnp.einsum("bkhs,bksc->bkhc", of_own, own.v)
    mixed += of_new * new.v[:, :, None]
    return mixed.reshape(batch, heads, -1)
