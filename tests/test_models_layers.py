"""RMSNorm, flat projections and the gated feed-forward, against NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.models.layers import GatedFFN, RMSNorm, project
from tests import reference_policy as reference
from tests import tiny_policy as tiny


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_rms_norm():
    config = dataclasses.replace(tiny.CONFIG, norm_eps=0.5)  # large enough to show
    x, scale = draw(2, 3, 16), draw(16, seed=1)
    got = RMSNorm(config).apply({"params": {"scale_X": scale}}, x)
    want = [[reference.rms_norm(v.astype(np.float64), scale, 0.5) for v in row] for row in x]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_rms_norm_by_hand():
    got = RMSNorm(tiny.CONFIG).apply({"params": {"scale_X": np.float32([1, 10])}}, np.float32([[3, 4]]))
    np.testing.assert_allclose(got, [[3 / 12.5**0.5, 40 / 12.5**0.5]], rtol=1e-5)


def test_rms_norm_squares_in_float32():
    """In bfloat16, 256 squares of 1 and their sum would stop growing at 256, and 1 + eps be lost."""
    x = jnp.ones((1, 1000), jnp.bfloat16)
    got = RMSNorm(tiny.CONFIG).apply({"params": {"scale_X": np.ones(1000, np.float32)}}, x)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(np.float32), 1.0, rtol=1e-6)


def test_project_contracts_the_trailing_axes():
    x, w = draw(2, 3, 4, 5), draw(4, 5, 6, 7, seed=1)
    np.testing.assert_allclose(project(x, w, axes=2), np.einsum("rtab,abcd->rtcd", x, w), rtol=1e-4, atol=1e-5)
    w = draw(5, 6, seed=2)
    np.testing.assert_allclose(project(x, w), np.einsum("rtab,bc->rtac", x, w), rtol=1e-4, atol=1e-5)


def test_gated_ffn():
    x = draw(2, 3, 16)
    params = {"gate_DF": draw(16, 7, seed=1), "up_DF": draw(16, 7, seed=2), "down_FD": draw(7, 16, seed=3)}
    got = jax.jit(GatedFFN(tiny.CONFIG, 7).apply)({"params": params}, x)
    want = reference.gated(x.astype(np.float64), *(params[name] for name in ("gate_DF", "up_DF", "down_FD")))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
