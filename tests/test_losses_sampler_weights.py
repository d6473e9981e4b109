"""Truncated importance weights: against float64 loops, and what they are for."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.config import GrpoConfig
from r1jax.losses import grpo_loss, normalizer, sampler_weights
from tests import reference_numpy as reference
from tests import test_training_ppo_step as ppo_steps
from tests import test_training_step as steps

CAP = 1.5


def inputs(seed=0):
    """Ragged sequences, one empty, one with a hole; NaN wherever nothing was sampled."""
    rng = np.random.default_rng(seed)
    mask_BL = (np.arange(6)[None] < np.array([[1], [6], [4], [0], [5]])).astype(np.float32)
    mask_BL[1, 2] = 0.0
    logp_BL = -rng.random((5, 6)) * 2
    old_BL, sampler_BL, ref_BL = (logp_BL + rng.normal(size=(5, 6)) * 0.4 for _ in range(3))
    given = [np.where(mask_BL > 0, x, np.nan).astype(np.float32) for x in (logp_BL, old_BL, sampler_BL, ref_BL)]
    return *given, np.float32([1.5, -1.0, 0.7, 2.0, -0.4]), mask_BL


def weight(old: float, sampler: float) -> float:
    return min(math.exp(float(old) - float(sampler)), CAP)


def test_weights_and_their_figures_equal_the_formula():
    _, old_BL, sampler_BL, _, _, mask_BL = inputs()
    weights_BL, metrics = sampler_weights(old_BL, sampler_BL, mask_BL, cap=CAP)
    tokens = [(b, t) for b, t in np.ndindex(mask_BL.shape) if mask_BL[b, t]]
    want = {at: weight(old_BL[at], sampler_BL[at]) for at in tokens}
    for at in np.ndindex(mask_BL.shape):
        assert float(weights_BL[at]) == pytest.approx(want.get(at, 1.0), rel=1e-6)
    cut = [w == CAP for w in want.values()]
    assert 0 < sum(cut) < len(cut)
    assert float(metrics["policy/sampler_weight"]) == pytest.approx(sum(want.values()) / len(want), rel=1e-6)
    assert float(metrics["policy/sampler_truncated"]) == pytest.approx(sum(cut) / len(cut), rel=1e-6)


@pytest.mark.parametrize("reduction", ["sequence", "token", "constant"])
def test_the_policy_term_is_weighed_and_the_kl_is_not(reduction):
    """The weighed loss is that of single tokens, each by float64 loops, in value and in gradient."""
    logp_BL, old_BL, sampler_BL, ref_BL, advantages_B, mask_BL = inputs()
    options = dict(clip_low=0.2, clip_high=0.3, kl_coef=0.3, kl_estimator="k3", reduction=reduction, max_length=9)
    weights_BL, _ = sampler_weights(old_BL, sampler_BL, mask_BL, cap=CAP)

    def loss(x):
        return grpo_loss(x, old_BL, ref_BL, advantages_B, mask_BL, weights_BL=weights_BL, **options)[0]

    def share(b: int) -> float:
        """What a token of the sequence counts in the mean."""
        busy = [row for row in mask_BL if row.any()]
        own = 1 / (len(busy) * int(mask_BL[b].sum())) if mask_BL[b].any() else 0.0
        return {"sequence": own, "token": 1 / int(mask_BL.sum()), "constant": 1 / (5 * 9)}[reduction]

    def want(x):
        total = 0.0
        for b, t in zip(*np.nonzero(mask_BL), strict=True):
            ratio = math.exp(x[b, t] - float(old_BL[b, t]))
            advantage = float(advantages_B[b])
            gain = -min(ratio * advantage, min(max(ratio, 0.8), 1.3) * advantage)
            d = float(ref_BL[b, t]) - x[b, t]
            total += share(b) * (weight(old_BL[b, t], sampler_BL[b, t]) * gain + 0.3 * (math.exp(d) - d - 1))
        return total

    at = np.where(mask_BL > 0, logp_BL, 0.0).astype(np.float64)
    value, gradient_BL = jax.value_and_grad(loss)(jnp.asarray(logp_BL))
    assert float(value) == pytest.approx(want(at), rel=1e-5)
    np.testing.assert_allclose(gradient_BL, reference.gradient(want, at), rtol=1e-5, atol=1e-6)


def test_no_gradient_reaches_the_weights():
    """On-policy the weight is made of the very log-probabilities that are differentiated."""
    logp_BL, _, sampler_BL, _, advantages_B, mask_BL = inputs()

    def loss(x, weights_of):
        weights_BL, _ = sampler_weights(weights_of(x), sampler_BL, mask_BL, cap=CAP)
        return grpo_loss(x, None, None, advantages_B, mask_BL, kl_coef=0.0, weights_BL=weights_BL)[0]

    got, want = (jax.grad(loss)(jnp.asarray(logp_BL), f) for f in (lambda x: x, lambda _: jnp.asarray(logp_BL)))
    np.testing.assert_array_equal(got, want)
    assert np.isfinite(got).all() and np.asarray(got).any()


def test_micro_batches_sum_to_the_whole():
    _, old_BL, sampler_BL, _, _, mask_BL = inputs()
    whole = sampler_weights(old_BL, sampler_BL, mask_BL, cap=CAP)[1]
    halves = [mask_BL * (np.arange(5)[:, None] < 2), mask_BL * (np.arange(5)[:, None] >= 2)]
    parts = [sampler_weights(old_BL, sampler_BL, m, cap=CAP, normalizer=normalizer(mask_BL))[1] for m in halves]
    for name, value in whole.items():
        assert sum(float(part[name]) for part in parts) == pytest.approx(float(value), rel=1e-6)


def softmax(x):
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


@pytest.mark.parametrize("seed", range(8))
def test_the_bias_of_the_gradient_falls_with_the_cap_and_is_gone_without(seed):
    """A bandit of six arms, sampled from a rounded policy: expected gradients are sums over the arms, exactly."""
    rng = np.random.default_rng(seed)
    logits = jnp.asarray(rng.normal(size=6) * 1.5, jnp.float32)
    sampler = softmax(np.asarray(logits, np.float64) + rng.normal(size=6) * 0.7)
    rewards = rng.normal(size=6)
    advantages = np.float32(rewards - rewards @ softmax(np.asarray(logits, np.float64)))

    def expected(cap: float | None):
        """Over what the sampler draws: a "sequence" an arm, weighed by how often it comes."""

        def loss(x):
            logp_B1 = jax.nn.log_softmax(x)[:, None]
            weights_B1 = None
            if cap:
                weights_B1, _ = sampler_weights(logp_B1, np.log(sampler)[:, None], np.ones((6, 1)), cap=cap)
            losses = [
                grpo_loss(
                    logp_B1[b : b + 1], None, None, advantages[b : b + 1], np.ones((1, 1)), kl_coef=0.0,
                    weights_BL=None if weights_B1 is None else weights_B1[b : b + 1],
                )[0]
                for b in range(6)
            ]  # fmt: skip
            return sum(p * one for p, one in zip(np.float32(sampler), losses, strict=True))

        return np.asarray(jax.grad(loss)(logits), np.float64)

    p = softmax(np.asarray(logits, np.float64))
    exact = -p * (advantages - p @ advantages)  # of the policy's own expectation
    bias = {cap: np.linalg.norm(expected(cap) - exact) for cap in (None, 2.0, 1e6)}
    assert bias[1e6] < 1e-5 * np.linalg.norm(exact) + 1e-6
    assert bias[2.0] < bias[None]


def update(batch, cap):
    grpo = dataclasses.replace(steps.GRPO, sampler_cap=cap)
    return steps.rl(grpo=grpo)(steps.state(), batch)


def test_the_update_reads_the_cap():
    """Through packed rows: the figures are those of the unpacked arrays; a sampler that is exact changes nothing."""
    batch = steps.rl_batch()
    _, metrics = update(batch, CAP)
    ratio = np.exp(batch.logp_old_BL.astype(np.float64) - batch.logp_sampler_BL)[steps.mask()]
    assert float(metrics["policy/sampler_weight"]) == pytest.approx(np.minimum(ratio, CAP).mean(), rel=1e-5)
    assert float(metrics["policy/sampler_truncated"]) == pytest.approx((ratio > CAP).mean(), rel=1e-5)
    assert abs(float(metrics["loss"]) - float(steps.usual_rl()[1]["loss"])) > 1e-3
    exact = batch._replace(logp_sampler_BL=batch.logp_old_BL)
    new, metrics = update(exact, CAP)
    assert float(metrics["policy/sampler_weight"]) == pytest.approx(1.0, abs=1e-6)
    assert float(metrics["policy/sampler_truncated"]) == 0.0
    want = steps.usual_rl()[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), new.params, want.params)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler_cap": 0.5}, r"grpo\.sampler_cap is 0\.5; expected 0, .* or at least 1"),
        ({"sampler_cap": float("nan")}, r"grpo\.sampler_cap is nan"),
        (
            {"sampler_cap": 2.0, "importance": "sequence"},
            r"grpo\.sampler_cap is 2\.0 under grpo\.importance 'sequence'",
        ),
    ],
)
def test_bad_caps_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        GrpoConfig(**(dataclasses.asdict(steps.GRPO) | changes))


def test_the_loss_refuses_what_has_no_meaning():
    logp_BL, old_BL, sampler_BL, _, advantages_B, mask_BL = inputs()
    with pytest.raises(ValueError, match=r"cap is 0\.9; expected at least 1"):
        sampler_weights(old_BL, sampler_BL, mask_BL, cap=0.9)
    with pytest.raises(ValueError, match=r"importance is 'sequence' with weights_BL"):
        grpo_loss(logp_BL, old_BL, None, advantages_B, mask_BL, kl_coef=0.0, importance="sequence", weights_BL=mask_BL)


def test_ppo_weighs_its_advantages():
    """Weights of 1 change nothing; others change the loss to that of advantages weighed by hand."""
    grpo = dataclasses.replace(ppo_steps.GRPO, sampler_cap=CAP)
    given = ppo_steps.batch()
    policy = given.policy
    weights_BL, _ = sampler_weights(policy.logp_old_BL, policy.logp_sampler_BL, policy.index_BL >= 0, cap=CAP)
    by_hand = given._replace(advantages_BL=np.asarray(given.advantages_BL * weights_BL))
    new, metrics = ppo_steps.update(grpo=grpo)(ppo_steps.state(), given)
    want, other = ppo_steps.update()(ppo_steps.state(), by_hand)
    assert float(metrics["loss"]) == pytest.approx(float(other["loss"]), rel=1e-5)
    assert abs(float(other["loss"]) - float(ppo_steps.update()(ppo_steps.state(), given)[1]["loss"])) > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), new.params, want.params)
    assert "policy/sampler_truncated" in metrics
