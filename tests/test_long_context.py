"""A supervised step on one long row takes memory that grows linearly in its length: no [T, T] array anywhere."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs.models import tiny as shape
from r1jax.config import BatchConfig, PolicyConfig, RouterConfig
from r1jax.models.policy import init_variables
from r1jax.training.state import new_state
from r1jax.training.step import sft_step
from r1jax.types import Packed
from tests import tiny_policy as tiny

POLICY = dataclasses.replace(
    PolicyConfig(**shape.get_config().to_dict()), attention_block=256, context=32_768, remat="full"
)
OPTIMIZER = optax.sgd(0.1)
SIZES = (8192, 16_384, 32_768)


def step(length: int, policy: PolicyConfig = POLICY):
    """(compilable step, its abstract arguments) of one row of `length` tokens."""
    batch = BatchConfig(row_length=length, rows=1, micro_rows=1, logit_chunk=1024)
    router = RouterConfig(bias_rate=1e-3, balance_coef=1e-3)
    state = jax.eval_shape(lambda: new_state(init_variables(policy, jax.random.key(0)), OPTIMIZER, False))
    ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
    packed = Packed(ids, ids, ids, ids, ids, jax.ShapeDtypeStruct((1, length), jnp.float32))
    return functools.partial(sft_step, policy, batch, router, 0.0, OPTIMIZER), (state, packed)


@functools.cache
def temporary_bytes(length: int, block: int = POLICY.attention_block) -> int:
    """Of the compiled step, what it needs beside its inputs and outputs."""
    function, arguments = step(length, dataclasses.replace(POLICY, attention_block=block))
    return tiny.jit(function).lower(*arguments).compile().memory_analysis().temp_size_in_bytes


def test_memory_grows_linearly_with_the_length():
    """Four times the tokens take at most four times the memory, with 2% to spare for what is small and square."""
    assert temporary_bytes(SIZES[2]) < 1.02 * 4 * temporary_bytes(SIZES[0])


def test_whole_scores_would_take_more():
    """The measure sees a quadratic: 8k tokens whole take four heads of 8k x 8k floats, and blocks do not."""
    assert temporary_bytes(8192, block=0) > 4 * 8192**2 * 4 > 2 * temporary_bytes(8192)


@pytest.mark.slow
@pytest.mark.parametrize("length", SIZES)
def test_a_step_runs(length):
    """Documents of 2,000 tokens; the loss is that of a policy that knows nothing."""
    function, _ = step(length)
    at = np.arange(length)[None]
    tokens = np.random.default_rng(0).integers(1, POLICY.vocab_size, (1, length)).astype(np.int32)
    packed = Packed(
        tokens, at // 2000 + 1, 0 * tokens, at % 2000, np.roll(tokens, -1), np.ones((1, length), np.float32)
    )
    state = jax.jit(lambda: new_state(init_variables(POLICY, jax.random.key(0)), OPTIMIZER, False))()
    _, metrics = jax.jit(function, donate_argnums=0)(
        state, jax.tree.map(np.int32, packed)._replace(weight_RT=packed.weight_RT)
    )
    assert float(metrics["loss"]) == pytest.approx(np.log(POLICY.vocab_size), rel=0.1)
    assert np.isfinite(float(metrics["grad_norm"]))
