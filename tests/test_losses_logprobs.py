import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.losses import token_logprobs
from tests import reference_numpy as reference


def _inputs(R=3, T=5, D=4, V=7, seed=0):
    rng = np.random.default_rng(seed)
    hidden_RTD = rng.normal(size=(R, T, D)).astype(np.float32)
    head_DV = rng.normal(size=(D, V)).astype(np.float32)
    return hidden_RTD, head_DV, rng.integers(0, V, (R, T)).astype(np.int32)


@pytest.mark.parametrize("chunk", [1, 2, 4, 6, 7, 15, 64])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_equals_the_reference_for_every_way_to_cut(chunk, temperature):
    hidden_RTD, head_DV, target_RT = _inputs()
    want_logp, want_entropy = reference.token_logprobs(hidden_RTD, head_DV, target_RT, temperature)
    logp_RT, entropy_RT = token_logprobs(hidden_RTD, head_DV, target_RT, temperature=temperature, chunk=chunk)
    np.testing.assert_allclose(logp_RT, want_logp, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(entropy_RT, want_entropy, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk", [2, 7, 64])
def test_gradient_equals_the_reference(chunk):
    hidden_RTD, head_DV, target_RT = _inputs(R=2, T=3)
    weight_RT = np.random.default_rng(1).normal(size=target_RT.shape)

    def loss(hidden, head):
        logp, entropy = token_logprobs(hidden, head, target_RT, temperature=0.7, chunk=chunk)
        return jnp.sum(logp * jnp.asarray(weight_RT, jnp.float32)) + jnp.sum(entropy)  # the entropy has no gradient

    def slow(hidden, head):
        return float((reference.token_logprobs(hidden, head, target_RT, 0.7)[0] * weight_RT).sum())

    got_hidden, got_head = jax.jit(jax.grad(loss, argnums=(0, 1)))(hidden_RTD, head_DV)
    want_hidden = reference.gradient(lambda x: slow(x, head_DV), hidden_RTD)
    want_head = reference.gradient(lambda x: slow(hidden_RTD, x), head_DV)
    np.testing.assert_allclose(got_hidden, want_hidden, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got_head, want_head, rtol=1e-5, atol=2e-6)


def test_bfloat16_hidden_states_give_float32_log_probabilities():
    hidden_RTD, head_DV, target_RT = _inputs(R=2, T=64, D=32, V=11)
    rounded = np.asarray(hidden_RTD.astype(jnp.bfloat16), np.float32)
    rounded_head = np.asarray(head_DV.astype(jnp.bfloat16), np.float32)
    want, _ = reference.token_logprobs(rounded, rounded_head, target_RT, 1.0)
    got, _ = token_logprobs(hidden_RTD.astype(jnp.bfloat16), head_DV, target_RT, chunk=16)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-5)
    head_gradient = jax.grad(lambda w: token_logprobs(hidden_RTD.astype(jnp.bfloat16), w, target_RT, chunk=16)[0].sum())
    assert head_gradient(jnp.asarray(head_DV)).dtype == jnp.float32


def test_extreme_logits_stay_finite():
    hidden_RTD, head_DV, target_RT = _inputs()
    value, gradient = jax.value_and_grad(
        lambda x: jnp.sum(token_logprobs(x, head_DV * 1e4, target_RT, chunk=4)[0]), allow_int=True
    )(hidden_RTD)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))


def test_without_entropy_there_is_none():
    assert token_logprobs(*_inputs(), chunk=4, with_entropy=False)[1] is None


def _sizes(jaxpr):
    """The number of elements of every intermediate, those of inner programs too."""
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            yield math.prod(variable.aval.shape)
        for parameter in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from _sizes(inner)


def test_no_intermediate_holds_the_logits_of_all_tokens():
    R, T, D, V, chunk = 4, 50, 8, 512, 24
    hidden_RTD, head_DV, target_RT = _inputs(R, T, D, V)

    def loss(chunk):
        return lambda hidden, head: jnp.sum(token_logprobs(hidden, head, target_RT, chunk=chunk)[0])

    program = jax.make_jaxpr(jax.grad(loss(chunk), argnums=(0, 1)))(hidden_RTD, head_DV)
    assert max(_sizes(program.jaxpr)) == chunk * V
    in_one = jax.make_jaxpr(jax.grad(loss(R * T), argnums=(0, 1)))(hidden_RTD, head_DV)
    assert max(_sizes(in_one.jaxpr)) == R * T * V  # so the count above sees into the loop


def test_more_rows_than_the_chunk_are_cut_too():
    hidden_RTD, head_DV, target_RT = _inputs(R=100, T=1, D=8, V=512)
    program = jax.make_jaxpr(lambda h, w: token_logprobs(h, w, target_RT, chunk=10))(hidden_RTD, head_DV)
    assert max(_sizes(program.jaxpr)) == 10 * 512


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_bad_temperature_is_named(temperature):
    with pytest.raises(ValueError, match="temperature is"):
        token_logprobs(*_inputs(), temperature=temperature, chunk=4)


def test_bad_chunk_and_shapes_are_named():
    with pytest.raises(ValueError, match="chunk is 0"):
        token_logprobs(*_inputs(), chunk=0)
    hidden_RTD, head_DV, target_RT = _inputs()
    with pytest.raises(AssertionError):
        token_logprobs(hidden_RTD, head_DV.T, target_RT, chunk=4)
