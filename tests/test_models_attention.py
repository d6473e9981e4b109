"""The attention that all kinds share: the written-out derivative, who sees whom, and rows against caches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models.attention import DecodeStep, KeyValue, attend_cached, attend_dense, make_rows, visible
from tests import tiny_policy as tiny


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def plain(q_RTHC, k_RTKC, v_RTKC, mask_RTT):
    k, v = (jnp.repeat(x, q_RTHC.shape[2] // x.shape[2], axis=2) for x in (k_RTKC, v_RTKC))
    score = jnp.einsum("rthc,rshc->rhts", q_RTHC, k)
    share = jax.nn.softmax(jnp.where(mask_RTT[:, None], score, -jnp.inf), axis=-1)
    return jnp.einsum("rhts,rshc->rthc", share, v)


@pytest.mark.parametrize("heads", [2, 4, 6], ids=lambda heads: f"{heads} heads on 2")
def test_attend_and_its_gradients_equal_plain_softmax_attention(heads):
    q, k, v = draw(2, 7, heads, 4), 2 * draw(2, 7, 2, 4, seed=1), draw(2, 7, 2, 5, seed=2)
    mask = np.tril(np.random.default_rng(3).random((2, 7, 7)) < 0.6) | np.eye(7, dtype=bool)[None]
    pull = draw(2, 7, heads, 5, seed=4)

    def value_and_gradients(function):
        def loss(*qkv):
            return jnp.sum(function(*qkv, mask) * pull)

        return tiny.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(q, k, v)

    np.testing.assert_allclose(attend_dense(q, k, v, mask), plain(q, k, v, mask), rtol=1e-5, atol=1e-6)
    got, want = value_and_gradients(attend_dense), value_and_gradients(plain)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, want)


def test_attend_with_nothing_to_see_gives_no_nan():
    q, k, v = draw(1, 3, 1, 4), draw(1, 3, 1, 4, seed=1), draw(1, 3, 1, 4, seed=2)
    nothing = np.zeros((1, 3, 3), bool)
    gradients = jax.grad(lambda *qkv: attend_dense(*qkv, nothing).sum(), argnums=(0, 1, 2))(q, k, v)
    assert all(np.isfinite(x).all() for x in (attend_dense(q, k, v, nothing), *gradients))


def test_attend_keeps_the_softmax_in_float32():
    """Equal scores of 300 keys: each weighs 1/300, which a bfloat16 sum of exponentials (stuck at 256) would miss."""
    q, v = jnp.zeros((1, 300, 1, 4), jnp.bfloat16), jnp.ones((1, 300, 1, 4), jnp.bfloat16)
    out = attend_dense(q, q, v, np.ones((1, 300, 300), bool))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(np.float32), 1.0, rtol=1e-2)


def test_visible_by_hand():
    """Two branches after a shared token, then another segment."""
    segment, branch = np.int32([[1, 1, 1, 2]]), np.int32([[0, 1, 2, 0]])
    want = [[[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]]
    np.testing.assert_array_equal(visible(segment, branch), np.array(want, bool))


def test_no_mask_is_made_where_attention_goes_block_by_block():
    zeros = np.zeros((1, 9), np.int32)
    masks = [
        make_rows(dataclasses.replace(tiny.CONFIG, attention_block=n), zeros, zeros, zeros).mask_RTT for n in (0, 8, 9)
    ]
    assert [mask is not None for mask in masks] == [True, False, True], "one block of 9 tokens is the whole"


@pytest.mark.parametrize("heads, kv_heads", [(3, 1), (4, 2), (3, 3)])
def test_attend_cached_equals_attention_over_the_whole_sequence(heads, kv_heads):
    """2 prompts of 3 and 5 tokens, 2 samples each with 2, 0, 4 and 1 tokens of their own; slot 1 was written last, and
    slot 3 stands before slot 0. Garbage lies in the unused slots.
    """
    prompt_length, own_length, newest = [3, 5], [2, 0, 4, 1], 1
    kv = {name: [draw(10, kv_heads, 4, seed=10 * n + b) for b in range(4)] for n, name in enumerate("kv")}
    q_BHC, want = draw(4, heads, 4, seed=30), []
    caches = {name: (np.full((2, kv_heads, 6, 4), 1e3), np.full((4, kv_heads, 4, 4), 1e3)) for name in "kv"}
    new = {name: np.empty((4, kv_heads, 4), np.float32) for name in "kv"}
    for b, own in enumerate(own_length):
        length = prompt_length[b // 2]
        slots = (newest + 1 - own + np.arange(own)) % 4
        whole = {}
        for name in "kv":
            shared, mine = kv[name][b // 2 * 2][:length], kv[name][b][length : length + own + 1]
            caches[name][0][b // 2, :, :length] = shared.swapaxes(0, 1)
            caches[name][1][b][:, slots] = mine[:own].swapaxes(0, 1)
            new[name][b] = mine[own]
            whole[name] = np.concatenate([shared, mine])[None]
        see_all = np.ones((1, 1, length + own + 1), bool)
        want.append(plain(q_BHC[b][None, None], whole["k"], whole["v"], see_all)[0, 0])
    prompt, mine = (KeyValue(*(np.float32(caches[name][i]) for name in "kv")) for i in (0, 1))
    where = DecodeStep(np.int32(np.repeat(prompt_length, 2) + own_length), np.int32(prompt_length), np.int32(newest))
    got = tiny.jit(attend_cached)(q_BHC, prompt, mine, KeyValue(new["k"], new["v"]), where)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
