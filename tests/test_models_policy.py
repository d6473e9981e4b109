"""The policy: equal to the float64 reference in every family, causal, cached as whole, whatever the remat."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models.attention import DecodeStep, LayerCache
from r1jax.models.policy import (
    PolicyModel,
    abstract_variables,
    apart,
    forward_multi_token,
    init_variables,
    mtp_parameter_count,
    parameter_count,
)
from r1jax.types import Packed
from tests import reference_policy as reference
from tests import tiny_policy as tiny

SHAPES = tiny.FAMILIES | {
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


# One row: a group (prefix of 3, branches of 3 and 2), a document of 3, and padding; every token has an id of its own.
SEGMENT = [1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 0]
BRANCH = [0, 0, 0, 1, 1, 1, 2, 2, 0, 0, 0, 0]
POSITION = [0, 1, 2, 3, 4, 5, 3, 4, 0, 1, 2, 0]
TOKENS = list(range(10, 22))
PACKED = Packed(TOKENS, SEGMENT, BRANCH, POSITION, TOKENS, TOKENS)
FELT = {
    "latent attention": tiny.CONFIG,
    "grouped attention": tiny.FAMILIES["qwen3: norms of queries and keys"],
    "block by block": dataclasses.replace(tiny.CONFIG, attention_block=5),
}


@pytest.mark.parametrize("config", FELT.values(), ids=FELT)
def test_a_token_feels_exactly_what_it_may_see(config):
    """d logits[t] / d embedding[s] is non-zero where s is visible from t, and exactly zero elsewhere.

    The tokens have ids of their own, so that the embedding's rows tell positions apart.
    """
    tokens, segment, branch = PACKED[:3]
    count = len(segment)
    packed = Packed(*(np.asarray([x], np.int32) for x in PACKED))
    weights = tiny.variables(config)
    mix_V = np.random.default_rng(3).normal(size=config.vocab_size).astype(np.float32)

    def score(embed_VD, t):
        changed = {"params": {**weights["params"], "embed_VD": embed_VD}, "router": weights["router"]}
        return tiny.apply(config, changed, packed)[0][0, t] @ mix_V

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
        np.testing.assert_allclose(logits[row, :n], longer[row, :n], rtol=1e-5, atol=1e-5)
    for changed in (other_aux, longer_aux):
        np.testing.assert_array_equal(aux.load_NE, changed.load_NE)
        np.testing.assert_allclose(aux.balance, changed.balance, rtol=1e-6)
    assert int(aux.load_NE.sum()) == (12 + 7) * tiny.CONFIG.active_experts * 2


@pytest.mark.parametrize("is_apart", [False, True], ids=["scanned", "apart"])
@pytest.mark.parametrize("config", tiny.FAMILIES.values(), ids=tiny.FAMILIES)
def test_cached_decode_equals_the_full_forward(config, is_apart):
    """2 prompts, padded on the right, 2 samples each: three tokens fed one by one, all logits against whole rows."""
    weights, new = tiny.variables(config), 3
    lengths = [5, 3]
    prompts, samples = tiny.draw_tokens(2, *lengths), tiny.draw_tokens(3, new, new, new, new)
    full = [prompts[b // 2] + sample for b, sample in enumerate(samples)]
    want, _ = tiny.forward(config)(weights, tiny.rows(full, 8))
    got = tiny.jit(functools.partial(logits_by_decode, config, is_apart=is_apart))(
        weights, np.int32([prompts[0], prompts[1] + [9, 9]]), np.int32(lengths), np.int32(samples)
    )
    for b in range(4):
        n = lengths[b // 2]
        np.testing.assert_allclose(got[b], want[b, n - 1 : n + new], rtol=1e-5, atol=1e-5)


def logits_by_decode(config, weights, prompt_PL, length_P, sample_BL, *, is_apart):
    """Logits [B, L + 1, V] of the prompts' last tokens and of the samples', fed one by one."""
    model, group = PolicyModel(config), sample_BL.shape[0] // prompt_PL.shape[0]
    hidden_PD, kept = model.apply(weights, prompt_PL, length_P, method="prefill")
    layers = apart(config, weights) if is_apart else None
    own = jax.tree.map(lambda x: jnp.full((x.shape[0], sample_BL.shape[0], *x.shape[2:-2], 4, x.shape[-1]), 1e3), kept)
    if is_apart:
        kept, own = ([jax.tree.map(lambda x: x[i], y) for y in ys for i in range(_layers(y))] for ys in (kept, own))  # noqa: B023
    hidden = [jnp.repeat(hidden_PD, group, axis=0)]
    for t in range(sample_BL.shape[1]):
        where = DecodeStep(jnp.repeat(length_P, group) + t, length_P, jnp.int32(t - 1))
        caches = [LayerCache(*pair) for pair in zip(kept, own, strict=True)]
        hidden_BD, new = model.apply(weights, sample_BL[:, t], where, caches, layers, method="decode")
        own = jax.tree.map(lambda x, token: x.at[..., t, :].set(token), own, new)  # noqa: B023
        hidden.append(hidden_BD)
    return model.apply(weights, jnp.stack(hidden, axis=1), method="logits")


def _layers(stack) -> int:
    return jax.tree.leaves(stack)[0].shape[0]


def test_blockwise_attention_changes_no_logits():
    """A group with branches, a document and padding, in blocks of 5 and whole; no mask of whole rows is made."""
    packed = Packed(*(np.asarray([x], np.int32) for x in PACKED))
    weights, logits = tiny.variables(), []
    for block in (0, 5):
        config = dataclasses.replace(tiny.CONFIG, attention_block=block)
        logits.append(tiny.forward(config)(weights, packed)[0])
    np.testing.assert_allclose(logits[1][0, :11], logits[0][0, :11], rtol=1e-5, atol=1e-5)


MTP = dataclasses.replace(tiny.CONFIG, mtp_layers=1)


def apply_multi_token(weights, packed):
    """(logits of the next token, of the token after next, Aux)."""
    hidden, after, aux = forward_multi_token(MTP, weights, packed)
    logits = functools.partial(PolicyModel(MTP).apply, weights, method="logits")
    return logits(hidden), logits(after), aux


def test_multi_token_prediction_equals_the_reference():
    weights, sequences = tiny.variables(MTP), tiny.draw_tokens(1, 12, 7)
    logits, after, aux = tiny.jit(apply_multi_token)(weights, tiny.rows(sequences, 12))
    expected = [reference.forward(MTP, weights, tokens) for tokens in sequences]
    for row, tokens in enumerate(sequences):
        n = len(tokens)
        np.testing.assert_allclose(logits[row, :n], expected[row]["logits"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(after[row, : n - 1], expected[row]["logits_after"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(aux.load_NE[:2], sum(want["load"] for want in expected))
    # The last token of a row has none to follow it, and is routed all the same.
    assert aux.load_NE.shape[0] == 3 and int(aux.load_NE[2].sum()) == (12 + 7) * MTP.active_experts


def test_the_token_after_next_is_predicted_from_the_next_one_and_no_later():
    """d logits_after[t] / d embedding[s] is non-zero for what is visible from t and for the next token, no other."""
    tokens, segment, branch = PACKED[:3]
    count = len(segment)
    packed = Packed(*(np.asarray([x], np.int32) for x in PACKED))
    weights = tiny.variables(MTP)
    mix_V = np.random.default_rng(3).normal(size=MTP.vocab_size).astype(np.float32)

    def score(embed_VD, t):
        changed = {"params": {**weights["params"], "embed_VD": embed_VD}, "router": weights["router"]}
        return apply_multi_token(changed, packed)[1][0, t] @ mix_V

    gradient = tiny.jit(jax.grad(score))
    felt_TVD = np.stack([gradient(weights["params"]["embed_VD"], t) for t in range(count)])
    felt = np.abs(felt_TVD[:, tokens]).max(axis=-1) > 0
    expected = np.zeros((count, count), bool)
    for t, s in np.ndindex(count, count):
        follows = s == t + 1 and (segment[s], branch[s]) == (segment[t], branch[t]) and segment[t] > 0
        expected[t, s] = follows or (s <= t and segment[s] == segment[t] and branch[s] in (0, branch[t]))
    np.testing.assert_array_equal(felt, expected)


def test_parameters_of_multi_token_prediction_are_counted_apart():
    """Its layer is one of the mixture's, with three norms of 16 and a projection of 32 x 16."""
    one = dataclasses.replace(tiny.CONFIG, layers=2)
    layer = [parameter_count(tiny.CONFIG)[i] - parameter_count(one)[i] for i in (0, 1)]
    assert mtp_parameter_count(MTP) == tuple(n + 3 * 16 + 32 * 16 for n in layer)
    assert parameter_count(MTP) == (
        parameter_count(tiny.CONFIG)[0] + mtp_parameter_count(MTP)[0],
        parameter_count(tiny.CONFIG)[1],
    )
    assert mtp_parameter_count(tiny.CONFIG) == (0, 0)


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


@pytest.mark.parametrize("remat", ["full", "dots", "latents", "attention"])
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
