"""Attention a block of queries and a block of keys at a time: memory linear in the length, forward and backward.

Nothing of size [T, T] is ever held, scores and masks neither. The forward pass keeps a running softmax over blocks of
keys (Milakov & Gimelshein 2018, arXiv 1805.02867); the backward pass computes the scores again from the saved log of
their sum (FlashAttention, arXiv 2205.14135, algorithm 4). Blocks after the query's, and blocks before the first that
holds a token of one of its segments, are not computed.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from r1jax.types import Array

MASKED = -1e30  # finite, so that what has nothing to attend to gives no NaN
OUTSIDE = -1  # segment of the tokens that fill the last block up


class Ids(NamedTuple):
    """Of queries or keys in blocks."""

    segment_JRX: jax.Array
    branch_JRX: jax.Array


class Blocks(NamedTuple):
    """Rows cut into J blocks of X tokens. Query heads that share keys stand one after another: Y = H / K * X."""

    q_JRKYC: jax.Array
    k_JRKXC: jax.Array
    v_JRKXC: jax.Array
    of_q: Ids
    of_k: Ids
    start: Array  # int32 scalar, the place of the first query in its row


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend_blockwise(
    block: int,
    q_RTHC: jax.Array,
    k_RTKC: jax.Array,
    v_RTKC: jax.Array,
    segment_RT: Array,
    branch_RT: Array,
    start: Array,
) -> jax.Array:
    """softmax(q k^T, where a token sees another) v, in blocks of `block` tokens. Returns the shape of q, with v's C.

    A token sees itself and earlier ones of its segment, of its own branch or of branch 0 (`attention.visible`).
    Scores, the softmax and all sums over blocks are in float32; q comes scaled. T need not divide by `block`.

    Args:
      q_RTHC: of all tokens of the rows, or of those from the place `start` on, as many as there are.
      segment_RT, branch_RT: of all tokens.
      start: int32 scalar; 0 for all tokens.
    """
    return _fwd(block, q_RTHC, k_RTKC, v_RTKC, segment_RT, branch_RT, start)[0]


def _fwd(block, q_RTHC, k_RTKC, v_RTKC, segment_RT, branch_RT, start):
    cut = _cut(block, q_RTHC, k_RTKC, v_RTKC, segment_RT, branch_RT, start)
    first_J = _first_blocks(cut.of_q.segment_JRX, cut.of_k.segment_JRX)

    def of_queries(i):
        q = cut.q_JRKYC[i]

        def add(j, running):
            top, total, mixed = running
            score, mask = _scores(cut, i, j)
            new_top = jnp.maximum(top, jnp.where(mask, score, MASKED).max(axis=-1))
            share = jnp.where(mask, jnp.exp(score - new_top[..., None]), 0.0)
            shrink = jnp.exp(top - new_top)
            v = cut.v_JRKXC[j]
            part = jnp.matmul(share.astype(v.dtype), v, preferred_element_type=jnp.float32)
            return new_top, total * shrink + share.sum(axis=-1), mixed * shrink[..., None] + part

        top = jnp.full(q.shape[:-1], MASKED, jnp.float32)
        mixed = jnp.zeros((*q.shape[:-1], v_RTKC.shape[-1]), jnp.float32)
        top, total, mixed = jax.lax.fori_loop(first_J[i], _end(cut, i), add, (top, jnp.zeros_like(top), mixed))
        total = jnp.where(total > 0, total, 1.0)  # of what fills the last block up, and sees nothing
        return (mixed / total[..., None]).astype(v_RTKC.dtype), top + jnp.log(total)

    mixed_JRKYC, log_sum_JRKY = jax.lax.map(of_queries, jnp.arange(first_J.shape[0]))
    mixed_JRKYC, log_sum_JRKY = (checkpoint_name(x, "attention") for x in (mixed_JRKYC, log_sum_JRKY))
    out = _join_queries(mixed_JRKYC, q_RTHC)
    return out, (cut, mixed_JRKYC, log_sum_JRKY, segment_RT)


def _bwd(block, saved, d_RTHC):
    cut, mixed_JRKYC, log_sum_JRKY, segment_RT = saved
    d_JRKYC = _cut_queries(block, d_RTHC, cut.k_JRKXC.shape[2])
    lost_JRKY = jnp.sum(d_JRKYC.astype(jnp.float32) * mixed_JRKYC.astype(jnp.float32), axis=-1)
    first_J = _first_blocks(cut.of_q.segment_JRX, cut.of_k.segment_JRX)
    flip = functools.partial(jnp.swapaxes, axis1=-2, axis2=-1)
    wide = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)

    def of_queries(d_kv, i):
        q, d = cut.q_JRKYC[i], d_JRKYC[i]

        def add(j, running):
            d_q, d_k_JRKXC, d_v_JRKXC = running
            score, mask = _scores(cut, i, j)
            share = jnp.where(mask, jnp.exp(score - log_sum_JRKY[i][..., None]), 0.0)
            d_score = share * (wide(d, flip(cut.v_JRKXC[j])) - lost_JRKY[i][..., None])
            share, d_score = share.astype(d.dtype), d_score.astype(q.dtype)
            d_k_JRKXC = d_k_JRKXC.at[j].add(wide(flip(d_score), q))
            d_v_JRKXC = d_v_JRKXC.at[j].add(wide(flip(share), d))
            return d_q + wide(d_score, cut.k_JRKXC[j]), d_k_JRKXC, d_v_JRKXC

        start = (jnp.zeros(q.shape, jnp.float32), *d_kv)
        d_q, *d_kv = jax.lax.fori_loop(first_J[i], _end(cut, i), add, start)
        return tuple(d_kv), d_q.astype(q.dtype)

    zeros = tuple(jnp.zeros(x.shape, jnp.float32) for x in (cut.k_JRKXC, cut.v_JRKXC))
    (d_k, d_v), d_q = jax.lax.scan(of_queries, zeros, jnp.arange(first_J.shape[0]))
    length = segment_RT.shape[1]
    d_k, d_v = (_join(x, length).astype(like.dtype) for x, like in ((d_k, cut.k_JRKXC), (d_v, cut.v_JRKXC)))
    return _join_queries(d_q, d_RTHC), d_k, d_v, None, None, None


attend_blockwise.defvjp(_fwd, _bwd)


def _end(cut: Blocks, i: jax.Array) -> jax.Array:
    """The first block of keys of which all stand after the queries of block i."""
    block = cut.k_JRKXC.shape[-2]
    return jnp.minimum((cut.start + (i + 1) * block - 1) // block + 1, cut.k_JRKXC.shape[0])


def _scores(cut: Blocks, i: jax.Array, j: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(scores of queries of block i on keys of block j, whether one sees the other), both [R, K, Y, X]."""
    q, k = cut.q_JRKYC[i], cut.k_JRKXC[j]
    score = jnp.matmul(q, jnp.swapaxes(k, -2, -1), preferred_element_type=jnp.float32)
    block = k.shape[-2]
    at = jnp.arange(block)
    causal = (cut.start + i * block + at)[:, None] >= (j * block + at)[None]
    same = cut.of_q.segment_JRX[i][:, :, None] == cut.of_k.segment_JRX[j][:, None]
    branch_RQ, branch_RX = cut.of_q.branch_JRX[i][:, :, None], cut.of_k.branch_JRX[j][:, None]
    mask_RQX = causal[None] & same & ((branch_RQ == branch_RX) | (branch_RX == 0))
    return score, jnp.tile(mask_RQX, (1, q.shape[-2] // block, 1))[:, None]


def _first_blocks(query_JRX: jax.Array, key_JRX: jax.Array) -> jax.Array:
    """first_J: for each block of queries the first block of keys, in any row, that may hold a token it sees.

    Blocks whose ranges of segments do not overlap see nothing of each other; [J, J] numbers tell, a row. Padding
    stands after the segments, so it counts as the last of them.
    """
    low_JR, high_JR = _range(query_JRX)
    key_low_JR, key_high_JR = _range(key_JRX)
    meet_JJ = ((low_JR[:, None] <= key_high_JR[None]) & (key_low_JR[None] <= high_JR[:, None])).any(axis=-1)
    return jnp.argmax(meet_JJ, axis=1).astype(jnp.int32)


def _range(segment_JRX: jax.Array) -> tuple[jax.Array, jax.Array]:
    order_JRX = jnp.where(segment_JRX > 0, segment_JRX, jnp.iinfo(jnp.int32).max)
    return order_JRX.min(axis=-1), order_JRX.max(axis=-1)


def _cut(block, q_RTHC, k_RTKC, v_RTKC, segment_RT, branch_RT, start) -> Blocks:
    kv_heads = k_RTKC.shape[2]
    k, v = (_cut_queries(block, x, kv_heads) for x in (k_RTKC, v_RTKC))

    def ids(segment_RT, branch_RT):
        return Ids(_in_blocks(block, segment_RT, OUTSIDE), _in_blocks(block, branch_RT, 0))

    of_k = ids(segment_RT, branch_RT)
    of_q = ids(*(jax.lax.dynamic_slice_in_dim(x, start, q_RTHC.shape[1], 1) for x in (segment_RT, branch_RT)))
    return Blocks(_cut_queries(block, q_RTHC, kv_heads), k, v, of_q, of_k, start)


def _in_blocks(block: int, x_RTx: jax.Array, fill: int) -> jax.Array:
    """[R, T, ...] -> [J, R, X, ...], filled up."""
    rows, length, *rest = x_RTx.shape
    padding = [(0, 0), (0, -length % block)] + [(0, 0)] * len(rest)
    return jnp.moveaxis(jnp.pad(x_RTx, padding, constant_values=fill).reshape(rows, -1, block, *rest), 1, 0)


def _cut_queries(block: int, x_RTHC: jax.Array, kv_heads: int) -> jax.Array:
    """[R, T, H, C] -> [J, R, K, H / K * X, C]."""
    x_JRHXC = jnp.moveaxis(_in_blocks(block, x_RTHC, 0), 3, 2)
    return x_JRHXC.reshape(*x_JRHXC.shape[:2], kv_heads, -1, x_JRHXC.shape[-1])


def _join_queries(x_JRKYC: jax.Array, like_RTHC: jax.Array) -> jax.Array:
    """The inverse of `_cut_queries`: [R, T, H, C]."""
    blocks, rows = x_JRKYC.shape[:2]
    length, heads = like_RTHC.shape[1:3]
    return _join(x_JRKYC.reshape(blocks, rows, heads, -1, x_JRKYC.shape[-1]), length)


def _join(x_JRHXC: jax.Array, length: int) -> jax.Array:
    """[J, R, H, X, C] -> [R, T, H, C]."""
    x = jnp.moveaxis(x_JRHXC, (1, 0, 3), (0, 1, 2))
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]
