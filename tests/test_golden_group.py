"""The worked example: 'What is 2 + 3 * 4?', four completions, from text to rewards to advantages to the gradient."""

import jax
import numpy as np
import pytest
import reference_numpy

from r1jax.config import RewardsConfig, RewardSpec
from r1jax.data import templates
from r1jax.losses import group_advantages, grpo_loss
from r1jax.rewards.compose import load_rewards

COMPLETIONS = [
    " <think> 2 + 3 = 5. 5 * 4 = 20. </think> <answer> 20 </answer>",  # wrong, with thinking
    " <think> 3 * 4 = 12. 2 + 12 = 14. </think> <answer> 14 </answer>",  # right, with thinking
    " 3 * 4 = 12, so <answer> 14 </answer>",  # right, without
    " <think> blue tree seven of the </think> <answer> 9 </answer>",  # wrong, with gibberish
]
SPECS = {
    "accuracy": RewardSpec("r1jax.rewards.answers:accuracy", 1.0, {}),
    "format": RewardSpec("r1jax.rewards.format:think_answer", 0.1, {}),
}
LENGTHS = (5, 6, 3, 4)  # tokens of each, in a batch of 6


@pytest.fixture(scope="module")
def rewards():
    prompts = [templates.render("r1_zero", "What is 2 + 3 * 4?")] * 4
    columns = {"answer": ["14"] * 4, "task": ["arithmetic"] * 4}
    with load_rewards(SPECS, RewardsConfig(timeout_s=30.0, on_error=0.0, workers=1)) as graders:
        return graders(prompts, COMPLETIONS, columns, [[1]] * 4)


def test_rewards(rewards):
    np.testing.assert_allclose(rewards.by_name["accuracy"], [0, 1, 1, 0], atol=0)
    np.testing.assert_allclose(rewards.by_name["format"], [1, 1, 0, 1], atol=0)
    np.testing.assert_allclose(rewards.total_B, [0.1, 1.1, 1.0, 0.1], atol=1e-7)


def test_advantages(rewards):
    """Mean 0.575, population standard deviation sqrt(0.226875) = 0.47631..."""
    advantages_PG = group_advantages(rewards.total_B.reshape(1, 4), scale="std")
    by_hand = (np.array([[0.1, 1.1, 1.0, 0.1]]) - 0.575) / (np.sqrt(0.226875) + 1e-4)
    np.testing.assert_allclose(advantages_PG, by_hand, atol=1e-6)
    np.testing.assert_allclose(
        advantages_PG, reference_numpy.advantages(np.array([[0.1, 1.1, 1.0, 0.1]]), "std", 1e-4), atol=1e-6
    )


def test_one_gradient(rewards):
    """Of the loss in the log-probabilities, second update of a rollout: ratios off 1, one of them clipped, and a KL."""
    rng = np.random.default_rng(0)
    logp_BL = rng.uniform(-3.0, -0.1, (4, 6)).astype(np.float32)
    old_BL = (logp_BL + rng.normal(0, 0.2, (4, 6))).astype(np.float32)
    ref_BL = (logp_BL + rng.normal(0, 0.2, (4, 6))).astype(np.float32)
    mask_BL = (np.arange(6) < np.array(LENGTHS)[:, None]).astype(np.float32)
    advantages_B = np.asarray(group_advantages(rewards.total_B.reshape(1, 4))).reshape(-1)
    options = dict(
        clip_low=0.2, clip_high=0.2, kl_coef=0.001, kl_estimator="k3", reduction="sequence", importance="token",
        max_length=6,
    )  # fmt: skip

    def loss(logp):
        return grpo_loss(logp, old_BL, ref_BL, advantages_B, mask_BL, **options)

    (value, metrics), gradient_BL = jax.value_and_grad(loss, has_aux=True)(logp_BL)
    exact_B = reference_numpy.advantages(np.array([[0.1, 1.1, 1.0, 0.1]]), "std", 1e-4)[0]

    def reference(logp):
        return reference_numpy.grpo(
            logp, old_BL.astype(np.float64), ref_BL.astype(np.float64), exact_B, mask_BL, **options
        )

    expected = reference(logp_BL.astype(np.float64))
    assert expected["clip_fraction"] > 0 and float(metrics["policy/clip_fraction"]) == pytest.approx(
        expected["clip_fraction"]
    )
    assert float(value) == pytest.approx(expected["loss"], abs=1e-6)
    by_reference_BL = reference_numpy.gradient(lambda logp: reference(logp)["loss"], logp_BL.astype(np.float64))
    np.testing.assert_allclose(gradient_BL, by_reference_BL, atol=1e-6)
    assert np.abs(gradient_BL[mask_BL > 0]).max() > 1e-2 and not np.asarray(gradient_BL)[mask_BL == 0].any()
