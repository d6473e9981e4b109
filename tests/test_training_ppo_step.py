"""PPO's update: values read from packed rows, targets, and an update that does not depend on how it is cut."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.config import GrpoConfig, PpoConfig
from r1jax.models.policy import forward
from r1jax.models.scalar import values
from r1jax.training.optimizer import make_optimizer
from r1jax.training.ppo_step import PpoBatch, estimate, new_critic, ppo_step, targets
from r1jax.training.step import PolicyBatch
from tests import test_training_step as steps
from tests import tiny_policy as tiny

GRPO = dataclasses.replace(steps.GRPO, advantage_scale="none", kl_estimator="k1", reduction="token")
PPO = PpoConfig(discount=1.0, decay=0.95, value_clip=0.2, optimizer=dataclasses.replace(steps.OPTIMIZER, lr=0.05))
REWARDS = np.float32([1.0, 0.0, 0.1, 1.1, 0.5, 0.0, 1.0, 0.2])


@functools.cache
def critic_optimizer():
    return make_optimizer(PPO.optimizer, 100)


@functools.cache
def state():
    """The policy's state with a critic whose head says something."""
    fresh = steps.state(reference=False)
    critic = new_critic(steps.CONFIG, fresh.params, critic_optimizer())
    head = np.random.default_rng(7).normal(size=steps.CONFIG.width).astype(np.float32) * 0.3
    params = {**critic.params["params"], "score_D": jnp.asarray(head), "score_bias": jnp.float32(0.1)}
    return fresh._replace(critic=critic._replace(params={**critic.params, "params": params}))


@functools.cache
def batch(room: int = 24) -> PpoBatch:
    """`steps.rl_batch` with a critic's figures drawn at random."""
    given = steps.rl_batch(room)
    policy = PolicyBatch(given.packed, given.index_BL, given.logp_sampler_BL, given.logp_old_BL)
    advantages, old, returns = (np.where(steps.mask(), steps.noise(n) * 3, 0).astype(np.float32) for n in (8, 9, 10))
    return PpoBatch(policy, advantages, old, returns)


@functools.cache
def update(micro_rows: int = steps.ROWS, grpo: GrpoConfig = GRPO):
    config = dataclasses.replace(steps.BATCH, micro_rows=micro_rows)
    step = functools.partial(
        ppo_step, steps.CONFIG, config, steps.ROUTER, grpo, PPO, steps.TEMPERATURE, steps.MAX_LENGTH,
        make_optimizer(steps.OPTIMIZER, 100), critic_optimizer(),
    )  # fmt: skip
    return tiny.jit(step)


def test_values_in_packed_rows_are_those_of_each_text_alone():
    """What stands before the token, prompt included, and nothing of the row's other sequences."""
    given = batch().policy
    got = tiny.jit(functools.partial(estimate, steps.CONFIG, steps.BATCH))(
        state().critic.params, given.packed, given.index_BL
    )
    whole = [steps.PROMPTS[b // 4] + tokens for b, tokens in enumerate(steps.COMPLETIONS)]
    alone = tiny.rows(whole, 12)
    params = state().critic.params
    hidden, _ = tiny.jit(functools.partial(forward, steps.CONFIG))(state().params, alone)
    scale = np.asarray(params["params"]["score_D"], np.float64)
    for b, tokens in enumerate(steps.COMPLETIONS):
        start = len(steps.PROMPTS[b // 4]) - 1
        want = np.asarray(hidden, np.float64)[b, start : start + len(tokens)] @ scale + 0.1
        np.testing.assert_allclose(got[b, : len(tokens)], want, rtol=1e-4, atol=1e-5)
        assert not np.asarray(got)[b, len(tokens) :].any()


def test_a_new_critic_says_nothing_and_leaves_the_policy_alone():
    fresh = steps.state(reference=False)
    critic = new_critic(steps.CONFIG, fresh.params, critic_optimizer())
    value_RT, _ = tiny.jit(functools.partial(values, steps.CONFIG))(critic.params, batch().policy.packed)
    assert not np.asarray(value_RT).any()
    assert "head_DV" not in critic.params["params"] and "head_DV" in fresh.params["params"]


def test_an_update_does_not_depend_on_micro_batches():
    whole = jax.device_get(update()(state(), batch()))
    cut = jax.device_get(update(2)(state(), batch()))
    steps.assert_same_update(cut, whole)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), whole[0].critic.params, state().critic.params)
    assert moved["params"]["score_bias"] > 0 and moved["params"]["embed_VD"] > 0
    assert whole[1]["value/grad_norm"] > 0 and 0 < whole[1]["value/clip_fraction"] < 1
    assert int(whole[0].step) == 0


def test_the_critic_learns_what_it_is_shown():
    """Ten updates towards returns of 1: its error falls to under a tenth."""
    at, losses = state(), []
    given = batch()._replace(returns_BL=steps.mask().astype(np.float32), values_old_BL=np.zeros((8, 8), np.float32))
    for _ in range(10):
        seen = estimate_now(at, given)
        at, metrics = update()(at, given._replace(values_old_BL=seen))
        losses.append(float(metrics["value/loss"]))
    assert losses[-1] < losses[0] / 10


def estimate_now(at, given):
    return _estimate()(at.critic.params, given.policy.packed, given.policy.index_BL)


@functools.cache
def _estimate():
    return tiny.jit(functools.partial(estimate, steps.CONFIG, steps.BATCH))


def test_targets_have_the_kl_in_the_reward():
    """With lambda 1 and no values, an advantage is the reward to come, less the KL of what is still to be written."""
    mask = steps.mask()
    old, ref = (np.where(mask, steps.noise(n), 0).astype(np.float32) for n in (1, 2))
    ppo = dataclasses.replace(PPO, decay=1.0)
    zeros = np.zeros(mask.shape, np.float32)
    advantages, returns, metrics = targets(ppo, GRPO, REWARDS, old, ref, zeros, mask)
    penalty = np.where(mask, (old - ref).astype(np.float64) * GRPO.kl_coef, 0)
    to_come = np.cumsum(penalty[:, ::-1], axis=1)[:, ::-1]
    np.testing.assert_allclose(advantages, np.where(mask, REWARDS[:, None] - to_come, 0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(advantages, returns)
    assert float(metrics["policy/kl"]) == pytest.approx((old - ref)[mask].mean(), rel=1e-4)
    whitened, _, _ = targets(ppo, dataclasses.replace(GRPO, advantage_scale="batch"), REWARDS, old, ref, zeros, mask)
    assert np.asarray(whitened)[mask].std() == pytest.approx(1, rel=1e-3)
    assert "policy/kl" not in targets(ppo, dataclasses.replace(GRPO, kl_coef=0.0), REWARDS, None, None, zeros, mask)[2]
