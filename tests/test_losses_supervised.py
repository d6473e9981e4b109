import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.losses import cross_entropy


def test_weighted_mean_by_hand():
    logp_RT = jnp.log(jnp.array([[0.5, 0.25, 0.1], [0.5, 0.9, 0.9]]))
    weight_RT = jnp.array([[1.0, 2.0, 0.0], [1.0, 0.0, 0.0]])
    loss, metrics = cross_entropy(logp_RT, weight_RT)
    assert float(loss) == pytest.approx((np.log(2) + 2 * np.log(4) + np.log(2)) / 4, rel=1e-6)
    assert metrics == {"loss": loss}
    gradient_RT = jax.grad(lambda x: cross_entropy(x, weight_RT)[0])(logp_RT)
    np.testing.assert_allclose(gradient_RT, -weight_RT / 4, rtol=1e-6)


def test_micro_batches_sum_to_the_whole():
    rng = np.random.default_rng(0)
    logp_RT, weight_RT = -rng.random((6, 5)).astype(np.float32), (rng.random((6, 5)) < 0.4).astype(np.float32)
    whole, _ = cross_entropy(logp_RT, weight_RT)
    cut = [slice(0, 1), slice(1, 4), slice(4, 6)]
    parts = [cross_entropy(logp_RT[s], weight_RT[s], normalizer=weight_RT.sum())[0] for s in cut]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_of_weight_zero_do_not_matter(bad):
    weight_RT = jnp.array([[1.0, 0.0]])
    value, gradient_RT = jax.value_and_grad(lambda x: cross_entropy(x, weight_RT)[0])(jnp.array([[-1.5, bad]]))
    assert float(value) == 1.5
    np.testing.assert_array_equal(gradient_RT, [[-1.0, 0.0]])


def test_nothing_to_learn_is_zero():
    value, gradient_RT = jax.value_and_grad(lambda x: cross_entropy(x, jnp.zeros((2, 3)))[0])(-jnp.ones((2, 3)))
    assert float(value) == 0.0 and not np.any(gradient_RT)


def test_shapes_must_agree():
    with pytest.raises(AssertionError):
        cross_entropy(jnp.zeros((2, 3)), jnp.zeros((3, 2)))
