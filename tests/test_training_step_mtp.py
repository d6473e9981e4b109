"""Multi-token prediction in the update: what it learns from, how much it weighs, that it is left alone otherwise."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r1jax.config import BatchConfig, RouterConfig
from r1jax.data.packing import document, write_rows
from r1jax.training.state import new_state
from r1jax.training.step import after_next, sft_step
from r1jax.types import Packed
from tests import reference_policy
from tests import tiny_policy as tiny

CONFIG = dataclasses.replace(tiny.CONFIG, layers=1, dense_layers=0, mtp_layers=1)
ROUTER = RouterConfig(bias_rate=0.01, balance_coef=0.0)
DOCUMENTS, PROMPTS = tiny.draw_tokens(3, 9, 7, 3, 2), [0, 3, 1, 0]  # tokens, of which so many are given


def packed() -> Packed:
    """Two rows: documents of 9 and 7 tokens, and of 3 and 2 and padding."""
    pieces = [document(tokens, n) for tokens, n in zip(DOCUMENTS, PROMPTS, strict=True)]
    return write_rows([pieces[:2], pieces[2:]], 16, 0)


@functools.cache
def compiled(coef: float, micro_rows: int):
    batch = BatchConfig(row_length=16, rows=2, micro_rows=micro_rows, logit_chunk=8)
    # Plain gradient descent, so that a step is the gradient, and weight decay, which wears down what has none.
    optimizer = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(1.0))
    step = tiny.jit(functools.partial(sft_step, CONFIG, batch, ROUTER, coef, optimizer))
    weights = jax.tree.map(jnp.asarray, tiny.variables(CONFIG))
    return jax.device_get(step(new_state(weights, optimizer, False), packed()))


def moved(coef: float, micro_rows: int = 2):
    """What one step changes."""
    return jax.tree.map(np.subtract, compiled(coef, micro_rows)[0].params, tiny.variables(CONFIG))


def test_a_position_counts_if_next_and_next_after_are_of_its_own():
    """Rows of inputs: a group's prefix (2), its branches (2 and 2), a document of 3 inputs, padding."""
    ids = {
        "segment": [1, 1, 1, 1, 1, 1, 2, 2, 2, 0],
        "branch": [0, 0, 1, 1, 2, 2, 0, 0, 0, 0],
        "target": [11, 12, 13, 14, 15, 16, 17, 18, 19, 0],
        "weight": [0, 0, 1, 1, 1, 1, 0, 1, 1, 0],
    }
    segment, branch, target, weight = (np.asarray([x], np.int32) for x in ids.values())
    rows = Packed(target - 1, segment, branch, branch, target, weight.astype(np.float32))
    target_RT, weight_RT = after_next(rows)
    np.testing.assert_array_equal(weight_RT, [[0, 0, 1, 0, 1, 0, 1, 1, 0, 0]])
    np.testing.assert_array_equal(np.asarray(target_RT)[weight_RT > 0], [14, 16, 18, 19])


def test_the_loss_is_the_cross_entropy_of_the_token_after_next():
    logp = []
    for tokens, given in zip(DOCUMENTS, PROMPTS, strict=True):
        after_LV = reference_policy.forward(CONFIG, tiny.variables(CONFIG), tokens)["logits_after"]
        logp_LV = reference_policy.log_softmax(after_LV)
        logp += [logp_LV[i, tokens[i + 2]] for i in range(len(tokens) - 2) if i + 2 >= given]
    metrics, without = compiled(0.5, 2)[1], compiled(0.0, 2)[1]
    assert float(metrics["mtp/loss"]) == pytest.approx(-np.mean(logp), rel=1e-4)
    assert float(metrics["loss"]) == pytest.approx(float(without["loss"]), rel=1e-5), "the next token's, as ever"
    assert "mtp/loss" not in without


def test_its_gradient_is_weighed_by_the_coefficient():
    """It reaches its own layer, the embedding and head it shares, and the layers below.

    Twice the coefficient is taken in two micro-batches: together they weigh as the whole batch does.
    """
    none, half, whole = moved(0.0)["params"], moved(0.5)["params"], moved(1.0, micro_rows=1)["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(whole):
        at = functools.partial(functools.reduce, lambda tree, key: tree[key.key], path)
        if path[0].key == "mtp":
            # Its own layer moves by weight decay besides, from the first coefficient on.
            decay = -0.1 * at(tiny.variables(CONFIG)["params"])
            np.testing.assert_allclose(leaf - decay, 2 * (at(half) - decay), rtol=1e-3, atol=1e-5)
        else:
            np.testing.assert_allclose(leaf - at(none), 2 * (at(half) - at(none)), rtol=1e-3, atol=1e-5)
        assert np.abs(leaf - at(none)).max() > 1e-4, jax.tree_util.keystr(path)


def test_without_a_coefficient_its_weights_and_bias_stay_as_they_are():
    change = moved(0.0)
    for leaf in jax.tree.leaves((change["params"]["mtp"], change["router"]["mtp"])):
        np.testing.assert_array_equal(leaf, 0.0)
    assert np.abs(change["router"]["moe"]["moe"]["bias_E"]).max() > 0


def test_its_load_bias_moves_by_its_own_load():
    change = moved(0.5)["router"]
    assert change["mtp"]["block"]["moe"]["bias_E"].shape == (8,)
    np.testing.assert_allclose(np.abs(change["mtp"]["block"]["moe"]["bias_E"]), 0.01, atol=1e-6)
    assert (np.sign(change["mtp"]["block"]["moe"]["bias_E"]) != np.sign(change["moe"]["moe"]["bias_E"][0])).any()
    np.testing.assert_allclose(change["moe"]["moe"]["bias_E"], moved(0.0)["router"]["moe"]["moe"]["bias_E"])
