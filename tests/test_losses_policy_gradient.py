import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.losses import group_advantages, grpo_loss, normalizer
from tests import reference_numpy as reference

REDUCTIONS = ("sequence", "token", "constant")
IMPORTANCES = ("token", "sequence", "sequence_mean")
ESTIMATORS = ("k3", "k2", "k1")
CLIPS = ((0.2, 0.2), (0.1, 0.4), (0.3, 10.0))


def _inputs(seed=0):
    """Six ragged sequences, the fourth empty, one advantage zero; ratios well away from 1 and from the bounds."""
    rng = np.random.default_rng(seed)
    lengths = np.array([1, 7, 4, 0, 5, 6])
    mask_BL = (np.arange(7)[None] < lengths[:, None]).astype(np.float32)
    mask_BL[4, 2] = 0.0  # a hole: not only the tail may be masked
    logp_BL = -rng.random((6, 7)).astype(np.float32) * 2
    logp_old_BL = logp_BL - rng.normal(size=(6, 7)).astype(np.float32) * 0.4
    logp_ref_BL = logp_BL + rng.normal(size=(6, 7)).astype(np.float32) * 0.3
    advantages_B = np.array([1.5, -1.0, 0.7, 2.0, -0.4, 0.0], np.float32)
    return logp_BL, logp_old_BL, logp_ref_BL, advantages_B, mask_BL


def _value_and_gradient(inputs, **options):
    logp_BL, *rest = inputs
    return jax.value_and_grad(lambda x: grpo_loss(x, *rest, **options), has_aux=True)(jnp.asarray(logp_BL))


def _compiled(inputs, **options):
    """The same, jitted: quicker for arrays of a shape that is met but once."""
    return jax.jit(lambda x: _value_and_gradient(x, **options))(inputs)


def _reference(inputs, options):
    logp_BL, *rest = (x.astype(np.float64) for x in inputs)
    gradient_BL = reference.gradient(lambda x: reference.grpo(x, *rest, **options)["loss"], logp_BL)
    return reference.grpo(logp_BL, *rest, **options), gradient_BL


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_every_option_equals_the_reference_in_value_and_gradient(reduction, importance):
    inputs = _inputs()
    for estimator, (clip_low, clip_high) in itertools.product(ESTIMATORS, CLIPS):
        options = dict(
            clip_low=clip_low,
            clip_high=clip_high,
            kl_coef=0.3,
            kl_estimator=estimator,
            reduction=reduction,
            importance=importance,
            max_length=9,
        )
        want, want_gradient = _reference(inputs, options)
        (loss, metrics), gradient_BL = _value_and_gradient(inputs, **options)
        context = f"{options}"
        assert loss.dtype == jnp.float32
        np.testing.assert_allclose(loss, want["loss"], rtol=5e-6, atol=1e-6, err_msg=context)
        np.testing.assert_allclose(gradient_BL, want_gradient, rtol=5e-6, atol=5e-7, err_msg=context)
        assert float(metrics["loss"]) == float(loss)
        for name in ("kl", "clip_fraction", "ratio_mean"):
            np.testing.assert_allclose(metrics[f"policy/{name}"], want[name], rtol=1e-5, err_msg=f"{name} {context}")


def test_the_inputs_of_the_option_test_reach_both_branches():
    inputs = _inputs()
    ratio_BL = np.exp(inputs[0] - inputs[1])[inputs[4] > 0]
    assert ratio_BL.min() < 0.7 and ratio_BL.max() > 1.4
    for importance in IMPORTANCES:
        _, metrics = grpo_loss(*inputs, importance=importance)
        assert 0 < float(metrics["policy/clip_fraction"]) < 1


def test_worked_example_gradient_to_1e6():
    """The four completions of 'What is 2 + 3 * 4?', from rewards to one gradient, the recipe's own options."""
    rng = np.random.default_rng(3)
    rewards_PG = np.array([[0.1, 1.1, 1.0, 0.1]], np.float32)
    advantages_B = np.asarray(group_advantages(rewards_PG)).reshape(-1)
    want_B = reference.advantages(np.array([[0.1, 1.1, 1.0, 0.1]]), "std", 1e-4).reshape(-1)
    np.testing.assert_allclose(advantages_B, want_B, atol=1e-6)
    logp_BL = -rng.random((4, 6))
    old_BL, ref_BL = logp_BL + rng.normal(size=(2, 4, 6)) * 0.05
    mask_BL = (np.arange(6)[None] < np.array([[6], [5], [3], [4]])).astype(np.float64)
    options = dict(
        clip_low=0.2,
        clip_high=0.2,
        kl_coef=0.001,
        kl_estimator="k3",
        reduction="sequence",
        importance="token",
        max_length=None,
    )
    narrow = [np.asarray(x, np.float32) for x in (logp_BL, old_BL, ref_BL, advantages_B, mask_BL)]
    (loss, _), got = _compiled(narrow, **options)
    want, want_gradient = _reference((logp_BL, old_BL, ref_BL, want_B, mask_BL), options)
    np.testing.assert_allclose(got, want_gradient, atol=1e-6)
    np.testing.assert_allclose(loss, want["loss"], atol=1e-6)


def test_clipping_by_hand():
    """r = 1.5 or 0.5: the gain is capped where r has moved with the advantage, and only there."""
    ratio = np.log(np.array([[1.5], [0.5], [1.5], [0.5]], np.float32))
    advantages_B = np.array([1.0, -1.0, -1.0, 1.0], np.float32)
    inputs = (ratio, np.zeros((4, 1)), None, advantages_B, np.ones((4, 1)))
    (loss, metrics), gradient_BL = _value_and_gradient(inputs, kl_coef=0.0, clip_low=0.1, clip_high=0.3)
    assert float(loss) == pytest.approx((-1.3 + 0.9 + 1.5 - 0.5) / 4, rel=1e-6)
    np.testing.assert_allclose(gradient_BL[:, 0], [0.0, 0.0, 1.5 / 4, -0.5 / 4], rtol=1e-6)
    assert float(metrics["policy/clip_fraction"]) == 0.5
    assert "policy/kl" not in metrics


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_on_policy_is_ratio_one_with_its_gradient(importance):
    logp_BL, _, logp_ref_BL, advantages_B, mask_BL = _inputs()
    stale = (logp_BL, logp_BL, logp_ref_BL, advantages_B, mask_BL)
    (loss, metrics), gradient_BL = _value_and_gradient((logp_BL, None, *stale[2:]), importance=importance)
    (want, _), want_gradient = _value_and_gradient(stale, importance=importance)
    assert float(metrics["policy/ratio_mean"]) == 1.0 and float(metrics["policy/clip_fraction"]) == 0.0
    assert float(loss) == float(want) and np.any(gradient_BL)
    np.testing.assert_array_equal(gradient_BL, want_gradient)


def test_ratio_departs_from_one_after_an_update_and_clipping_then_acts():
    logp_old_BL, _, _, advantages_B, mask_BL = _inputs()
    logp_BL, seen = jnp.asarray(logp_old_BL), []
    for _ in range(3):
        inputs = (logp_BL, logp_old_BL, None, advantages_B, mask_BL)
        (_, metrics), gradient_BL = _value_and_gradient(inputs, kl_coef=0.0, reduction="token")
        ratio_BL = np.exp(logp_BL - logp_old_BL)
        seen.append((float(metrics["policy/ratio_mean"]), float(metrics["policy/clip_fraction"])))
        logp_BL = logp_BL - 3.0 * gradient_BL
    assert seen[0] == (1.0, 0.0)
    assert seen[1][0] != 1.0 and seen[-1][1] > 0
    over_BL = ((ratio_BL > 1.2) & (advantages_B > 0)[:, None]) | ((ratio_BL < 0.8) & (advantages_B < 0)[:, None])
    moves_BL = (mask_BL > 0) & (advantages_B != 0)[:, None] & ~over_BL
    assert np.any(over_BL) and np.any(moves_BL)
    np.testing.assert_array_equal(np.asarray(gradient_BL) != 0, moves_BL)


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_micro_batches_sum_to_the_whole(reduction, importance):
    inputs = _inputs()
    options = dict(reduction=reduction, importance=importance, max_length=9, kl_coef=0.1)
    (loss, metrics), gradient_BL = _value_and_gradient(inputs, **options)
    whole = normalizer(inputs[-1])
    parts = [
        _compiled([x[cut] for x in inputs], normalizer=whole, **options)
        for cut in (slice(0, 2), slice(2, 4), slice(4, 6))
    ]
    np.testing.assert_allclose(sum(part[0][0] for part in parts), loss, rtol=1e-5)
    np.testing.assert_allclose(np.concatenate([part[1] for part in parts]), gradient_BL, rtol=1e-6, atol=1e-8)
    for name, value in metrics.items():
        np.testing.assert_allclose(sum(part[0][1][name] for part in parts), value, rtol=1e-5, err_msg=name)


def test_normalizer_counts_by_hand():
    assert tuple(map(float, normalizer(_inputs()[-1]))) == (5.0, 22.0, 6.0)


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("reduction", ["sequence", "token"])
def test_padding_does_not_matter(reduction, importance):
    inputs = _inputs()
    wider = [np.pad(x, ((0, 2), (0, 5)) if x.ndim == 2 else (0, 2)) for x in inputs]
    options = dict(reduction=reduction, importance=importance)
    (loss, metrics), gradient_BL = _value_and_gradient(inputs, **options)
    (padded_loss, padded_metrics), padded_gradient = _compiled(wider, **options)
    np.testing.assert_allclose(padded_loss, loss, rtol=1e-6)
    np.testing.assert_allclose(padded_gradient[:6, :7], gradient_BL, rtol=3e-6, atol=1e-8)
    assert not np.any(padded_gradient[6:]) and not np.any(padded_gradient[:, 7:])
    for name, value in metrics.items():
        np.testing.assert_allclose(padded_metrics[name], value, rtol=3e-6, err_msg=name)


def test_an_offset_of_the_rewards_does_not_matter():
    logp_BL, logp_old_BL, logp_ref_BL, _, mask_BL = _inputs()
    rewards_PG = np.array([[0.0, 1.0, 1.0], [0.25, 0.0, 1.0]], np.float32)
    losses = {
        float(grpo_loss(logp_BL, logp_old_BL, logp_ref_BL, group_advantages(r).reshape(-1), mask_BL)[0])
        for r in (rewards_PG, rewards_PG + 8, rewards_PG - 2)
    }
    assert len(losses) == 1


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_values_outside_the_mask_do_not_matter(importance, bad):
    inputs = _inputs()
    mask_BL = inputs[-1]
    spoilt = [np.where(mask_BL > 0, x, np.float32(bad)) for x in inputs[:3]]
    advantages_B = np.where(mask_BL.any(axis=1), inputs[3], np.float32(bad))
    (loss, metrics), gradient_BL = _value_and_gradient((*spoilt, advantages_B, mask_BL), importance=importance)
    (want, want_metrics), want_gradient = _value_and_gradient(inputs, importance=importance)
    assert float(loss) == float(want) and metrics == want_metrics
    np.testing.assert_array_equal(gradient_BL, want_gradient)


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_batch_without_a_token_is_zero(reduction, importance):
    *arrays, mask_BL = _inputs()
    (loss, metrics), gradient_BL = _value_and_gradient(
        (*arrays, np.zeros_like(mask_BL)), reduction=reduction, importance=importance, max_length=9
    )
    assert float(loss) == 0.0 and not np.any(gradient_BL)
    assert all(float(value) == 0.0 for value in metrics.values())


@pytest.mark.parametrize("advantage", [1.0, 0.0])
@pytest.mark.parametrize("importance", IMPORTANCES)
def test_a_ratio_beyond_float32_has_a_finite_gradient_where_it_does_not_count(importance, advantage):
    inputs = (np.full((1, 3), 200.0), np.zeros((1, 3)), None, np.array([advantage]), np.ones((1, 3)))
    (loss, _), gradient_BL = _compiled(inputs, importance=importance, kl_coef=0.0)
    assert float(loss) == pytest.approx(-1.2 * advantage) and not np.any(gradient_BL)


def test_gradient_flows_through_the_policy_alone():
    inputs = [jnp.asarray(x) for x in _inputs()]
    gradients = jax.grad(lambda *x: grpo_loss(*x)[0], argnums=(1, 2, 3))(*inputs)
    assert not any(np.any(g) for g in gradients)


def test_kl_is_measured_but_not_added_without_its_coefficient():
    inputs = _inputs()
    loss, metrics = grpo_loss(*inputs, kl_coef=0.0)
    without, _ = grpo_loss(*inputs[:2], None, *inputs[3:], kl_coef=0.0)
    assert float(loss) == float(without) and float(metrics["policy/kl"]) > 0


def test_it_jits_and_takes_masks_of_any_kind():
    inputs = _inputs()
    want, _ = grpo_loss(*inputs)
    for kind in (bool, np.int32, np.float32):
        got, _ = jax.jit(grpo_loss)(*inputs[:4], inputs[4].astype(kind))
        np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kl_estimator": "k4"}, "kl_estimator is 'k4'; expected one of 'k3', 'k2', 'k1'"),
        ({"reduction": "tokens"}, "reduction is 'tokens'.*did you mean 'token'"),
        ({"importance": "seqence"}, "importance is 'seqence'.*did you mean 'sequence'"),
        ({"reduction": "constant"}, "max_length is None"),
        ({"clip_low": -0.1}, "clip_low is -0.1"),
        ({"kl_coef": float("nan")}, "kl_coef is nan"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        grpo_loss(*_inputs(), **options)


def test_bad_arrays_are_named():
    logp_BL, old, ref, advantages_B, mask_BL = _inputs()
    with pytest.raises(ValueError, match=r"logp_ref_BL is None with kl_coef 0\.001"):
        grpo_loss(logp_BL, old, None, advantages_B, mask_BL)
    with pytest.raises(AssertionError):
        grpo_loss(logp_BL, old[:, :3], ref, advantages_B, mask_BL)
    with pytest.raises(AssertionError):
        grpo_loss(logp_BL, old, ref, advantages_B[:, None], mask_BL)
