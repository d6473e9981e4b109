"""The schedule by hand, what decays, and what clipping does."""

import dataclasses

import jax
import numpy as np
import pytest

from r1jax.config import OptimizerConfig
from r1jax.training.optimizer import decayed, make_optimizer, schedule
from tests import tiny_policy as tiny

CONFIG = OptimizerConfig(
    lr=0.1,
    warmup_steps=4,
    schedule="constant",
    final_scale=0.2,
    beta1=0.9,
    beta2=0.99,
    eps=1e-8,
    weight_decay=0.0,
    clip_norm=1e9,
)
PARAMS = {"gate_DF": np.float32([[2.0, -4.0]]), "norm": {"scale_X": np.float32([8.0])}}
GRADS = {"gate_DF": np.float32([[3.0, -0.01]]), "norm": {"scale_X": np.float32([4.0])}}


def rates(config: OptimizerConfig, updates: int) -> list[float]:
    rate = schedule(config, updates)
    return [float(rate(count)) for count in range(updates)]


def first_update(config: OptimizerConfig):
    optimizer = make_optimizer(config, 100)
    return optimizer.update(GRADS, optimizer.init(PARAMS), PARAMS)[0]


def test_warmup_starts_above_zero_and_ends_at_the_peak():
    assert rates(CONFIG, 6) == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])


def test_cosine_ends_at_the_final_scale_in_the_last_update():
    """Two of warmup, then four of cosine from 0.1 to 0.02: 0.06 + 0.04 cos(pi k / 4)."""
    config = dataclasses.replace(CONFIG, warmup_steps=2, schedule="cosine")
    half = 0.04 * np.sqrt(0.5)
    assert rates(config, 6) == pytest.approx([0.05, 0.1, 0.06 + half, 0.06, 0.06 - half, 0.02])


def test_no_warmup():
    assert rates(dataclasses.replace(CONFIG, warmup_steps=0), 3) == pytest.approx([0.1] * 3)


def test_the_first_update_moves_by_lr_over_warmup():
    """Adam's first step is the rate, against the gradient's sign, whatever its size."""
    got = first_update(CONFIG)
    np.testing.assert_allclose(got["gate_DF"], [[-0.025, 0.025]], rtol=1e-4)
    np.testing.assert_allclose(got["norm"]["scale_X"], [-0.025], rtol=1e-4)


def test_weight_decay_pulls_matrices_and_leaves_norms():
    """By rate * decay * weight, beside the gradient's step."""
    got = first_update(dataclasses.replace(CONFIG, weight_decay=0.5))
    np.testing.assert_allclose(got["gate_DF"], [[-0.025 - 0.025, 0.025 + 0.05]], rtol=1e-4)
    np.testing.assert_allclose(got["norm"]["scale_X"], [-0.025], rtol=1e-4)


def test_the_decay_mask_of_the_policy():
    mask = decayed(tiny.variables()["params"])
    for path, decays in jax.tree_util.tree_leaves_with_path(mask):
        assert decays == (path[-1].key != "scale_X"), path


def test_clipping_is_by_the_global_norm():
    """The norm is 5.00001; clipped to 1, and with eps 1 the step is rate * g / (|g| + 1)."""
    got = first_update(dataclasses.replace(CONFIG, clip_norm=1.0, eps=1.0))
    norm = np.sqrt(9 + 0.0001 + 16)
    for grad, moved in ((3.0, got["gate_DF"][0, 0]), (4.0, got["norm"]["scale_X"][0])):
        assert float(moved) == pytest.approx(-0.025 * (grad / norm) / (grad / norm + 1), rel=1e-4)
