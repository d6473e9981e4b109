"""The scalar head: what it keeps of a policy, and that a score is of one reply alone, read at its end."""

import dataclasses

import jax
import numpy as np
import tiny_policy

from r1jax.mesh import activation_sharding, make_mesh, state_shardings
from r1jax.models.policy import forward
from r1jax.models.scalar import abstract_scalar, scalar_variables, scores
from r1jax.stages.scoring import pack_replies

CONFIG = tiny_policy.CONFIG
SCORES = tiny_policy.jit(scores, static_argnums=0)
PROMPTS = tiny_policy.draw_tokens(0, 5, 7)
REPLIES = [[*tokens, 3, 3] for tokens in tiny_policy.draw_tokens(1, 4, 9, 2, 0, low=4)]  # 3 ends the text


def variables(seed: int = 0) -> dict:
    """A scalar model in which nothing is 0."""
    made = scalar_variables(CONFIG, tiny_policy.variables(CONFIG, seed))
    draw = np.random.default_rng(seed)
    head = {"score_D": draw.normal(size=CONFIG.width).astype(np.float32), "score_bias": np.float32(0.25)}
    return {**made, "params": {**made["params"], **head}}


def score(weights, groups, row_length=64, multiple=1):
    packed, place_B = pack_replies(groups, row_length=row_length, row_multiple=multiple, pad_id=0)
    return np.asarray(SCORES(CONFIG, weights, packed, place_B)[0])


GROUPS = [(PROMPTS[0], REPLIES[:3]), (PROMPTS[1], REPLIES[3:])]


def test_a_score_is_the_head_on_the_last_hidden_state():
    """Each reply alone in its row, through the policy as it is: hidden state at its end, times the head."""
    weights = variables()
    got = score(weights, GROUPS)
    alone = [prompt + reply[:-1] for prompt, replies in GROUPS for reply in replies]
    hidden, _ = tiny_policy.jit(forward, static_argnums=0)(
        CONFIG, tiny_policy.variables(CONFIG), tiny_policy.rows(alone, 24)
    )
    last = np.stack([np.asarray(hidden)[b, len(tokens) - 1] for b, tokens in enumerate(alone)]).astype(np.float64)
    want = last @ np.float64(weights["params"]["score_D"]) + 0.25
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
    assert len(set(np.round(got, 3))) == 4


def test_neither_packing_nor_neighbours_change_a_score():
    weights = variables()
    together = score(weights, GROUPS)
    apart = np.concatenate([score(weights, [(p, [r])], 32, multiple=2) for p, rs in GROUPS for r in rs])
    np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-5)
    cut = score(weights, GROUPS, row_length=20)  # a group over several rows, its prompt repeated
    np.testing.assert_allclose(together, cut, rtol=1e-5, atol=1e-5)


def test_a_row_may_be_split_over_devices():
    """Of a policy with a layer for multi-token prediction, which a scalar model declares and does not have."""
    config = dataclasses.replace(CONFIG, mtp_layers=1)
    made = scalar_variables(config, tiny_policy.variables(config))
    score_D = np.random.default_rng(0).normal(size=config.width).astype(np.float32)
    weights = {**made, "params": {**made["params"], "score_D": score_D}}
    packed, place_B = pack_replies(GROUPS, row_length=64, row_multiple=4, pad_id=0)
    want = np.asarray(SCORES(config, weights, packed, place_B)[0])
    mesh = make_mesh(dataclasses.replace(tiny_policy.ONE_DEVICE, fsdp=2, expert=2, context=2))
    placed = jax.device_put(weights, state_shardings(mesh, weights))
    rows = jax.device_put(packed, activation_sharding(mesh, "RT"))
    with jax.set_mesh(mesh):
        got = np.asarray(SCORES(config, placed, rows, place_B)[0])
    assert np.std(want) > 0.1
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_it_starts_at_zero_and_without_the_token_head():
    policy = tiny_policy.variables(CONFIG)
    made = scalar_variables(CONFIG, policy)
    assert score(made, GROUPS).tolist() == [0.0] * 4
    assert "head_DV" not in made["params"] and made["params"].keys() - policy["params"].keys() == {
        "score_D",
        "score_bias",
    }
    shapes = jax.tree.map(lambda x: (x.shape, np.dtype(x.dtype)), abstract_scalar(CONFIG))
    assert shapes == jax.tree.map(lambda x: (x.shape, np.dtype(x.dtype)), made)


def test_a_place_outside_of_the_rows_scores_the_bias():
    packed, _ = pack_replies(GROUPS, row_length=64, row_multiple=1, pad_id=0)
    got, _ = SCORES(CONFIG, variables(), packed, np.array([-1, 10_000]))
    np.testing.assert_allclose(got, [0.25, 0.25])


def test_tied_embeddings_stay():
    config = dataclasses.replace(CONFIG, tied=True)
    made = scalar_variables(config, tiny_policy.variables(config))
    packed, place_B = pack_replies(GROUPS, row_length=64, row_multiple=1, pad_id=0)
    assert np.asarray(SCORES(config, made, packed, place_B)[0]).tolist() == [0.0] * 4
