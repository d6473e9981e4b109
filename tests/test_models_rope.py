"""Rotary positions: both orders of pairs, both ways of scaling, against complex rotation and published frequencies."""

import dataclasses
import math

import numpy as np
import pytest

from r1jax.models.rope import frequencies, rotary, score_scale
from tests import reference_policy as reference
from tests import tiny_policy as tiny

# DeepSeek-V3's and Llama 3.1 8B's, whose rotated heads have 64 and 128 channels.
DEEPSEEK = dataclasses.replace(
    tiny.CONFIG, rope_theta=10_000.0, rope_scaling="yarn", rope_factor=40.0, rope_original=4096, rope_beta_fast=32.0,
    rope_beta_slow=1.0, rope_mscale=1.0, rope_mscale_all=1.0,
)  # fmt: skip
LLAMA = dataclasses.replace(
    tiny.CONFIG, rope_theta=500_000.0, rope_scaling="llama3", rope_factor=8.0, rope_original=8192, rope_low=1.0,
    rope_high=4.0,
)  # fmt: skip


def with_theta(theta: float, **changes):
    return dataclasses.replace(tiny.CONFIG, rope_theta=theta, **changes)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_rotary_turns_interleaved_pairs():
    """Pair 0 by 1 radian a position, pair 1 by 1/100: theta 1e4 and four channels."""
    got = rotary(np.float32([[1, 0, 0, 2]]), np.int32([3]), with_theta(1e4))
    want = [[np.cos(3), np.sin(3), -2 * np.sin(0.03), 2 * np.cos(0.03)]]
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_rotary_turns_halves():
    """The same pairs, a channel of the first half with one of the second."""
    got = rotary(np.float32([[1, 0, 0, 2]]), np.int32([3]), with_theta(1e4, rope_pairs="halves"))
    want = [[np.cos(3), -2 * np.sin(0.03), np.sin(3), 2 * np.cos(0.03)]]
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("pairs", ["interleaved", "halves"])
@pytest.mark.parametrize("config", [with_theta(100.0), DEEPSEEK, LLAMA], ids=["plain", "yarn", "llama3"])
def test_rotary_equals_complex_rotation(config, pairs):
    config = dataclasses.replace(config, rope_pairs=pairs)
    x, position = draw(2, 5, 3, 8), np.array([[0, 1, 2, 900, 40], [3, 0, 7, 7, 1]], np.int32)
    got = rotary(x, position[..., None], config)
    want = np.empty(x.shape)
    for r, t, h in np.ndindex(2, 5, 3):
        want[r, t, h] = reference.rope(x[r, t, h].astype(np.float64), int(position[r, t]), config)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_rotary_scores_depend_on_distance_alone():
    q, k = draw(1, 8), draw(1, 8, seed=1)

    def score(at, to):
        return float(np.sum(rotary(q, np.int32([at]), LLAMA) * rotary(k, np.int32([to]), LLAMA)))

    assert score(5, 2) == pytest.approx(score(25, 22), abs=1e-4)
    assert score(5, 2) != pytest.approx(score(5, 3), abs=1e-2)


# By transformers 5's `ROPE_INIT_FUNCTIONS`, float32, pair -> radians a position.
YARN = {0: 1.0, 10: 0.05623412877321243, 11: 0.039006926119327545, 15: 0.0083345090970397, 20: 0.0007905694073997438,
        22: 0.00017782794020604342, 23: 3.333803397254087e-05, 31: 3.3338035336782923e-06}  # fmt: skip
LLAMA3 = {0: 1.0, 28: 0.0032114461064338684, 29: 0.0021665706299245358, 30: 0.0013718936825171113,
          32: 0.0005248460220173001, 35: 9.556212171446532e-05, 63: 3.068925877869333e-07}  # fmt: skip


@pytest.mark.parametrize("config, channels, want", [(DEEPSEEK, 64, YARN), (LLAMA, 128, LLAMA3)], ids=["yarn", "llama3"])
def test_scaled_frequencies_are_the_published_ones(config, channels, want):
    """Pairs before the ramp are kept, those past it stretched by the factor, those on it in between."""
    got = frequencies(config, channels)
    np.testing.assert_allclose(got[list(want)], list(want.values()), rtol=1e-6)
    plain = frequencies(dataclasses.replace(config, rope_scaling="none"), channels)
    kept, stretched = got == plain, np.isclose(got, plain / config.rope_factor, rtol=1e-12)
    assert kept.any() and stretched.any() and not (kept | stretched).all()


def test_yarn_grows_scores_and_rotated_channels():
    """Factor 40: growth 0.1 m ln 40 + 1. Scores take that of `rope_mscale_all`, squared; cos and sin the ratio."""
    config = dataclasses.replace(DEEPSEEK, rope_mscale=1.0, rope_mscale_all=0.707)
    one, all_ = 1 + 0.1 * math.log(40), 1 + 0.0707 * math.log(40)
    assert score_scale(config, 192) == pytest.approx(192**-0.5 * all_**2)
    assert score_scale(tiny.CONFIG, 192) == pytest.approx(192**-0.5)
    x = draw(1, 8)
    np.testing.assert_allclose(rotary(x, np.int32([0]), config), x * one / all_, rtol=1e-6)
    np.testing.assert_allclose(rotary(x, np.int32([0]), DEEPSEEK), x, rtol=1e-6)
