"""Experts over devices: equal to one device in values and gradients, dropless in bounded memory, either transport."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.mesh import make_mesh, state_shardings
from r1jax.models import moe_exchange, moe_parallel
from r1jax.models.moe import MoE
from r1jax.models.moe_exchange import Padded, Ragged, window_rows
from r1jax.models.moe_experts import ExpertWeights
from r1jax.models.moe_parallel import Tokens, exchange
from r1jax.models.sharded import rows_spec
from tests import reference_policy as reference
from tests import tiny_policy as tiny

CONFIG = tiny.CONFIG
MESHES = {
    "expert8": dict(expert=8),
    "fsdp2_expert2_tensor2": dict(fsdp=2, expert=2, tensor=2),
    "data2_expert2_context2": dict(data=2, expert=2, context=2),
}
ALL_TO_ONE_DEVICE = [9, 9, -9, -9, -9, -9, -9, -9]  # of expert2 and expert4: two experts of one device


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def mesh_of(name: str) -> jax.sharding.Mesh:
    return make_mesh(dataclasses.replace(tiny.ONE_DEVICE, **MESHES[name]))


def variables(bias_E=None):
    weights = tiny.variables()
    router = reference.layer(weights["router"]["moe"]["moe"], 0)
    return {
        "params": reference.layer(weights["params"]["moe"]["moe"], 0),
        "router": router if bias_E is None else {"bias_E": np.float32(bias_E)},
    }


def segments(rows: int, length: int) -> np.ndarray:
    """Two sequences a row, padding at the end of some, numbered over the batch."""
    segment = np.where(np.arange(length)[None] < 7, 1, 2) + np.arange(rows)[:, None] * length
    segment[1::3, -2:] = 0
    return segment.astype(np.int32)


def loss(params, x, router, segment, pull):
    y, output = MoE(CONFIG).apply({"params": params, "router": router}, x, segment)
    real = (segment > 0)[..., None]
    return jnp.sum(jnp.where(real, y * pull, 0)) + output.balance, (jnp.where(real, y, 0), output)


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    """So that it takes several rounds."""
    monkeypatch.setattr(moe_exchange, "SMALLEST", 8)


def compiled():
    return tiny.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


RUN = compiled()  # for one device, and each mesh


def of_all(weights, x, segment, mesh=None, run=RUN):
    """((loss, (y, output)), gradients of the parameters and of x), over a mesh if one is given."""
    pull = draw(*x.shape, seed=5)
    if mesh is None:
        return jax.device_get(run(weights["params"], x, weights["router"], segment, pull))
    with jax.set_mesh(mesh):
        weights = jax.device_put(weights, state_shardings(mesh, weights))
        return jax.device_get(run(weights["params"], x, weights["router"], segment, pull))


def assert_same(got, want):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max()), got, want)


@pytest.mark.parametrize("bias_E", [None, ALL_TO_ONE_DEVICE], ids=["spread", "all to one device"])
@pytest.mark.parametrize("name", MESHES)
def test_values_and_gradients_equal_one_device(name, bias_E):
    weights, x, segment = variables(bias_E), draw(8, 12, 16), segments(8, 12)
    got, want = of_all(weights, x, segment, mesh_of(name)), of_all(weights, x, segment)
    assert_same(got, want)
    output = got[0][1][1]
    assert int(output.dropped) == 0 and int(output.load_E.sum()) == 2 * (segment > 0).sum()


@pytest.mark.parametrize("shape", [(5, 12, 16), (3, 16)], ids=["rows", "single tokens"])
def test_tokens_need_not_divide_over_the_mesh(shape):
    weights, x = variables(), draw(*shape)
    segment = segments(*shape[:2]) if len(shape) == 3 else np.arange(1, 4, dtype=np.int32)
    run = tiny.jit(MoE(CONFIG).apply)
    want, want_output = run(weights, x, segment)
    mesh = mesh_of("data2_expert2_context2")
    with jax.set_mesh(mesh):
        got, output = tiny.jit(MoE(CONFIG).apply)(weights, x, segment)
    real = (segment > 0)[..., None]
    np.testing.assert_allclose(np.where(real, got, 0), np.where(real, want, 0), rtol=1e-5, atol=1e-5)
    assert_same(jax.device_get(output), jax.device_get(want_output))


# --- the plan ---


@pytest.mark.parametrize("transport", [Padded(), Ragged()], ids=["padded", "ragged"])
@pytest.mark.parametrize("routing", ["even", "uneven", "all to one", "none"])
def test_every_pair_is_sent_once_and_no_window_overflows(transport, routing):
    devices, assignments = 4, 1000
    draws = np.random.default_rng(0)
    pair = {
        "even": np.full((4, 4), 250),
        "uneven": np.stack([draws.multinomial(assignments, draws.dirichlet(np.full(4, 0.3))) for _ in range(4)]),
        "all to one": np.eye(4, dtype=int)[[2] * 4] * assignments,
        "none": np.zeros((4, 4), int),
    }[routing]
    rows = window_rows(assignments, devices)
    rounds = max(int(transport.rounds(jnp.asarray(pair), rows)), 1)
    part, sent = -(-pair // rounds), np.zeros((4, 4), int)
    for number in range(rounds):
        size = np.clip(pair - number * part, 0, part)
        for size_X in (*size, *size.T):
            other, at, real = (np.asarray(x) for x in transport.cut(jnp.asarray(size_X), rows))
            got = [sorted(at[real & (other == x)]) for x in range(4)]
            assert got == [list(range(n)) for n in size_X], "each row of each part stands in the window, once"
        sent += size
    np.testing.assert_array_equal(sent, pair)
    assert rounds == 1 if routing in ("even", "none") else rounds <= devices, "the worst takes as many as devices"


def test_a_window_is_a_quarter_more_than_an_even_load():
    assert window_rows(100_000, 8) == 125_120  # 125,000 is 1953.1 shares of 64: 1,954, and one more
    assert window_rows(100_000, 1) == 100_008, "one device sends itself what it has"
    assert window_rows(3, 4) == 32 + 32, "the smallest, here 8, in shares of 8 for each device"


# --- memory ---


WIDE, HIDDEN, EACH = 128, 32, 256  # width, expert width, tokens of each device
WEIGHTS = ExpertWeights(*(0.1 * draw(8, *shape) for shape in ((WIDE, HIDDEN), (WIDE, HIDDEN), (HIDDEN, WIDE))))


def pulled(x, share, weights, expert):
    """A number that all of the output enters, and what was counted."""
    y, counted = exchange(8, rows_spec(), Tokens(x, expert, share, np.ones((8, EACH), bool)), weights)
    return jnp.sum(y * draw(8, EACH, WIDE, seed=1)), counted


def pulled_plainly(x, share, weights, experts):
    """The same, where all tokens want the same experts."""
    y = 0.0
    for a, e in enumerate(experts):
        hidden = jax.nn.silu(x @ weights.gate_EDF[e]) * (x @ weights.up_EDF[e])
        y += share[..., a, None] * (hidden @ weights.down_EFD[e])
    return jnp.sum(y * draw(8, EACH, WIDE, seed=1))


PULL = tiny.jit(jax.grad(pulled, argnums=(0, 1, 2), has_aux=True))


@pytest.mark.parametrize("experts", [[0, 1], [7, 2]], ids=str)
def test_memory_is_bounded_and_nothing_dropped_when_all_want_the_same_experts(experts):
    """8 devices of an expert each: forward and backward hold 2 arrays of results and 8 of a window, no more.

    To receive the worst load at once, which is 8 times an even one, would take 6 times as much.
    """
    x, share = draw(8, EACH, WIDE), np.abs(draw(8, EACH, 2, seed=2))
    with jax.set_mesh(mesh_of("expert8")):
        given = (x, share, WEIGHTS, np.tile(np.int32(experts), (8, EACH, 1)))
        program = PULL.lower(*given).compile()
        got, counted = program(*jax.device_put(given, program.input_shardings[0]))
    want = jax.grad(pulled_plainly, argnums=(0, 1, 2))(x, share, WEIGHTS, experts)
    assert_same(jax.device_get(got), jax.device_get(want))
    np.testing.assert_array_equal(counted.load_E, np.where(np.isin(np.arange(8), experts), 8 * EACH, 0))
    assert int(counted.dropped) == 0
    assignments = 2 * EACH
    bound = 4 * WIDE * (2 * assignments + 8 * window_rows(assignments, 8))
    held = program.memory_analysis().temp_size_in_bytes
    assert bound / 2 < held <= bound


# --- the transport of TPUs, which CPUs have not ---


def ragged_by_gathering(operand, output, input_offsets, send_sizes, output_offsets, recv_sizes, *, axis_name):
    """What `jax.lax.ragged_all_to_all` is documented to do, written with all-gathers."""
    me = jax.lax.axis_index(axis_name)
    gather = functools.partial(jax.lax.all_gather, axis_name=axis_name)
    operands, starts, sizes, places = map(gather, (operand, input_offsets, send_sizes, output_offsets))
    row = jnp.arange(output.shape[0])
    for source in range(operands.shape[0]):
        number = row - places[source, me]
        mine = (number >= 0) & (number < recv_sizes[source]) & (number < sizes[source, me])
        moved = jnp.take(operands[source], starts[source, me] + number, axis=0, mode="fill", fill_value=jnp.nan)
        output = jnp.where(mine.reshape(-1, *[1] * (output.ndim - 1)), moved, output)
    return output


@pytest.mark.parametrize("bias_E", [None, ALL_TO_ONE_DEVICE], ids=["spread", "all to one device"])
def test_the_ragged_transport_gives_the_same(bias_E, monkeypatch):
    weights, x, segment = variables(bias_E), draw(4, 12, 16), segments(4, 12)
    want = of_all(weights, x, segment)
    monkeypatch.setattr(moe_parallel, "Padded", Ragged)
    monkeypatch.setattr(jax.lax, "ragged_all_to_all", ragged_by_gathering)
    assert_same(of_all(weights, x, segment, mesh_of("fsdp2_expert2_tensor2"), compiled()), want)


def test_ragged_all_to_all_is_what_tpus_get():
    x, segment = draw(8, 12, 16), segments(8, 12)
    with jax.set_mesh(mesh_of("expert8")):
        traced = jax.jit(MoE(CONFIG).apply).trace(variables(), x, segment)
        text = {platform: traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("tpu", "cpu")}
    assert "ragged_all_to_all" in text["tpu"] and "ragged_all_to_all" not in text["cpu"]
    assert "ragged_dot" in text["tpu"]
