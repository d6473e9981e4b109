"""Distillation's terms against float64, in chunks and whole, and what they cost in memory."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.losses.distillation import distillation, distilled_logprobs
from r1jax.losses.logprobs import token_logprobs
from tests import reference_numpy

R, T, D, U, V = 3, 5, 4, 6, 11


def draw(seed: int = 0):
    rng = np.random.default_rng(seed)
    shapes = ((R, T, D), (D, V), (R, T, U), (U, V))
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    return *arrays, rng.integers(0, V, size=(R, T)).astype(np.int32)


def kl_reference(hidden, head, teacher, teacher_head):
    out = np.zeros((R, T))
    for index in np.ndindex(R, T):
        p, q = (
            x[index].astype(np.float64) @ w.astype(np.float64) for x, w in ((teacher, teacher_head), (hidden, head))
        )
        p, q = (x - x.max() - math.log(np.exp(x - x.max()).sum()) for x in (p, q))
        out[index] = math.fsum(np.exp(p) * (p - q))
    return out


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_terms_equal_the_reference_whatever_the_chunk(chunk):
    *arrays, target = draw()
    logp, kl, entropy = jax.jit(lambda *x: distilled_logprobs(*x, target, chunk=chunk))(*arrays)
    want_logp, want_entropy = reference_numpy.token_logprobs(arrays[0], arrays[1], target, 1.0)
    np.testing.assert_allclose(logp, want_logp, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(entropy, want_entropy, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(kl, kl_reference(*arrays), rtol=1e-5, atol=1e-5)
    assert (np.asarray(kl) > 0).all()


def test_gradients_equal_the_reference_and_reach_the_student_alone():
    hidden, head, teacher, teacher_head, target = draw()
    weight = (np.random.default_rng(1).random((R, T)) < 0.6).astype(np.float32)

    def loss(hidden, head, teacher, teacher_head):
        logp, kl, _ = distilled_logprobs(hidden, head, teacher, teacher_head, target, chunk=4)
        return distillation(logp, kl, weight, alpha=0.7)[0]

    def want(hidden):
        logp, _ = reference_numpy.token_logprobs(hidden, head, target, 1.0)
        kl = kl_reference(hidden, head, teacher, teacher_head)
        return float((weight * (0.7 * kl - 0.3 * logp)).sum() / weight.sum())

    got = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(hidden, head, teacher, teacher_head)
    np.testing.assert_allclose(got[0], reference_numpy.gradient(want, hidden.astype(np.float64)), rtol=1e-4, atol=1e-6)
    assert np.asarray(got[1]).any() and not np.asarray(got[2]).any() and not np.asarray(got[3]).any()


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    hidden, head, _, _, target = draw()

    def loss(hidden):
        logp, kl, _ = distilled_logprobs(hidden, head, jax.lax.stop_gradient(hidden), head, target, chunk=8)
        return distillation(logp, kl, np.ones((R, T), np.float32), alpha=1.0)[0]

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(hidden))
    assert float(value) == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_without_the_kl_it_is_the_cross_entropy_of_the_text():
    *arrays, target = draw()
    logp, kl, _ = distilled_logprobs(*arrays, target, chunk=4)
    alone, _ = token_logprobs(arrays[0], arrays[1], target, chunk=4)
    np.testing.assert_allclose(logp, alone, rtol=1e-6, atol=1e-6)
    loss, metrics = distillation(logp, kl * np.nan, np.ones((R, T), np.float32) * 0, alpha=0.0)
    assert float(loss) == 0.0
    loss, metrics = distillation(logp, kl, np.ones((R, T), np.float32), alpha=0.0)
    assert float(loss) == pytest.approx(-float(jnp.mean(alone)), rel=1e-6)
    assert float(metrics["distillation/kl"]) == pytest.approx(float(jnp.mean(kl)), rel=1e-6)


def test_micro_batches_sum_to_the_whole():
    *arrays, target = draw()
    logp, kl, _ = distilled_logprobs(*arrays, target, chunk=4)
    weight = (np.random.default_rng(1).random((R, T)) < 0.6).astype(np.float32)
    whole, _ = distillation(logp, kl, weight, alpha=0.4)
    parts = [distillation(logp[r], kl[r], weight[r], alpha=0.4, normalizer=weight.sum())[0] for r in range(R)]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-6)


def test_no_array_of_all_logits_is_held():
    """Of 4,096 tokens and 512 pieces the logits are 8 MiB, and as many the teacher's; chunks of 64 hold 128 KiB."""
    tokens, width, vocabulary = 4096, 8, 512
    shapes = ((1, tokens, width), (width, vocabulary), (1, tokens, width), (width, vocabulary))
    abstract = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    target = jax.ShapeDtypeStruct((1, tokens), jnp.int32)

    def loss(hidden, head, teacher, teacher_head, target):
        logp, kl, _ = distilled_logprobs(hidden, head, teacher, teacher_head, target, chunk=64)
        return distillation(logp, kl, jnp.ones((1, tokens)), alpha=0.5)[0]

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*abstract, target).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * 2**20


def test_options_out_of_range_are_named():
    *arrays, target = draw()
    with pytest.raises(ValueError, match="chunk is 0"):
        distilled_logprobs(*arrays, target, chunk=0)
    with pytest.raises(ValueError, match=r"alpha is 1\.5; expected a number in 0\.\.1"):
        distillation(np.zeros((1, 1)), np.zeros((1, 1)), np.ones((1, 1)), alpha=1.5)
