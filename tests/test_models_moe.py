"""Routing traps, dropless dispatch and the balance loss of the mixture of experts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models import moe, moe_experts
from r1jax.models.moe import MoE, Routing, balance_loss, route
from r1jax.models.moe_experts import block_size, from_slots, grouped_matmul, lay_out, to_slots
from tests import reference_policy as reference
from tests import tiny_policy as tiny


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def shape(experts: int, groups: int, kept: int, active: int, scale: float = 1.0):
    return dataclasses.replace(
        tiny.CONFIG, experts=experts, expert_groups=groups, kept_groups=kept, active_experts=active, routed_scale=scale
    )


def test_a_negative_bias_brings_no_excluded_group_back():
    """Group 0 wins by its two best, though its others are biased below zero, which a mask of zeros would let lose."""
    score = np.float32([[0.9, 0.8, 0.3, 0.2, 0.7, 0.7, 0.7, 0.7]])
    bias = np.float32([0, 0, -5, -6, 0, 0, 0, 0])
    routing = route(score, bias, shape(8, groups=2, kept=1, active=3))
    assert sorted(np.asarray(routing.expert_TA)[0]) == [0, 1, 2]


def test_a_group_counts_by_its_two_best():
    """Group 0 has the best expert, group 1 the best two, group 2 the best sum of all four."""
    score = np.float32([[0.95, 0.1, 0.0, 0.0, 0.8, 0.7, 0.0, 0.0, 0.6, 0.6, 0.6, 0.6]])
    routing = route(score, np.zeros(12, np.float32), shape(12, groups=3, kept=1, active=2))
    assert np.asarray(routing.expert_TA).tolist() == [[4, 5]]


def test_a_group_counts_by_its_best_in_v2():
    """Group 0 has the best expert, group 1 the best two; weights that are not normalised stay scores."""
    score = np.float32([[0.95, 0.1, 0.0, 0.0, 0.8, 0.7, 0.0, 0.0, 0.6, 0.6, 0.6, 0.6]])
    config = dataclasses.replace(shape(12, groups=3, kept=1, active=2, scale=2.0), group_score="max", norm_topk=False)
    routing = route(score, np.zeros(12, np.float32), config)
    assert np.asarray(routing.expert_TA).tolist() == [[0, 1]]
    np.testing.assert_allclose(routing.share_TA, [[1.9, 0.2]], rtol=1e-6)


def test_combine_weights_come_from_unbiased_scores():
    """A bias of 10 makes expert 3 first; its weight stays its own score's share, times routed_scale."""
    score = np.float32([[0.6, 0.5, 0.1, 0.2]])
    routing = route(score, np.float32([0, 0, 0, 10]), shape(4, groups=1, kept=1, active=2, scale=2.5))
    assert np.asarray(routing.expert_TA).tolist() == [[3, 0]]
    np.testing.assert_allclose(routing.share_TA, [[2.5 * 0.2 / 0.8, 2.5 * 0.6 / 0.8]], rtol=1e-6)
    np.testing.assert_array_equal(routing.score_TE, score)


V2 = dataclasses.replace(shape(12, 3, 2, 4, 1.3), group_score="max", norm_topk=False)


@pytest.mark.parametrize(
    "config", [shape(8, 4, 2, 2, 1.7), shape(8, 1, 1, 3), shape(12, 3, 1, 4), shape(6, 6, 4, 3), V2]
)
def test_routing_equals_the_reference(config):
    score, bias = 1 / (1 + np.exp(-draw(200, config.experts))), draw(config.experts, seed=1)
    routing = tiny.jit(functools.partial(route, config=config))(score, bias)
    for t in range(200):
        chosen, share = reference.route(score[t].astype(np.float64), bias.astype(np.float64), config)
        assert np.asarray(routing.expert_TA[t]).tolist() == chosen
        np.testing.assert_allclose(routing.share_TA[t], share, rtol=1e-5)


def test_the_bias_gets_no_gradient_and_the_scores_do():
    config = shape(8, 4, 2, 2)
    score, bias = 1 / (1 + np.exp(-draw(5, 8))), draw(8, seed=1)
    pull = draw(5, 2, seed=2)
    of_score, of_bias = jax.grad(lambda s, b: jnp.sum(route(s, b, config).share_TA * pull), argnums=(0, 1))(score, bias)
    np.testing.assert_array_equal(of_bias, 0.0)
    assert np.abs(of_score).max() > 0


def layouts():
    """(experts of each token, which tokens are real, experts, block): random, all to one expert, none at all."""
    pick = np.random.default_rng(0)
    mixed = np.stack([pick.permutation(8)[:2] for _ in range(40)]).astype(np.int32)
    one = np.tile(np.int32([[3, 5]]), (40, 1))
    real = pick.random(40) < 0.8
    every = np.ones(40, bool)
    skewed = np.stack([np.ones(40, int), 2 + np.arange(40) % 6], axis=1).astype(np.int32)
    return {
        "one expert has half": (skewed, every),
        "random": (mixed, every),
        "random with padding": (mixed, real),
        "all to two experts": (one, every),
        "only padding": (one, ~every),
    }


LAY_OUT = functools.partial(tiny.jit, static_argnums=(2, 3))(lay_out)


@pytest.mark.parametrize("expert_TA, valid_T", layouts().values(), ids=layouts())
def test_every_assignment_has_a_slot_of_its_expert(expert_TA, valid_T):
    block = 8
    layout = jax.tree.map(np.asarray, LAY_OUT(expert_TA, valid_T, 8, block))
    slots = layout.assignment_S.size
    share, seen = slots // 8, set()
    for t in range(40):
        for a in range(2):
            slot = int(layout.slot_TA[t, a])
            if not valid_T[t]:
                assert slot == slots, "padding takes no slot"
                continue
            assert layout.assignment_S[slot] == t * 2 + a, "the two maps are inverse"
            owner = slot // share if layout.is_even else layout.block_expert_N[slot // block]
            assert owner == expert_TA[t, a]
            seen.add(slot)
    assert len(seen) == 2 * valid_T.sum(), "no two share a slot"
    assert all(layout.assignment_S[s] == 80 for s in range(slots) if s not in seen), "the other slots are empty"
    load = np.bincount(expert_TA[valid_T].reshape(-1), minlength=8)
    np.testing.assert_array_equal(layout.load_E, load)
    assert layout.is_even == (load.max() <= share)
    np.testing.assert_array_equal(layout.rows_E, share if layout.is_even else -(-load // block) * block)


def test_block_size_is_a_power_of_two_near_a_quarter_of_a_share():
    assert [block_size(n, 8) for n in (1, 16, 256, 512, 800, 8192, 10**6)] == [8, 8, 8, 16, 32, 256, 256]


@pytest.mark.parametrize("expert_TA, valid_T", layouts().values(), ids=layouts())
def test_to_slots_and_from_slots_are_transposes(expert_TA, valid_T):
    """The gradient of each is the other, and equals autodiff's of the plain gather."""
    layout = LAY_OUT(expert_TA, valid_T, 8, 8)
    slot, assignment = layout.slot_TA, layout.assignment_S
    x_TD, y_SD = draw(40, 3), draw(assignment.size, 3, seed=1)

    def gather_to(x):
        return jnp.take(x, assignment // 2, axis=0, mode="fill", fill_value=0)

    def gather_from(y):
        return jnp.take(y, slot, axis=0, mode="fill", fill_value=0).sum(axis=1)

    np.testing.assert_array_equal(to_slots(x_TD, slot, assignment), gather_to(x_TD))
    np.testing.assert_array_equal(from_slots(y_SD, slot, assignment), gather_from(y_SD))
    pulled = jax.grad(lambda x: jnp.sum(to_slots(x, slot, assignment) * y_SD))(x_TD)
    np.testing.assert_allclose(pulled, jax.grad(lambda x: jnp.sum(gather_to(x) * y_SD))(x_TD), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pulled, from_slots(y_SD, slot, assignment), rtol=1e-5, atol=1e-6)
    pulled = jax.grad(lambda y: jnp.sum(from_slots(y, slot, assignment) * x_TD))(y_SD)
    np.testing.assert_allclose(pulled, jax.grad(lambda y: jnp.sum(gather_from(y) * x_TD))(y_SD), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pulled, to_slots(x_TD, slot, assignment), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("expert_TA, valid_T", layouts().values(), ids=layouts())
def test_both_grouped_matmuls_equal_a_loop_over_slots(expert_TA, valid_T, monkeypatch):
    layout = LAY_OUT(expert_TA, valid_T, 8, 8)
    w_EDF = draw(8, 3, 5, seed=1)
    x_SD = to_slots(draw(40, 3), layout.slot_TA, layout.assignment_S)
    want = np.zeros((x_SD.shape[0], 5))
    for t in np.flatnonzero(valid_T):
        for a in range(2):
            slot = int(layout.slot_TA[t, a])
            want[slot] = np.asarray(x_SD, np.float64)[slot] @ w_EDF[expert_TA[t, a]]
    d_SF = draw(*want.shape, seed=2)
    d_w = np.zeros(w_EDF.shape)
    for t in np.flatnonzero(valid_T):
        for a in range(2):
            slot = int(layout.slot_TA[t, a])
            d_w[expert_TA[t, a]] += np.outer(np.asarray(x_SD, np.float64)[slot], d_SF[slot])
    for branch in ("cpu", "default"):
        monkeypatch.setattr(moe_experts.jax.lax, "platform_dependent", lambda *x, b=branch, **ways: ways[b](*x))
        got, pull = jax.vjp(lambda x, w: grouped_matmul(x, w, layout), x_SD, w_EDF)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
        pulled_x, pulled_w = pull(d_SF)
        np.testing.assert_allclose(pulled_w, d_w, rtol=1e-4, atol=1e-5)
        for t in np.flatnonzero(valid_T):
            for a in range(2):
                slot = int(layout.slot_TA[t, a])
                np.testing.assert_allclose(pulled_x[slot], w_EDF[expert_TA[t, a]] @ d_SF[slot], rtol=1e-4, atol=1e-5)


def test_ragged_dot_is_what_accelerators_get():
    """The lowering for TPU holds a ragged dot, that for CPU does not."""
    layout = LAY_OUT(*layouts()["random"], 8, 8)
    traced = jax.jit(grouped_matmul).trace(draw(layout.assignment_S.size, 3), draw(8, 3, 5), layout)
    assert "ragged" in traced.lower(lowering_platforms=("tpu",)).as_text()
    assert "ragged" not in traced.lower(lowering_platforms=("cpu",)).as_text()


@functools.cache
def run_moe():
    return tiny.jit(MoE(tiny.CONFIG).apply)


def moe_variables(bias_E=None):
    weights = tiny.variables()
    router = reference.layer(weights["router"]["moe"]["moe"], 0)
    return {
        "params": reference.layer(weights["params"]["moe"]["moe"], 0),
        "router": router if bias_E is None else {"bias_E": np.float32(bias_E)},
    }


def expected(variables, x_TD):
    params, bias = reference.in_float64(variables["params"]), reference.in_float64(variables["router"]["bias_E"])
    return np.array([reference.mixture(tiny.CONFIG, params, bias, x.astype(np.float64))[0] for x in x_TD])


@pytest.mark.parametrize(
    "bias_E",
    [None, [9, 9, -9, -9, -9, -9, -9, -9], [-9, -9, 9, -9, 9, -9, -9, -9]],
    ids=["spread", "all to one group", "all to experts 2 and 4"],
)
def test_dropless_whatever_the_load(bias_E):
    """Every token gets all its experts, and equals the dense reference, even when two experts get everything."""
    variables, x = moe_variables(bias_E), draw(3, 40, 16)
    y, output = run_moe()(variables, x, np.ones((3, 40), np.int32))
    np.testing.assert_allclose(y.reshape(-1, 16), expected(variables, x.reshape(-1, 16)), rtol=1e-4, atol=1e-5)
    assert int(output.dropped) == 0 and int(output.load_E.sum()) == 240
    if bias_E is not None:
        np.testing.assert_array_equal(output.load_E, np.where(np.array(bias_E) > 0, 120, 0))


def test_padding_is_in_no_load():
    variables, x = moe_variables(), draw(3, 40, 16)
    segment = np.ones((3, 40), np.int32)
    segment[:, 25:] = 0
    y, output = run_moe()(variables, x, segment)
    params, bias = reference.in_float64(variables["params"]), variables["router"]["bias_E"]
    real = x[:, :25].reshape(-1, 16).astype(np.float64)
    chosen = [reference.mixture(tiny.CONFIG, params, bias, token)[2] for token in real]
    np.testing.assert_array_equal(output.load_E, np.bincount(np.ravel(chosen), minlength=8))
    np.testing.assert_allclose(y[:, :25].reshape(-1, 16), expected(variables, real), rtol=1e-4, atol=1e-5)


def test_balance_loss_equals_a_loop_over_sequences():
    """Segments of 1, 5 and 3 tokens, interleaved, and padding that must not count."""
    config = shape(8, 4, 2, 2)
    segment = np.int32([1, 2, 2, 0, 2, 7, 7, 0, 2, 7, 2, 0])
    score = (1 / (1 + np.exp(-draw(12, 8)))).astype(np.float32)
    expert = np.stack([np.random.default_rng(t).permutation(8)[:2] for t in range(12)]).astype(np.int32)
    routing = Routing(expert, np.ones((12, 2), np.float32), score)
    want = sum(
        reference.balance([score[t] for t in at], [expert[t].tolist() for t in at], config)
        for at in (np.flatnonzero(segment == s) for s in (1, 2, 7))
    )
    np.testing.assert_allclose(balance_loss(routing, segment, config, 12, ()), want, rtol=1e-5)


def test_balance_loss_is_least_when_balanced():
    """f_e = P_e E = 1 for all gives exactly 1; all to the best two of eight gives more."""
    config = shape(8, 1, 1, 2)
    even = Routing(np.arange(8, dtype=np.int32).reshape(4, 2), np.ones((4, 2)), np.ones((4, 8), np.float32))
    skewed = Routing(np.int32([[0, 1]] * 4), np.ones((4, 2)), np.float32([[9, 9, 1, 1, 1, 1, 1, 1]] * 4))
    segment = np.ones(4, np.int32)
    assert float(balance_loss(even, segment, config, 4, ())) == pytest.approx(1.0)
    assert float(balance_loss(skewed, segment, config, 4, ())) == pytest.approx(2 * 4 * 9 / 24)


@pytest.mark.parametrize("shared_experts", [0, 1])
def test_few_tokens_of_decoding_give_what_rows_give(monkeypatch, shared_experts):
    """Single tokens that every expert reads, the same laid out by expert, and as a row: one output, one load."""
    config = dataclasses.replace(shape(8, groups=4, kept=2, active=3, scale=1.5), shared_experts=shared_experts)
    module, x_BD = MoE(config), draw(20, config.width)
    variables = module.init(jax.random.key(0), x_BD, np.arange(1, 21))
    variables = jax.tree.map(lambda x: draw(*x.shape, seed=x.size), variables)

    def run(x, segment):
        return jax.jit(lambda *args: module.apply(*args))(variables, x, segment)

    row, of_row = run(x_BD[None], np.arange(1, 21)[None])
    few, of_few = run(x_BD, np.arange(1, 21))
    monkeypatch.setattr(moe, "FEW_TOKENS", 19)
    many, of_many = run(x_BD, np.arange(1, 21))
    size = np.abs(row).max()
    for y_BD, output in ((few, of_few), (many, of_many)):
        np.testing.assert_allclose(y_BD / size, row[0] / size, atol=1e-5)
        np.testing.assert_array_equal(output.load_E, of_row.load_E)
        np.testing.assert_allclose(output.balance, of_row.balance, rtol=1e-4)
    assert (few != many).any(), "the two should be computed in two ways"
