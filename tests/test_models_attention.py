"""Attention: the written-out derivative, who sees whom, and the absorbed form against the expanded one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models.attention import DecodeStep, LatentAttention, LayerCache, Rows, attend, visible
from tests import reference_policy as reference
from tests import tiny_policy as tiny


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def attention_params(config, seed: int = 0):
    """The attention weights of the first layer of the policy."""
    return {"params": reference.layer(tiny.variables(config, seed)["params"]["moe"]["attention"], 0)}


def plain(q_RTHC, k_RTHC, v_RTHC, mask_RTT):
    score = jnp.einsum("rthc,rshc->rhts", q_RTHC, k_RTHC)
    share = jax.nn.softmax(jnp.where(mask_RTT[:, None], score, -jnp.inf), axis=-1)
    return jnp.einsum("rhts,rshc->rthc", share, v_RTHC)


def test_attend_and_its_gradients_equal_plain_softmax_attention():
    q, k, v = draw(2, 7, 3, 4), 2 * draw(2, 7, 3, 4, seed=1), draw(2, 7, 3, 5, seed=2)
    mask = np.tril(np.random.default_rng(3).random((2, 7, 7)) < 0.6) | np.eye(7, dtype=bool)[None]
    pull = draw(2, 7, 3, 5, seed=4)

    def value_and_gradients(function):
        def loss(*qkv):
            return jnp.sum(function(*qkv, mask) * pull)

        return tiny.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(q, k, v)

    np.testing.assert_allclose(attend(q, k, v, mask), plain(q, k, v, mask), rtol=1e-5, atol=1e-6)
    got, want = value_and_gradients(attend), value_and_gradients(plain)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, want)


def test_attend_with_nothing_to_see_gives_no_nan():
    q, k, v = draw(1, 3, 1, 4), draw(1, 3, 1, 4, seed=1), draw(1, 3, 1, 4, seed=2)
    nothing = np.zeros((1, 3, 3), bool)
    gradients = jax.grad(lambda *qkv: attend(*qkv, nothing).sum(), argnums=(0, 1, 2))(q, k, v)
    assert all(np.isfinite(x).all() for x in (attend(q, k, v, nothing), *gradients))


def test_attend_keeps_the_softmax_in_float32():
    """Equal scores of 300 keys: each weighs 1/300, which a bfloat16 sum of exponentials (stuck at 256) would miss."""
    q, v = jnp.zeros((1, 300, 1, 4), jnp.bfloat16), jnp.ones((1, 300, 1, 4), jnp.bfloat16)
    out = attend(q, q, v, np.ones((1, 300, 300), bool))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(np.float32), 1.0, rtol=1e-2)


def test_visible_by_hand():
    """Two branches after a shared token, then another segment."""
    segment, branch = np.int32([[1, 1, 1, 2]]), np.int32([[0, 1, 2, 0]])
    want = [[[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]]
    np.testing.assert_array_equal(visible(segment, branch), np.array(want, bool))


@pytest.mark.parametrize("q_lora_rank", [0, 6])
def test_expanded_attention_equals_the_reference(q_lora_rank):
    config = dataclasses.replace(tiny.CONFIG, q_lora_rank=q_lora_rank)
    params, x = attention_params(config), draw(2, 9, 16)
    where = Rows(np.arange(9)[None].repeat(2, 0), np.tril(np.ones((2, 9, 9), bool)))
    got, latent_RTW = tiny.jit(LatentAttention(config).apply)(params, x, where, None)
    weights = reference.in_float64(params["params"])
    want = [reference.attention(config, weights, list(row.astype(np.float64))) for row in x]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert latent_RTW.shape == (2, 9, config.kv_lora_rank + config.rope_head_dim), "the cache holds latents"


@pytest.mark.parametrize("q_lora_rank", [0, 6])
def test_absorbed_attention_equals_expanded(q_lora_rank):
    """2 prompts of 3 and 5 tokens, 2 samples each with 2 tokens in their own cache: the next token's output.

    What lies in unused slots is garbage, and must not matter.
    """
    config = dataclasses.replace(tiny.CONFIG, q_lora_rank=q_lora_rank)
    params = attention_params(config)
    prompt_length, own, slots = [3, 5], 2, 6
    prompts = [draw(n, 16, seed=p) for p, n in enumerate(prompt_length)]
    samples = [draw(own + 1, 16, seed=10 + b) for b in range(4)]
    apply = jax.jit(LatentAttention(config).apply)

    want, prompt_PSW, own_BSW = [], np.full((2, slots, 12), 1e3, np.float32), np.full((4, 4, 12), 1e3, np.float32)
    for b, sample in enumerate(samples):
        x = np.concatenate([prompts[b // 2], sample])[None]
        n = x.shape[1]
        padded = np.pad(x, ((0, 0), (0, 8 - n), (0, 0)))
        where = Rows(np.arange(8)[None], np.tril(np.ones((1, 8, 8), bool)))
        out, latent = apply(params, padded, where, None)
        want.append(out[0, n - 1])
        length = prompt_length[b // 2]
        prompt_PSW[b // 2, :length], own_BSW[b, :own] = latent[0, :length], latent[0, length : length + own]

    position = np.repeat(np.int32(prompt_length), 2) + own
    where = DecodeStep(position, np.int32(prompt_length), np.int32(own))
    last_BD = np.stack([sample[-1] for sample in samples])
    got, latent_BW = apply(params, last_BD, where, LayerCache(prompt_PSW, own_BSW))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert latent_BW.shape == (4, 12)
