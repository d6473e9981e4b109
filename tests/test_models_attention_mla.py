"""Latent attention: equal to the float64 reference; absorbed equals expanded; what its cache takes."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from r1jax.models.attention import DecodeStep, LayerCache, make_rows
from r1jax.models.attention_mla import LatentAttention
from r1jax.models.policy import PolicyModel
from tests import reference_policy as reference
from tests import tiny_policy as tiny

SHAPES = {
    "plain": tiny.CONFIG,
    "low-rank queries": dataclasses.replace(tiny.CONFIG, q_lora_rank=6),
    "norms of latents with an eps of their own": dataclasses.replace(tiny.CONFIG, q_lora_rank=6, norm_eps=0.5),
    "low-rank queries, YaRN": tiny.FAMILIES["deepseek, low-rank queries, YaRN"],
}


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def attention_params(config, seed: int = 0):
    """The attention weights of the first layer of the policy."""
    return {"params": reference.layer(tiny.variables(config, seed)["params"]["moe"]["attention"], 0)}


def whole_rows(config, rows: int, length: int):
    ones = np.ones((rows, length), np.int32)
    return make_rows(config, np.arange(length)[None].repeat(rows, 0), ones, 0 * ones)


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_expanded_attention_equals_the_reference(config):
    params, x = attention_params(config), draw(2, 9, 16)
    got, latent_RTW = tiny.jit(LatentAttention(config).apply)(params, x, whole_rows(config, 2, 9), None)
    weights = reference.in_float64(params["params"])
    want = [reference.attention(config, weights, list(row.astype(np.float64))) for row in x]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert latent_RTW.shape == (2, 9, config.kv_lora_rank + config.rope_head_dim), "the cache holds latents"


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_absorbed_attention_equals_expanded(config):
    """2 prompts of 3 and 5 tokens, 2 samples each with 2 tokens in their own cache: the next token's output.

    What lies in unused slots is garbage, and must not matter.
    """
    params = attention_params(config)
    prompt_length, own, slots = [3, 5], 2, 6
    prompts = [draw(n, 16, seed=p) for p, n in enumerate(prompt_length)]
    samples = [draw(own + 1, 16, seed=10 + b) for b in range(4)]
    apply = tiny.jit(LatentAttention(config).apply)

    want, prompt_PSW, own_BSW = [], np.full((2, slots, 12), 1e3, np.float32), np.full((4, 4, 12), 1e3, np.float32)
    for b, sample in enumerate(samples):
        x = np.concatenate([prompts[b // 2], sample])[None]
        n = x.shape[1]
        padded = np.pad(x, ((0, 0), (0, 8 - n), (0, 0)))
        out, latent = apply(params, padded, whole_rows(config, 1, 8), None)
        want.append(out[0, n - 1])
        length = prompt_length[b // 2]
        prompt_PSW[b // 2, :length], own_BSW[b, :own] = latent[0, :length], latent[0, length : length + own]

    position = np.repeat(np.int32(prompt_length), 2) + own
    where = DecodeStep(position, np.int32(prompt_length), np.int32(own - 1))
    last_BD = np.stack([sample[-1] for sample in samples])
    got, latent_BW = apply(params, last_BD, where, LayerCache(prompt_PSW, own_BSW))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert latent_BW.shape == (4, 12)


def test_the_compiled_cache_takes_the_latents_and_no_more():
    """A slot more for each of B sequences: kv_lora_rank + rope_head_dim floats a layer more in the decode program."""
    batch, prompt_slots = 4, 8
    weights, token_B = tiny.variables(), np.zeros(batch, np.int32)
    where = DecodeStep(token_B, np.full(2, 3, np.int32), np.int32(0))
    decode = functools.partial(PolicyModel(tiny.CONFIG).apply, method="decode")

    def argument_bytes(slots: int) -> int:
        caches = [
            LayerCache(
                np.zeros((layers, 2, prompt_slots, 12), np.float32), np.zeros((layers, batch, slots, 12), np.float32)
            )
            for layers in (1, 2)
        ]
        return (
            tiny.jit(decode).lower(weights, token_B, where, caches).compile().memory_analysis().argument_size_in_bytes
        )

    floats = tiny.CONFIG.kv_lora_rank + tiny.CONFIG.rope_head_dim
    assert argument_bytes(48) - argument_bytes(16) == 32 * batch * tiny.CONFIG.layers * floats * 4


def test_the_prefilled_cache_takes_the_latents_and_no_more():
    tokens, length = np.zeros((2, 8), np.int32), np.full(2, 8, np.int32)
    _, kept = jax.eval_shape(
        functools.partial(PolicyModel(tiny.CONFIG).apply, method="prefill"), tiny.variables(), tokens, length
    )
    assert [x.shape for x in kept] == [(1, 2, 8, 12), (2, 2, 8, 12)]
