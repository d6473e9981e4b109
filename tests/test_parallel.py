"""Meshes that mix all axes give the one-device run's loss, gradients, update and tokens."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r1jax.config import BatchConfig, RouterConfig
from r1jax.mesh import activation_sharding, make_mesh, state_shardings
from r1jax.training.state import new_state
from r1jax.training.step import sft_step
from r1jax.types import Packed
from tests import tiny_policy as tiny

LENGTH, ROWS, MAX_TOKENS = 48, 8, 10
MIXTURE = dataclasses.replace(tiny.CONFIG, layers=2, q_lora_rank=8)
BLOCKWISE = dataclasses.replace(MIXTURE, attention_block=8)  # of 12 or 24 local tokens of 48: some blocks are cut
GROUPED = dataclasses.replace(tiny.DENSE, layers=2, dense_layers=2, attention_block=8)

CASES = {
    "fsdp2_expert2_context2": (dict(fsdp=2, expert=2, context=2), BLOCKWISE),
    "expert2_tensor2_context2": (dict(expert=2, tensor=2, context=2), MIXTURE),
    "data2_fsdp2_expert2": (dict(data=2, fsdp=2, expert=2), MIXTURE),
    "data2_expert2_tensor2": (dict(data=2, expert=2, tensor=2), BLOCKWISE),
    "expert4_context2": (dict(expert=4, context=2), BLOCKWISE),
    "data2_context4": (dict(data=2, context=4), MIXTURE),
    "fsdp2_tensor2_context2": (dict(fsdp=2, tensor=2, context=2), GROUPED),
}
QUICK = ("fsdp2_expert2_context2", "expert2_tensor2_context2")
EACH = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CASES]


def remember() -> optax.GradientTransformation:
    """Passes gradients on, and keeps them in its state."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params), lambda grads, state, params=None: (grads, grads)
    )


# A large eps keeps Adam's step smooth where a gradient is nearly 0, so that rounding does not show in the sign.
OPTIMIZER = optax.chain(remember(), optax.adamw(0.02, eps=0.01, weight_decay=0.01))


def packed() -> Packed:
    """Rows of several segments, the first of a prompt and two branches, and padding, also across shares of a row."""
    draw = np.random.default_rng(3)
    tokens = draw.integers(1, tiny.CONFIG.vocab_size, size=(ROWS, LENGTH)).astype(np.int32)
    segment, branch, position = (np.zeros((ROWS, LENGTH), np.int32) for _ in range(3))
    for row in range(ROWS):
        cuts = [0, *np.sort(draw.choice(np.arange(5, LENGTH - ROWS), 2, replace=False)), LENGTH - row]
        for number, (start, stop) in enumerate(itertools.pairwise(cuts)):
            segment[row, start:stop], position[row, start:stop] = number + 1, np.arange(stop - start)
        third = max(cuts[1] // 3, 1)
        branch[row, third : 2 * third], branch[row, 2 * third : cuts[1]] = 1, 2
        position[row, 2 * third : cuts[1]] -= third
    return Packed(tokens, segment, branch, position, np.roll(tokens, -1, axis=1), (segment > 0).astype(np.float32))


@functools.cache
def step(config):
    """One micro-batch of all rows, so that a mesh of any axes divides it."""
    batch = BatchConfig(row_length=LENGTH, rows=ROWS, micro_rows=ROWS, logit_chunk=64)
    router = RouterConfig(bias_rate=0.01, balance_coef=0.05 if config.experts else 0.0)
    return tiny.jit(functools.partial(sft_step, config, batch, router, 0.0, OPTIMIZER))


def state(config):
    return new_state(jax.tree.map(jnp.asarray, tiny.variables(config)), OPTIMIZER, False)


@functools.cache
def on_one_device(config):
    return jax.device_get(step(config)(state(config), packed()))


@pytest.mark.parametrize("name", EACH)
def test_an_update_over_a_mesh_equals_one_device(name):
    sizes, config = CASES[name]
    want, want_metrics = on_one_device(config)
    mesh = make_mesh(dataclasses.replace(tiny.ONE_DEVICE, **sizes))
    fresh = state(config)
    placed = jax.device_put(fresh, state_shardings(mesh, fresh))
    rows = jax.device_put(packed(), activation_sharding(mesh, "RT"))
    with jax.set_mesh(mesh):
        got, metrics = jax.device_get(step(config)(placed, rows))
    np.testing.assert_allclose(metrics["loss"], want_metrics["loss"], rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], want_metrics["grad_norm"], rtol=1e-5)
    assert_same(got.optimizer[0], want.optimizer[0])
    assert_same(got.params, want.params)
    if config.experts:
        np.testing.assert_allclose(metrics["moe/balance"], want_metrics["moe/balance"], rtol=1e-5)
        assert int(metrics["moe/dropped"]) == 0
        assert float(metrics["moe/max_load"]) == float(want_metrics["moe/max_load"])


def assert_same(got, want):
    """Equal to 1e-5 of the largest entry of each array."""

    def one(path, a, b):
        limit = 1e-5 * max(float(np.abs(b).max()), 1e-2)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=limit, err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(one, got, want)


PROMPTS = tiny.draw_tokens(7, 3, 9, 40, 6, 17, 1, 5, 33)
SEEDS = np.arange(100, 116, dtype=np.uint32)  # G = 2


def generate(config, mesh, weights):
    engine = tiny.engine(mesh, config=config)
    return engine.generate(weights, PROMPTS, SEEDS, temperature=0.8, top_k=0, top_p=1.0, max_tokens=MAX_TOKENS)


@functools.cache
def sampled_on_one_device(config):
    return generate(config, tiny.one_device(), tiny.variables(config))


@pytest.mark.parametrize("name", EACH)
def test_rollouts_over_a_mesh_are_the_same_tokens(name):
    sizes, config = CASES[name]
    want = sampled_on_one_device(config)
    mesh = make_mesh(dataclasses.replace(tiny.ONE_DEVICE, **sizes))
    weights = tiny.variables(config)
    got = generate(config, mesh, jax.device_put(weights, state_shardings(mesh, weights)))
    np.testing.assert_array_equal(got.completion_BL, want.completion_BL)
    np.testing.assert_array_equal(got.length_B, want.length_B)
    np.testing.assert_allclose(got.logp_sampler_BL, want.logp_sampler_BL, atol=1e-4)
