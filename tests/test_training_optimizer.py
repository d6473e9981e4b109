"""The schedule by hand, what decays, and what clipping does."""

import dataclasses

import jax
import numpy as np
import pytest

from r1jax.config import OptimizerConfig
from r1jax.training.optimizer import decayed, make_optimizer, matrices, schedule
from tests import tiny_policy as tiny

CONFIG = OptimizerConfig(
    rule="adamw",
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


def test_muon_turns_each_matrix_into_one_with_even_singular_values():
    """Against float64: the update is -rate * 0.2 * sqrt(max side) * U S V^T with U, V the gradient's and S near 1.

    Newton-Schulz with Muon's coefficients brings singular values to about 0.7..1.2, not to 1.
    """
    rng = np.random.default_rng(0)
    shapes = {"gate_EDF": (2, 3, 8, 6), "q_DHC": (8, 2, 3), "out_HCD": (2, 3, 8), "embed_VD": (10, 8), "scale_X": (8,)}
    grads = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    params = {name: np.zeros_like(grad) for name, grad in grads.items()}
    optimizer = make_optimizer(dataclasses.replace(CONFIG, rule="muon"), 100)
    got = optimizer.update(grads, optimizer.init(params), params)[0]
    flat = {"gate_EDF": (6, 8, 6), "q_DHC": (1, 8, 6), "out_HCD": (1, 6, 8)}
    for name, shape in flat.items():
        for grad, moved in zip(grads[name].reshape(shape), np.asarray(got[name]).reshape(shape), strict=True):
            u, _, vt = np.linalg.svd(grad.astype(np.float64), full_matrices=False)
            turned = u.T @ moved @ vt.T / (-0.025 * 0.2 * np.sqrt(8))
            np.testing.assert_allclose(turned, np.diag(np.diag(turned)), atol=0.02, err_msg=name)
            assert 0.6 < np.diag(turned).min() <= np.diag(turned).max() < 1.3, name
    first = 0.025 * (1 + 0.9 * 0.1 / 0.19)  # Adam's first step with Nesterov's momentum
    for name in ("embed_VD", "scale_X"):
        np.testing.assert_allclose(got[name], -first * np.sign(grads[name]), rtol=1e-3, err_msg=name)


def test_which_parameters_of_the_policy_are_matrices():
    """Input and output axes of every parameter, its scanned N left out."""
    got = {
        str(path[-1].key): axes and (axes.reduction_axis, axes.output_axis)
        for path, axes in jax.tree_util.tree_leaves_with_path(
            matrices(tiny.variables()["params"]), is_leaf=lambda x: x is None or hasattr(x, "output_axis")
        )
    }
    expected = {
        "embed_VD": None, "head_DV": None, "router_DE": None, "scale_X": None,
        "q_down_DQ": ((1,), (2,)), "q_up_QHC": ((1,), (2, 3)), "q_DHC": ((1,), (2, 3)), "kv_down_DW": ((1,), (2,)),
        "k_up_WHC": ((1,), (2, 3)), "v_up_WHC": ((1,), (2, 3)), "out_HCD": ((1, 2), (3,)),
        "gate_EDF": ((2,), (3,)), "up_EDF": ((2,), (3,)), "down_EFD": ((2,), (3,)),
        "gate_DF": ((1,), (2,)), "up_DF": ((1,), (2,)), "down_FD": ((1,), (2,)),
    }  # fmt: skip
    assert got == {name: expected[name] for name in got}
    assert {"out_HCD", "gate_EDF", "embed_VD", "scale_X"} <= set(got)
