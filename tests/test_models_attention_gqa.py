"""Grouped-query attention: equal to the float64 reference over rows, and against caches to itself over rows."""

import dataclasses
import functools

import numpy as np
import pytest

from r1jax.models.attention import DecodeStep, KeyValue, LayerCache, make_rows
from r1jax.models.attention_gqa import GroupedAttention
from tests import reference_policy as reference
from tests import tiny_policy as tiny

SHAPES = {
    "2 of 4 heads, biases, norms": dataclasses.replace(tiny.DENSE, attention_bias=True, qk_norm=True),
    "one head for all, YaRN": dataclasses.replace(tiny.DENSE, kv_heads=1, **tiny.YARN),
    "a head each": dataclasses.replace(tiny.DENSE, kv_heads=4),
}


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def attention_params(config):
    return {"params": reference.layer(tiny.variables(config)["params"]["dense"]["attention"], 0)}


def whole_rows(config, rows: int, length: int):
    ones = np.ones((rows, length), np.int32)
    return make_rows(config, np.arange(length)[None].repeat(rows, 0), ones, 0 * ones)


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_attention_over_rows_equals_the_reference(config):
    params, x = attention_params(config), draw(2, 9, 16)
    got, kept = tiny.jit(GroupedAttention(config).apply)(params, x, whole_rows(config, 2, 9), None)
    weights = reference.in_float64(params["params"])
    want = [reference.attention(config, weights, list(row.astype(np.float64))) for row in x]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert [x.shape for x in kept] == 2 * [(2, config.kv_heads, 9, config.head_dim)]


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_attention_to_caches_equals_attention_over_rows(config):
    """One prompt of 5 tokens, 2 samples with 2 tokens of their own; garbage lies in the unused slots."""
    params, prompt, samples = attention_params(config), draw(5, 16), [draw(3, 16, seed=b + 1) for b in range(2)]
    apply = tiny.jit(GroupedAttention(config).apply)
    want, kept = apply(params, np.stack([np.concatenate([prompt, s]) for s in samples]), whole_rows(config, 2, 8), None)
    more = functools.partial(np.pad, constant_values=1e3)
    prompt = KeyValue(*(more(x[:1, :, :5], ((0, 0), (0, 0), (0, 1), (0, 0))) for x in kept))
    own = KeyValue(*(more(x[:, :, 5:7], ((0, 0), (0, 0), (0, 2), (0, 0))) for x in kept))
    where = DecodeStep(np.full(2, 7, np.int32), np.int32([5]), np.int32(1))
    got, newest = apply(params, np.stack([s[-1] for s in samples]), where, LayerCache(prompt, own))
    np.testing.assert_allclose(got, want[:, -1], rtol=1e-5, atol=1e-5)
    for new, whole in zip(newest, kept, strict=True):
        np.testing.assert_allclose(new, whole[:, :, -1], rtol=1e-5, atol=1e-5)
