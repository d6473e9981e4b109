"""Blockwise attention equals the dense form in values and gradients, holds no [T, T] array, and skips what it may."""

import functools
import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models import attention_blockwise
from r1jax.models.attention import attend_dense, visible
from r1jax.models.attention_blockwise import attend_blockwise
from tests import tiny_policy as tiny


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def packed_ids(length: int) -> tuple[np.ndarray, np.ndarray]:
    """(segment_RT, branch_RT) of three rows: a group with branches and documents and padding, one document, none."""
    segment, branch = np.zeros((3, length), np.int32), np.zeros((3, length), np.int32)
    cuts = [0, length // 2, length // 2 + 3, length - 4]
    for n, (start, stop) in enumerate(itertools.pairwise(cuts)):
        segment[0, start:stop] = n + 1
    third = length // 6
    branch[0, third : 2 * third], branch[0, 2 * third : length // 2] = 1, 2
    segment[1] = 1
    return segment, branch


@functools.cache
def values_and_gradients(length: int, block: int, heads: int):
    """(out, gradients of q, k, v) by the dense form if block is 0."""
    q, k, v = 2 * draw(3, length, heads, 6), draw(3, length, 2, 6, seed=1), draw(3, length, 2, 5, seed=2)
    segment, branch = packed_ids(length)
    pull = draw(3, length, heads, 5, seed=3)

    def loss(q, k, v):
        if block:
            out = attend_blockwise(block, q, k, v, segment, branch, np.int32(0))
        else:
            out = attend_dense(q, k, v, visible(segment, branch))
        return jnp.sum(out * pull), out

    (_, out), gradients = tiny.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    return jax.device_get((out, gradients))


@pytest.mark.parametrize("block", [8, 13, 48, 64], ids=lambda n: f"blocks of {n}")
@pytest.mark.parametrize("heads", [2, 6])
def test_blockwise_attention_equals_dense(heads, block):
    """Of 48 tokens: blocks that divide them, that do not, one block, and one larger than the row."""
    got, want = values_and_gradients(48, block, heads), values_and_gradients(48, 0, heads)
    chex.assert_trees_all_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("share", [12, 20, 48], ids=lambda n: f"{n} queries at a time")
def test_a_stretch_of_the_queries_gets_what_it_gets_among_all(share):
    """Values and gradients of shares of 48 tokens, in blocks of 8 that some shares cut: their sums are the whole's."""
    q, k, v = 2 * draw(3, 48, 4, 6), draw(3, 48, 2, 6, seed=1), draw(3, 48, 2, 5, seed=2)
    segment, branch = packed_ids(48)
    pull = draw(3, 48, 4, 5, seed=3)

    def loss(q, k, v):
        starts = [min(start, 48 - share) for start in range(0, 48, share)]
        done, total = 0, 0.0
        for start in starts:
            out = attend_blockwise(8, q[:, start : start + share], k, v, segment, branch, np.int32(start))
            total += jnp.sum((out * pull[:, start : start + share])[:, done - start :])
            done = start + share
        return total

    got = tiny.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(q, k, v)
    out, gradients = values_and_gradients(48, 0, 4)
    np.testing.assert_allclose(got[0], np.sum(out * pull), rtol=1e-4)
    chex.assert_trees_all_close(got[1], gradients, rtol=1e-5, atol=2e-5)


def test_bfloat16_sums_in_float32():
    """Equal scores of 600 keys of value 1: their mean is 1, which bfloat16 sums over blocks would miss."""
    q, v = jnp.zeros((1, 600, 1, 4), jnp.bfloat16), jnp.ones((1, 600, 1, 4), jnp.bfloat16)
    ones = np.ones((1, 600), np.int32)
    out = attend_blockwise(32, q, q, v, ones, 0 * ones, np.int32(0))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(np.float32), 1.0, rtol=1e-2)


def test_large_scores_overflow_nowhere():
    q, k, v = 1e3 * draw(1, 40, 1, 4), draw(1, 40, 1, 4, seed=1), draw(1, 40, 1, 4, seed=2)
    ones = np.ones((1, 40), np.int32)
    got = attend_blockwise(8, q, k, v, ones, 0 * ones, np.int32(0))
    np.testing.assert_allclose(got, attend_dense(q, k, v, visible(ones, 0 * ones)), rtol=1e-4, atol=1e-5)


def test_blocks_of_other_segments_are_skipped():
    """Segments of 10 tokens in blocks of 8: a block of queries starts where its first token's segment does."""
    segment = np.repeat(np.int32([1, 2, 3, 0]), 10)[None]
    blocks = segment.reshape(1, 5, 8).swapaxes(0, 1)
    assert attention_blockwise._first_blocks(jnp.asarray(blocks), jnp.asarray(blocks)).tolist() == [0, 0, 1, 2, 3]
    both_rows = jnp.concatenate([jnp.asarray(blocks), jnp.ones_like(blocks)], axis=1)
    assert attention_blockwise._first_blocks(both_rows, both_rows).tolist() == [0] * 5, "the longest reach of any row"


def sizes(jaxpr):
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            yield math.prod(variable.aval.shape)
        for parameter in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from sizes(inner)


def test_nothing_is_as_large_as_the_scores():
    """Forward and backward, of 64 blocks: no array has more numbers than the queries."""
    length = 512
    q, ids = jax.ShapeDtypeStruct((1, length, 2, 4), jnp.float32), jax.ShapeDtypeStruct((1, length), jnp.int32)

    def largest(attention) -> int:
        program = jax.make_jaxpr(jax.grad(lambda *x: attention(*x).sum(), argnums=(0, 1, 2)))(q, q, q, ids, ids)
        return max(sizes(program.jaxpr))

    assert largest(lambda *x: attend_blockwise(8, *x, np.int32(0))) == length * 2 * 4
    dense = largest(lambda q, k, v, *where: attend_dense(q, k, v, visible(*where)))
    assert dense == length**2 * 2, "so that the count above sees into the loops"
