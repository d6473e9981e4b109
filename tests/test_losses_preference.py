"""The preference objectives against float64 NumPy, by hand, and in micro-batches."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.losses.preference import bradley_terry, pointwise


def draw(seed: int, size: int):
    rng = np.random.default_rng(seed)
    return rng.normal(size=size) * 3, rng.normal(size=size) * 3, (rng.random(size) < 0.6).astype(np.float64)


def test_worked_by_hand():
    """Margins 0 and ln 3: P(chosen) is 1/2 and 3/4."""
    loss, metrics = bradley_terry(jnp.array([1.0, math.log(3.0)]), jnp.array([1.0, 0.0]), jnp.ones(2))
    assert float(loss) == pytest.approx((math.log(2) + math.log(4 / 3)) / 2, rel=1e-6)
    assert float(metrics["preference/accuracy"]) == 0.5  # a tie is not ranked rightly
    assert float(metrics["preference/margin"]) == pytest.approx(math.log(3) / 2, rel=1e-6)
    # P(safe) is 3/4 of a safe reply and 3/4 of an unsafe one.
    loss, metrics = pointwise(jnp.full(2, math.log(3.0)), jnp.array([1.0, 0.0]), jnp.ones(2))
    assert float(loss) == pytest.approx((math.log(4 / 3) + math.log(4)) / 2, rel=1e-6)
    assert float(metrics["preference/accuracy"]) == 0.5 and float(metrics["preference/margin"]) == 0.0


def test_agrees_with_float64_numpy():
    chosen, rejected, weight = draw(0, 50)
    want = (np.log1p(np.exp(-(chosen - rejected))) * weight).sum() / weight.sum()
    loss, metrics = bradley_terry(chosen, rejected, weight)
    assert float(loss) == pytest.approx(want, rel=1e-6)
    assert float(metrics["preference/accuracy"]) == pytest.approx(((chosen > rejected) * weight).sum() / weight.sum())
    score, _, label = draw(1, 50)
    safe = 1 / (1 + np.exp(-score))
    want = -((label * np.log(safe) + (1 - label) * np.log(1 - safe)) * weight).sum() / weight.sum()
    assert float(pointwise(score, label, weight)[0]) == pytest.approx(want, rel=1e-6)


def test_gradient_is_the_share_that_is_not_yet_believed():
    """d loss / d chosen = -(1 - sigmoid(margin)) / pairs; a pair without weight has none, even if its score is NaN."""
    chosen, rejected = jnp.array([2.0, 0.5, jnp.nan]), jnp.array([1.0, 1.5, 0.0])
    weight = jnp.array([1.0, 1.0, 0.0])
    grads = jax.grad(lambda c: bradley_terry(c, rejected, weight)[0])(chosen)
    margin = np.array([1.0, -1.0])
    np.testing.assert_allclose(grads[:2], -(1 - 1 / (1 + np.exp(-margin))) / 2, rtol=1e-6)
    assert np.isfinite(bradley_terry(chosen, rejected, weight)[0])


@pytest.mark.parametrize("loss", [bradley_terry, pointwise])
def test_micro_batches_sum_to_the_whole(loss):
    first, second, weight = draw(2, 12)
    second = second if loss is bradley_terry else (second > 0).astype(np.float64)
    whole, metrics = loss(first, second, weight)
    parts = [
        loss(first[s], second[s], weight[s], normalizer=weight.sum()) for s in (slice(0, 5), slice(5, 9), slice(9, 12))
    ]
    assert sum(float(part) for part, _ in parts) == pytest.approx(float(whole), rel=1e-6)
    for name, value in metrics.items():
        assert sum(float(m[name]) for _, m in parts) == pytest.approx(float(value), rel=1e-5), name


def test_far_scores_stay_finite_and_nothing_gives_zero():
    far = jnp.array([1e4, -1e4])
    assert float(bradley_terry(far, -far, jnp.ones(2))[0]) == pytest.approx(1e4)
    assert np.isfinite(jax.grad(lambda c: bradley_terry(c, -far, jnp.ones(2))[0])(far)).all()
    assert float(pointwise(far, jnp.ones(2), jnp.zeros(2))[0]) == 0.0
