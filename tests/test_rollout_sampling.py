"""Sampling: the kept sets to the token, the distribution to a chi-square, the log-probability of the whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.rollout import sampling
from r1jax.rollout.sampling import sample
from tests import tiny_policy as tiny
from tests.reference_policy import log_softmax

DRAWS = 20_000


@functools.cache
def compiled(top_k: int = 0, top_p: float = 1.0):
    return tiny.jit(functools.partial(sample, top_k=top_k, top_p=top_p))


def keys(count: int, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), count)


def draws(logits, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> np.ndarray:
    """Tokens drawn from one row of logits with many keys."""
    rows = np.tile(np.float32(logits), (DRAWS, 1))
    return np.asarray(compiled(top_k, top_p)(rows, keys(DRAWS), temperature=temperature)[0])


def keep_best(p: np.ndarray, top_k: int, top_p: float) -> np.ndarray:
    """The kept tokens of one row by sorting; equals of the last one kept stay in."""
    kept = np.ones(len(p), bool)
    if top_k:
        kept = p >= np.sort(p)[::-1][min(top_k, len(p)) - 1]
    if top_p < 1:
        order = np.argsort(-p, kind="stable")
        mass = np.cumsum(np.where(kept, p, 0.0)[order])
        last = order[np.argmax(mass >= top_p * mass[-1])]
        kept &= p >= p[last]
    return kept


@pytest.mark.parametrize("top_k, top_p", [(1, 1.0), (3, 1.0), (50, 1.0), (0, 0.5), (0, 0.95), (0, 1e-6), (7, 0.625)])
def test_top_k_and_top_p_keep_exactly_the_right_set(top_k, top_p):
    """Against a sort, on 200 rows of 40; every other row has many equal probabilities, in 64ths, so that a mass may
    meet the threshold exactly."""
    draw = np.random.default_rng(0)
    p = draw.dirichlet(np.full(40, 0.3), size=200).astype(np.float32)
    p[::2] = np.round(p[::2] * 32) / 32 + 1 / 64
    kept = jnp.asarray(p)
    if top_k:
        kept = sampling._keep(kept, jnp.ones_like(kept), min(top_k, 40))
    if top_p < 1:
        kept = sampling._keep(kept, kept, top_p * kept.sum(-1, keepdims=True))
    want = np.array([keep_best(row.astype(np.float64), top_k, top_p) for row in p])
    np.testing.assert_array_equal(kept, np.where(want, p, 0.0))


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("top_k, top_p", [(0, 1.0), (3, 1.0), (0, 0.7)])
def test_tokens_follow_the_distribution(temperature, top_k, top_p):
    """Pearson's chi-square of 20,000 draws stays below the 99.99% point of at most 7 degrees of freedom (29.9)."""
    logits = np.array([0.3, -1.0, 1.2, 0.0, -0.4, 0.9, -2.0, 0.5])
    p = np.exp(log_softmax(logits, temperature))
    p = np.where(keep_best(p, top_k, top_p), p, 0.0)
    expected = DRAWS * p / p.sum()
    count = np.bincount(draws(logits, temperature=temperature, top_k=top_k, top_p=top_p), minlength=8)
    assert (count[expected == 0] == 0).all(), "a token that was cut off is drawn"
    inside = expected > 0
    assert inside.sum() > 1
    assert ((count - expected)[inside] ** 2 / expected[inside]).sum() < 29.9


@pytest.mark.parametrize("uniform", [0.0, 0.5, np.nextafter(np.float32(1), np.float32(0))])
def test_no_token_of_probability_zero(uniform, monkeypatch):
    """Not even at the two ends of the unit interval, where rounding would let one slip."""
    monkeypatch.setattr(sampling.jax.random, "uniform", lambda key: key)
    logits = np.full((1, 9), -np.inf, np.float32)
    logits[0, [2, 3, 6]] = [0.1, -80.0, 0.3]
    (token,), (logp,) = sample(logits, np.float32([uniform]), temperature=1.0, top_k=0, top_p=1.0)
    assert int(token) in (2, 6) and np.isfinite(logp)


def test_a_rounding_of_the_cumulative_sum_lets_no_impossible_token_in(monkeypatch):
    """A parallel sum in float32 may rise by a rounding at a token of probability 0: numbers are aimed at such rises."""
    draw = np.random.default_rng(0)
    logits = np.where(draw.random((256, 1000)) < 0.5, -np.inf, 2 * draw.normal(size=(256, 1000))).astype(np.float32)
    p = np.asarray(jnp.exp(jax.nn.log_softmax(jnp.asarray(logits), axis=-1)))
    cumulative = np.asarray(jnp.cumsum(p, axis=-1))
    before = np.maximum.accumulate(cumulative, axis=1)[:, :-1]
    rises = (p[:, 1:] == 0) & (cumulative[:, 1:] > before)
    rows = np.flatnonzero(rises.any(axis=1))
    at = rises[rows].argmax(axis=1)
    uniform = before[rows, at] / cumulative[rows, -1]
    aimed = (cumulative[rows] > (uniform * cumulative[rows, -1])[:, None]).argmax(axis=1)
    assert (p[rows, aimed] == 0).sum() > 5, "the case should hold rises that a number falls on"
    monkeypatch.setattr(sampling.jax.random, "uniform", lambda key: key)
    token, logp = sample(logits[rows], uniform, temperature=1.0, top_k=0, top_p=1.0)
    assert (p[rows, np.asarray(token)] > 0).all() and np.isfinite(logp).all()


def test_a_row_on_which_nothing_stands_above_takes_its_best_among_rows_that_draw(monkeypatch):
    """A number that is none stands for a sum that dips: it is above nothing."""
    monkeypatch.setattr(sampling.jax.random, "uniform", lambda key: key)
    logits = np.float32([[0.0, 2.0, 1.0]] * 2)
    token, _ = sample(logits, np.float32([0.0, np.nan]), temperature=1.0, top_k=0, top_p=1.0)
    assert token.tolist() == [0, 1]


def test_logp_is_that_of_the_whole_tempered_distribution():
    """Whatever top-k and top-p cut away."""
    logits = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32) * 3
    for top_k, top_p in ((0, 1.0), (3, 1.0), (0, 0.7)):
        token, logp = compiled(top_k, top_p)(logits, keys(64), temperature=0.7)
        want = log_softmax(logits.astype(np.float64), 0.7)[np.arange(64), np.asarray(token)]
        np.testing.assert_allclose(logp, want, rtol=1e-5, atol=1e-5)


def test_temperature_zero_takes_the_best_and_scores_it_at_one():
    logits = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32) * 3
    token, logp = compiled()(logits, keys(64), temperature=0.0)
    np.testing.assert_array_equal(token, logits.argmax(-1))
    np.testing.assert_allclose(logp, log_softmax(logits.astype(np.float64)).max(-1), rtol=1e-5, atol=1e-5)


def test_a_row_depends_on_itself_alone():
    logits = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
    token, _ = compiled()(logits, keys(64), temperature=1.0)
    turned, _ = compiled()(logits[::-1], keys(64)[::-1], temperature=1.0)
    np.testing.assert_array_equal(token, turned[::-1])
    changed = np.where(np.arange(64)[:, None] == 5, logits, 0.0)
    assert int(compiled()(changed, keys(64), temperature=1.0)[0][5]) == int(token[5])
