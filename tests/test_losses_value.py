"""PPO's pieces against float64 loops and by hand: rewards a token, advantages, the clipped losses."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.losses.policy_gradient import grpo_loss, kl_estimate, normalizer, ppo_loss
from r1jax.losses.value import explained_variance, generalized_advantages, token_rewards, value_loss, whiten
from tests import reference_numpy

LENGTHS = np.array([1, 7, 4, 0, 6])
MASK = np.arange(7)[None] < LENGTHS[:, None]


def draw(seed: int, scale: float = 1.0) -> np.ndarray:
    """[5, 7] with what must not be read: NaN outside the mask."""
    return np.where(MASK, np.random.default_rng(seed).normal(size=MASK.shape) * scale, np.nan).astype(np.float32)


def advantages_by_sum(rewards, values, discount, decay):
    """The definition: a sum of discounted errors over all later tokens, a sequence and token at a time."""
    out = np.zeros(MASK.shape)
    for b, n in enumerate(LENGTHS):
        v = [float(x) for x in values[b, :n]] + [0.0]
        for t in range(n):
            delta = [float(rewards[b, k]) + discount * v[k + 1] - v[k] for k in range(t, n)]
            out[b, t] = math.fsum((discount * decay) ** i * d for i, d in enumerate(delta))
    return out


@pytest.mark.parametrize(("discount", "decay"), [(1.0, 1.0), (1.0, 0.95), (0.9, 0.5), (0.99, 0.0), (0.0, 1.0)])
def test_advantages_equal_the_sum_that_defines_them(discount, decay):
    rewards, values = draw(0), draw(1)
    got, returns = jax.jit(lambda r, v: generalized_advantages(r, v, MASK, discount=discount, decay=decay))(
        rewards, values
    )
    want = advantages_by_sum(rewards, values, discount, decay)
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(returns, np.where(MASK, want + np.nan_to_num(values), 0), rtol=2e-6, atol=2e-6)


def test_without_discount_or_decay_an_advantage_is_the_reward_less_the_value():
    reward_B = np.float32([2.0, -1.0, 0.5, 3.0, 1.0])
    rewards = token_rewards(reward_B, np.zeros(MASK.shape), MASK, kl_coef=0.1)
    values = draw(1)
    advantages, returns = generalized_advantages(rewards, values, MASK, discount=1.0, decay=1.0)
    np.testing.assert_allclose(advantages, np.where(MASK, reward_B[:, None] - np.nan_to_num(values), 0), atol=1e-6)
    np.testing.assert_allclose(returns, np.where(MASK, reward_B[:, None], 0), atol=1e-6)


def test_advantages_carry_no_gradient():
    for place in (0, 1):
        inputs = [np.nan_to_num(draw(0)), np.nan_to_num(draw(1))]

        def total(x, inputs=inputs, place=place):
            inputs[place] = x
            return generalized_advantages(*inputs, MASK, discount=0.9, decay=0.9)[0].sum()

        assert not np.asarray(jax.grad(total)(jnp.asarray(inputs[place]))).any()


def test_rewards_stand_at_the_last_token_and_the_kl_at_every_one():
    kl = draw(2)
    got = token_rewards(np.float32([5, 4, 3, 2, 1]), kl, MASK, kl_coef=0.5)
    want = -0.5 * np.nan_to_num(kl)
    for b, n in enumerate(LENGTHS):
        if n:
            want[b, n - 1] += 5 - b
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_the_kl_of_a_token_is_that_of_the_loss():
    logp, ref = np.nan_to_num(draw(3)), np.nan_to_num(draw(4))
    for estimator, formula in (
        ("k1", lambda d: -d), ("k2", lambda d: d**2 / 2), ("k3", lambda d: np.exp(d) - d - 1),
    ):  # fmt: skip
        want = formula(ref.astype(np.float64) - logp)
        np.testing.assert_allclose(kl_estimate(logp, ref, estimator), want, rtol=1e-5, atol=1e-6)


def test_whitened_advantages_have_mean_0_and_deviation_1():
    got = np.asarray(whiten(draw(5, 3.0), MASK))
    assert got[MASK].mean() == pytest.approx(0, abs=1e-6) and got[MASK].std() == pytest.approx(1, rel=1e-3)
    assert not got[~MASK].any()
    np.testing.assert_allclose(whiten(np.full(MASK.shape, 2.5), MASK), 0, atol=1e-6)


def ppo_reference(logp, old, advantages, *, clip_low, clip_high, reduction, max_length) -> float:
    terms = np.zeros(MASK.shape)
    for b, t in np.argwhere(MASK):
        ratio, a = math.exp(logp[b, t] - old[b, t]), float(advantages[b, t])
        terms[b, t] = -min(ratio * a, min(max(ratio, 1 - clip_low), 1 + clip_high) * a)
    if reduction == "sequence":
        return float(np.mean([terms[b, :n].mean() for b, n in enumerate(LENGTHS) if n]))
    return float(terms.sum() / (MASK.sum() if reduction == "token" else MASK.shape[0] * max_length))


@pytest.mark.parametrize("reduction", ["sequence", "token", "constant"])
def test_the_surrogate_and_its_gradient_equal_the_reference(reduction):
    logp, advantages = -np.abs(np.nan_to_num(draw(6))), draw(7)
    old = logp - np.nan_to_num(draw(8, 0.4))
    options = dict(clip_low=0.2, clip_high=0.3, reduction=reduction, max_length=9)
    (loss, metrics), gradient = jax.value_and_grad(
        lambda x: ppo_loss(x, old, advantages, MASK, **options), has_aux=True
    )(jnp.asarray(logp))

    def want(x):
        return ppo_reference(x, old.astype(np.float64), advantages, **options)

    assert float(loss) == pytest.approx(want(logp.astype(np.float64)), rel=1e-5)
    np.testing.assert_allclose(gradient, reference_numpy.gradient(want, logp.astype(np.float64)), rtol=1e-5, atol=1e-6)
    assert 0 < float(metrics["policy/clip_fraction"]) < 1


def test_one_advantage_for_a_whole_sequence_is_grpos_surrogate():
    logp = -np.abs(np.nan_to_num(draw(6)))
    old = logp - np.nan_to_num(draw(8, 0.4))
    advantages_B = np.float32([1.0, -2.0, 0.5, 3.0, -0.1])
    for reduction in ("sequence", "token", "constant"):
        options = dict(clip_low=0.1, clip_high=0.2, reduction=reduction, max_length=9)
        want, figures = grpo_loss(logp, old, None, advantages_B, MASK, kl_coef=0.0, **options)
        got, metrics = ppo_loss(logp, old, np.broadcast_to(advantages_B[:, None], MASK.shape), MASK, **options)
        assert float(got) == float(want)
        assert {name: float(x) for name, x in metrics.items()} == {name: float(x) for name, x in figures.items()}


def value_reference(values, old, returns, clip) -> float:
    total = 0.0
    for b, t in np.argwhere(MASK):
        v, o, r = (float(x[b, t]) for x in (values, old, returns))
        held = min(max(v, o - clip), o + clip) if clip else v
        total += max((v - r) ** 2, (held - r) ** 2)
    return total / MASK.sum() / 2


@pytest.mark.parametrize("clip", [0.0, 0.2])
def test_the_value_loss_and_its_gradient_equal_the_reference(clip):
    values, returns = draw(9), draw(10)
    old = values - draw(11, 0.4)
    (loss, metrics), gradient = jax.value_and_grad(
        lambda x: value_loss(x, old, returns, MASK, clip=clip), has_aux=True
    )(jnp.asarray(values))

    def want(x):
        return value_reference(x, old, returns, clip)

    start = np.nan_to_num(values).astype(np.float64)
    assert float(loss) == float(metrics["value/loss"]) == pytest.approx(want(start), rel=1e-6)
    np.testing.assert_allclose(gradient, reference_numpy.gradient(want, start), rtol=1e-5, atol=1e-6)
    assert (float(metrics["value/clip_fraction"]) > 0) == bool(clip)
    assert (np.asarray(gradient)[MASK] == 0).any() == bool(clip)  # held: nothing pulls it further


def test_micro_batches_sum_to_the_whole():
    logp, advantages, values, returns = -np.abs(np.nan_to_num(draw(6))), draw(7), draw(9), draw(10)
    old = logp - np.nan_to_num(draw(8, 0.4))
    cut = [slice(0, 2), slice(2, 5)]
    whole, _ = ppo_loss(logp, old, advantages, MASK, clip_low=0.2, clip_high=0.2, reduction="sequence")
    parts = [
        ppo_loss(
            logp[s], old[s], advantages[s], MASK[s],
            clip_low=0.2, clip_high=0.2, reduction="sequence", normalizer=normalizer(MASK),
        )[0]
        for s in cut
    ]  # fmt: skip
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-6)
    whole, _ = value_loss(values, values, returns, MASK, clip=0.1)
    parts = [
        value_loss(values[s], values[s], returns[s], MASK[s], clip=0.1, normalizer=jnp.float32(MASK.sum()))[0]
        for s in cut
    ]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-6)


def test_explained_variance_by_hand():
    returns = np.nan_to_num(draw(12))
    for values, want in ((returns, 1.0), (np.full_like(returns, 7.0), 0.0), (returns / 2, 0.75), (-returns, -3.0)):
        assert float(explained_variance(values, returns, MASK)) == pytest.approx(want, abs=1e-5)
    assert float(explained_variance(returns, np.ones_like(returns), MASK)) == 0.0


def test_nothing_chosen_is_zero_not_nan():
    none = np.zeros((2, 3), bool)
    x = np.zeros((2, 3), np.float32)
    assert float(ppo_loss(x, x, x, none, clip_low=0.2, clip_high=0.2, reduction="token")[0]) == 0.0
    assert float(value_loss(x, x, x, none, clip=0.2)[0]) == 0.0
    assert not np.asarray(generalized_advantages(x, x, none, discount=1.0, decay=1.0)).any()
    assert not np.asarray(whiten(x, none)).any() and float(explained_variance(x, x, none)) == 0.0


def test_options_out_of_range_are_named():
    x = np.zeros((2, 3), np.float32)
    for discount, decay in itertools.product((1.0, 1.1, float("nan")), (1.0, -0.1)):
        if (discount, decay) != (1.0, 1.0):
            with pytest.raises(ValueError, match=r"(discount|decay) is .*expected a number in 0\.\.1"):
                generalized_advantages(x, x, x, discount=discount, decay=decay)
    with pytest.raises(ValueError, match="clip is -1"):
        value_loss(x, x, x, x, clip=-1)
    with pytest.raises(ValueError, match=r"reduction is 'tokens'.*did you mean 'token'"):
        ppo_loss(x, x, x, x, clip_low=0.2, clip_high=0.2, reduction="tokens")
