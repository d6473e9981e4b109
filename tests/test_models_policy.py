"""The policy: equal to the float64 reference, causal, blind to other segments and branches, whatever the remat."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models.policy import PolicyModel, abstract_variables, init_variables, parameter_count
from r1jax.types import Packed
from tests import reference_policy as reference
from tests import tiny_policy as tiny

SHAPES = {
    "grouped experts": tiny.CONFIG,
    "low-rank queries, ungrouped experts, none shared": dataclasses.replace(
        tiny.CONFIG, q_lora_rank=6, expert_groups=1, kept_groups=1, active_experts=3, shared_experts=0, dense_layers=0
    ),
}


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_forward_equals_the_float64_reference(config):
    weights = tiny.variables(config)
    sequences = tiny.draw_tokens(1, 12, 7)
    logits_RTV, aux = tiny.forward(config)(weights, tiny.rows(sequences, 12))
    expected = [reference.forward(config, weights, tokens) for tokens in sequences]
    for row, tokens, want in zip(logits_RTV, sequences, expected, strict=True):
        np.testing.assert_allclose(row[: len(tokens)], want["logits"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(aux.load_NE, sum(want["load"] for want in expected))
    np.testing.assert_allclose(aux.balance, sum(want["balance"] for want in expected), rtol=1e-5)
    assert int(aux.dropped) == 0


def test_the_load_bias_matters_in_the_reference_case():
    """The case above would not see a bias that is ignored, if no token's experts depended on it."""
    weights = tiny.variables()
    (tokens,) = tiny.draw_tokens(1, 12)
    unbiased = {"params": weights["params"], "router": jax.tree.map(np.zeros_like, weights["router"])}
    with_bias = reference.forward(tiny.CONFIG, weights, tokens)["load"]
    assert (with_bias != reference.forward(tiny.CONFIG, unbiased, tokens)["load"]).any()


def test_a_token_feels_exactly_what_it_may_see():
    """d logits[t] / d embedding[s] is non-zero where s is visible from t, and exactly zero elsewhere.

    One row holds a group (prefix of 3, branches of 3 and 2), a document of 3, and padding; every token has an id of
    its own, so that the embedding's rows tell positions apart.
    """
    segment = [1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 0]
    branch = [0, 0, 0, 1, 1, 1, 2, 2, 0, 0, 0, 0]
    position = [0, 1, 2, 3, 4, 5, 3, 4, 0, 1, 2, 0]
    count = len(segment)
    tokens = np.arange(10, 10 + count)
    packed = Packed(*(np.asarray([x], np.int32) for x in (tokens, segment, branch, position, tokens, tokens)))
    weights = tiny.variables()
    mix_V = np.random.default_rng(3).normal(size=tiny.CONFIG.vocab_size).astype(np.float32)

    def score(embed_VD, t):
        changed = {"params": {**weights["params"], "embed_VD": embed_VD}, "router": weights["router"]}
        return tiny.apply(tiny.CONFIG, changed, packed)[0][0, t] @ mix_V

    gradient = tiny.jit(jax.grad(score))
    felt_TVD = np.stack([gradient(weights["params"]["embed_VD"], t) for t in range(count)])
    felt = np.abs(felt_TVD[:, tokens]).max(axis=-1) > 0
    expected = np.zeros((count, count), bool)
    for t in range(count):
        for s in range(t + 1):
            expected[t, s] = segment[s] == segment[t] and branch[s] in (0, branch[t])
    np.testing.assert_array_equal(felt, expected)


def test_no_gradient_reaches_the_load_bias():
    weights = tiny.variables()
    packed = tiny.rows(tiny.draw_tokens(1, 12, 7), 12)

    def loss(router):
        logits, aux = tiny.apply(tiny.CONFIG, {**weights, "router": router}, packed)
        return jnp.sum(logits**2) + aux.balance

    for leaf in jax.tree.leaves(tiny.jit(jax.grad(loss))(weights["router"])):
        np.testing.assert_array_equal(leaf, 0.0)


def test_padding_changes_nothing():
    """Other padding tokens, more of them, and an empty row leave the real tokens' numbers as they are."""
    weights = tiny.variables()
    sequences = tiny.draw_tokens(1, 12, 7)
    run = tiny.forward()
    logits, aux = run(weights, tiny.rows(sequences, 12))
    other, other_aux = run(weights, tiny.rows(sequences, 12, pad=5))
    longer, longer_aux = run(weights, tiny.rows([*sequences, []], 17))
    for row, tokens in enumerate(sequences):
        n = len(tokens)
        np.testing.assert_array_equal(logits[row, :n], other[row, :n])
        np.testing.assert_allclose(logits[row, :n], longer[row, :n], rtol=1e-5, atol=1e-6)
    for changed in (other_aux, longer_aux):
        np.testing.assert_array_equal(aux.load_NE, changed.load_NE)
        np.testing.assert_allclose(aux.balance, changed.balance, rtol=1e-6)
    assert int(aux.load_NE.sum()) == (12 + 7) * tiny.CONFIG.active_experts * 2


@functools.cache
def gradient(remat: str):
    """(whether anything is rematerialised, the gradient of a scalar of the hidden states) of a policy of one layer."""
    config = dataclasses.replace(tiny.CONFIG, layers=1, dense_layers=0, remat=remat)
    weights, packed = tiny.variables(config), tiny.rows(tiny.draw_tokens(1, 8, 5), 8)

    def loss(params):
        hidden, aux = PolicyModel(config).apply({**weights, "params": params}, packed)
        return jnp.sum(jnp.sin(hidden)) + aux.balance

    traced = tiny.jit(jax.grad(loss)).trace(weights["params"])
    return "remat" in str(traced.jaxpr), traced.lower().compile()(weights["params"])


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_rematerialisation_changes_no_gradient(remat):
    assert (gradient("none")[0], gradient(remat)[0]) == (False, True), "the policy is not applied"
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, gradient("none")[1], gradient(remat)[1])


def test_bfloat16_compute_keeps_logits_and_loads_in_their_dtypes():
    config = dataclasses.replace(tiny.CONFIG, dtype="bfloat16")
    weights = tiny.variables(config)
    packed = tiny.rows(tiny.draw_tokens(1, 12, 7), 12)
    hidden, _ = jax.eval_shape(PolicyModel(config).apply, weights, packed)
    logits, aux = jax.eval_shape(tiny.forward(config), weights, packed)
    assert (hidden.dtype, logits.dtype) == (jnp.bfloat16, jnp.float32)
    assert (aux.load_NE.dtype, aux.balance.dtype) == (jnp.int32, jnp.float32)


def test_parameters_are_counted():
    """For the tiny shape, each matrix spelt out; a token passes 2 of 8 routed experts in each of 2 layers."""
    attention = 16 * 2 * 8 + 16 * 12 + 8 + 8 * 2 * 4 + 8 * 2 * 6 + 2 * 6 * 16
    norms = 2 * 16
    dense = 3 * 16 * 24
    expert = 3 * 16 * 12
    router = 16 * 8
    outside = 2 * 32 * 16 + 16
    total = outside + 3 * (attention + norms) + dense + 2 * (9 * expert + router)
    assert parameter_count(tiny.CONFIG) == (total, total - 2 * 6 * expert)


def test_a_dense_policy_has_no_router():
    dense = dataclasses.replace(tiny.CONFIG, dense_layers=3)
    abstract = abstract_variables(dense)
    assert abstract["router"] == {} and "moe" not in abstract["params"]
    assert parameter_count(dense)[0] == parameter_count(dense)[1]
    weights = tiny.variables(dense)
    sequences = tiny.draw_tokens(1, 6)
    logits, aux = tiny.forward(dense)(weights, tiny.rows(sequences, 6))
    want = reference.forward(dense, weights, sequences[0])["logits"]
    np.testing.assert_allclose(logits[0], want, rtol=1e-4, atol=1e-5)
    assert aux.load_NE.shape[0] == 0 and int(aux.dropped) == 0


def test_fresh_weights_have_the_configured_scale():
    """Matrices N(0, init_scale^2), norms 1, biases 0, layers and experts all different, the same for the same key."""
    config = dataclasses.replace(tiny.CONFIG, dense_layers=0)
    make = tiny.jit(lambda seed: init_variables(config, jax.random.key(seed)))
    weights, again, other = make(0), make(0), make(1)
    for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
        values, name = np.asarray(leaf), path[-1].key
        if name in ("scale_X", "bias_E"):
            np.testing.assert_array_equal(values, 1.0 if name == "scale_X" else 0.0)
            continue
        assert values.std() == pytest.approx(0.3, rel=0.35), name
        assert len(np.unique(values)) > 0.99 * values.size, f"{name}: layers or experts share their weights"
    jax.tree.map(np.testing.assert_array_equal, weights, again)
    assert np.abs(weights["params"]["embed_VD"] - other["params"]["embed_VD"]).max() > 0.1
