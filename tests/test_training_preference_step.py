"""The reward model's update: the same however it is cut, and it learns what it is shown."""

import functools

import jax
import numpy as np
import optax
import pytest
import tiny_policy
from test_models_scalar import CONFIG, SCORES, variables

from r1jax.config import ComparisonBatchConfig, RouterConfig
from r1jax.losses.preference import bradley_terry
from r1jax.stages.scoring import pack_replies
from r1jax.training.preference_step import Comparisons, preference_step
from r1jax.training.state import new_state

ROUTER = RouterConfig(bias_rate=0.01, balance_coef=0.0)
OPTIMIZER = optax.adamw(1e-2)


def comparisons(paired: bool, row_multiple: int = 4, row_length: int = 48) -> Comparisons:
    """Eight questions; a good reply ends in token 7, a bad one in token 9."""
    prompts = tiny_policy.draw_tokens(5, *[4] * 8, low=10)
    bodies = tiny_policy.draw_tokens(6, *[3, 5] * 8, low=10)
    replies = [[*body, 7 if b % 2 == 0 else 9, 3, 3] for b, body in enumerate(bodies)]
    groups = [(prompt, replies[2 * p : 2 * p + 2]) for p, prompt in enumerate(prompts)]
    packed, place_B = pack_replies(groups, row_length=row_length, row_multiple=row_multiple, pad_id=0)
    return Comparisons(packed, place_B, None if paired else np.array([1.0, 0.0] * 8, np.float32))


@functools.cache
def step(micro_rows: int, rows: int = 4, row_length: int = 48):
    batch = ComparisonBatchConfig(examples=8, row_length=row_length, rows=rows, micro_rows=micro_rows)
    return tiny_policy.jit(functools.partial(preference_step, CONFIG, batch, ROUTER, OPTIMIZER))


def updated(given: Comparisons, micro_rows: int):
    state, metrics = step(micro_rows, given.packed.tokens_RT.shape[0])(new_state(variables(), OPTIMIZER, False), given)
    return jax.device_get(state), {name: float(value) for name, value in metrics.items()}


@pytest.mark.parametrize("paired", [True, False])
def test_micro_batches_do_not_matter(paired):
    given = comparisons(paired)
    (one, first), (other, second) = updated(given, given.packed.tokens_RT.shape[0]), updated(given, 1)
    for name in ("loss", "preference/accuracy", "preference/margin", "grad_norm", "moe/max_load"):
        assert first[name] == pytest.approx(second[name], rel=2e-5), name
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), one.params, other.params)
    assert int(one.step) == 1


def test_figures_are_those_of_the_scores():
    given = comparisons(True)
    score_B = np.asarray(SCORES(CONFIG, variables(), given.packed, given.place_B)[0])
    loss, metrics = bradley_terry(score_B[0::2], score_B[1::2], np.ones(8))
    _, got = updated(given, 1)
    assert got["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert got["preference/accuracy"] == float(metrics["preference/accuracy"])


@pytest.mark.parametrize("paired", [True, False])
def test_it_learns(paired):
    given = comparisons(paired)
    state, run = new_state(variables(), OPTIMIZER, False), step(4, given.packed.tokens_RT.shape[0])
    losses = []
    for _ in range(25):
        state, metrics = run(state, given)
        losses.append(float(metrics["loss"]))
    assert float(metrics["preference/accuracy"]) == 1.0 and losses[-1] < 0.3 < losses[0]
