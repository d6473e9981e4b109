import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.losses import decoupled_advantages, group_advantages
from tests import reference_numpy as reference


def test_worked_example_of_four_completions():
    """'What is 2 + 3 * 4?': totals 0.1, 1.1, 1.0, 0.1 have mean 0.575 and population deviation 0.47631."""
    got = group_advantages(jnp.array([[0.1, 1.1, 1.0, 0.1]]), eps=0.0)
    deviation = np.sqrt((2 * 0.475**2 + 0.525**2 + 0.425**2) / 4)
    assert deviation == pytest.approx(0.476, abs=5e-4)
    np.testing.assert_allclose(got, [np.array([-0.475, 0.525, 0.425, -0.475]) / deviation], rtol=1e-6)


@pytest.mark.parametrize("scale", ["std", "none", "batch"])
@pytest.mark.parametrize("eps", [1e-4, 0.5])
def test_equals_the_reference(scale, eps):
    rewards_PG = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    want = reference.advantages(rewards_PG, scale, eps)
    got = group_advantages(rewards_PG, scale=scale, eps=eps)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", ["std", "none", "batch"])
@pytest.mark.parametrize("value", [0.1, 1 / 3, 1.1, 1e-8, -7.7, 0.0])
def test_equal_rewards_and_groups_of_one_give_exact_zeros(scale, value):
    for samples in (1, 3, 16):
        equal_PG = np.full((2, samples), value, np.float32)
        assert not np.any(group_advantages(equal_PG, scale=scale))
    mixed_PG = np.array([[value] * 16, [0.0, 1.0] * 8], np.float32)
    got = group_advantages(mixed_PG, scale=scale)
    assert not np.any(got[0]) and np.all(got[1] != 0)


def test_a_groups_offset_does_not_matter():
    rewards_PG = np.random.default_rng(1).integers(0, 2, (4, 8)).astype(np.float32)
    shift_P1 = np.array([[0.0], [4.0], [-2.0], [100.0]], np.float32)
    for scale in ("std", "none"):
        np.testing.assert_array_equal(
            group_advantages(rewards_PG + shift_P1, scale=scale), group_advantages(rewards_PG, scale=scale)
        )


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"scale is 'sdt'.*did you mean 'std'"):
        group_advantages(np.zeros((1, 2)), scale="sdt")
    with pytest.raises(ValueError, match=r"rewards_PG has shape \(0, 4\)"):
        group_advantages(np.zeros((0, 4)))


def decoupled_by_loops(rewards_KPG, mine_KPG, weights_K, eps):
    """float64, one number at a time."""
    K, P, G = rewards_KPG.shape
    total_PG = np.zeros((P, G))
    for k in range(K):
        for p in range(P):
            own = [float(rewards_KPG[k, p, g]) for g in range(G) if mine_KPG[k, p, g]]
            if not own:
                continue
            mean = sum(own) / len(own)
            # A completion that is not its own stands at the mean, so that it adds nothing to the deviation.
            deviation = (sum((r - mean) ** 2 for r in own) / G) ** 0.5
            for g in range(G):
                if mine_KPG[k, p, g]:
                    total_PG[p, g] += weights_K[k] * (float(rewards_KPG[k, p, g]) - mean) / (deviation + eps)
    return (total_PG - total_PG.mean()) / (total_PG.std() + eps)


def test_decoupled_equals_loops():
    rng = np.random.default_rng(2)
    rewards_KPG = rng.normal(size=(3, 4, 5)).astype(np.float32) * np.array([1, 50, 0.01], np.float32)[:, None, None]
    mine_KPG = rng.random((3, 4, 5)) < 0.8
    mine_KPG[1, 2] = False
    weights_K = np.array([1.0, 0.5, -2.0], np.float32)
    got = decoupled_advantages(rewards_KPG, mine_KPG, weights_K)
    np.testing.assert_allclose(got, decoupled_by_loops(rewards_KPG, mine_KPG, weights_K, 1e-4), rtol=1e-4, atol=1e-5)


def test_decoupled_tells_apart_what_the_sum_cannot():
    """GDPO's example: totals 0 and 1, 0 and 2 give one advantage in GRPO; two when each reward is normalised."""
    first, second = np.array([[0.0, 1.0], [0.0, 1.0]]), np.array([[0.0, 0.0], [0.0, 1.0]])
    summed = group_advantages(first + second, eps=0.0)
    np.testing.assert_allclose(summed[0], summed[1])
    apart = decoupled_advantages(np.stack([first, second]), np.ones((2, 2, 2), bool), np.ones(2))
    # Sums -1, 1, -2, 2, whose deviation is the root of 2.5.
    np.testing.assert_allclose(apart, np.array([[-1, 1], [-2, 2]]) / 2.5**0.5, rtol=1e-3)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-8, 0.0])
def test_decoupled_gives_exact_zeros_where_nothing_differs(value):
    equal_KPG = np.full((2, 3, 5), value, np.float32)
    mine_KPG = np.random.default_rng(3).random((2, 3, 5)) < 0.5
    assert not np.any(decoupled_advantages(equal_KPG, mine_KPG, np.ones(2)))
