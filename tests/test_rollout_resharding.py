"""Parameters lent to the sampler: the way there and back, what it costs, and that nothing else changes."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.mesh import make_mesh, state_shardings
from r1jax.models.policy import abstract_variables
from r1jax.rollout.resharding import Placement, decode_mesh, path, received_bytes, refinement, stations
from r1jax.training.state import with_shardings
from tests import tiny_policy as tiny
from tests.test_rollout_engine import PROMPTS, SEEDS, generate, usual

# As tiny.CONFIG, of sizes that eight devices divide whichever way.
CONFIG = dataclasses.replace(tiny.CONFIG, heads=4, expert_ffn=16, kv_lora_rank=8)
PAIRS = [
    (dict(fsdp=8), dict(expert=2, tensor=4)),
    (dict(fsdp=4, expert=2), dict(expert=8)),
    (dict(fsdp=4, expert=2), dict(data=2, expert=2, tensor=2)),
    (dict(fsdp=2, expert=2, context=2), dict(data=4, tensor=2)),
]


def mesh(**sizes: int):
    return make_mesh(dataclasses.replace(tiny.ONE_DEVICE, **sizes))


def decoding(training, **sizes: int):
    return decode_mesh(dataclasses.replace(tiny.ONE_DEVICE, **sizes), training)


def sharding(letters: str, shape: tuple[int, ...], on) -> jax.sharding.NamedSharding:
    return state_shardings(on, {f"x_{letters}": jax.ShapeDtypeStruct(shape, jnp.float32)})[f"x_{letters}"]


def params(on) -> tuple:
    """(abstract, weights on the mesh)."""
    abstract = with_shardings(abstract_variables(CONFIG), on)
    return abstract, jax.device_put(tiny.variables(CONFIG), state_shardings(on, abstract))


@pytest.mark.parametrize(("training", "sampling"), PAIRS)
def test_lent_and_taken_back_nothing_is_changed(training, sampling):
    train = mesh(**training)
    decode = decoding(train, **sampling)
    abstract, weights = params(train)
    given, same = jax.tree.leaves(weights), tiny.variables(CONFIG)

    def use(lent):
        for got, wanted in zip(*map(jax.tree.leaves, (lent, state_shardings(decode, abstract))), strict=True):
            assert got.sharding.is_equivalent_to(wanted, got.ndim)
        jax.tree.map(np.testing.assert_array_equal, lent, same)
        moved = [leaf for leaf, now in zip(given, jax.tree.leaves(lent), strict=True) if leaf is not now]
        assert moved and all(leaf.is_deleted() for leaf in moved), "there is one copy at any time"
        return "used"

    with jax.set_mesh(train):
        result, back, figures = Placement(abstract, decode).lend(weights, use)
    assert result == "used" and figures.keys() == {"reshard/bytes", "time/reshard_s"}
    for got, wanted in zip(*map(jax.tree.leaves, (back, abstract)), strict=True):
        assert got.sharding.is_equivalent_to(wanted.sharding, got.ndim)
    jax.tree.map(np.testing.assert_array_equal, back, same)


@pytest.mark.parametrize("sampling", [None, dict(data=8)])
def test_where_layouts_are_the_same_nothing_happens(sampling):
    """No mesh of its own, or one over which parameters lie as before: the very arrays."""
    train = mesh(data=8)
    decode = decoding(train, **sampling) if sampling else decode_mesh(None, train)
    abstract, weights = params(train)
    result, back, figures = Placement(abstract, decode).lend(weights, lambda lent: lent)
    assert result is weights and back is weights and figures == {}


def test_bytes_by_hand():
    """float32 [8, 4], an eighth a device, to all on each: seven rows of 16 bytes are new to each of eight devices.

    The other way every device has its row already. From halves of the rows to halves of the columns each of the eight
    wants sixteen numbers, and holds eight of them.
    """
    fsdp, data = mesh(fsdp=8), decoding(mesh(fsdp=8), data=8)
    one, all_ = sharding("DC", (8, 4), fsdp), sharding("DC", (8, 4), data)
    assert received_bytes((8, 4), 4, one, all_) == 8 * 7 * 16
    assert received_bytes((8, 4), 4, all_, one) == 0
    rows = sharding("DC", (8, 4), mesh(data=4, fsdp=2))
    columns = sharding("CH", (8, 4), decoding(mesh(data=4, fsdp=2), data=4, tensor=2))
    assert received_bytes((8, 4), 4, rows, columns) == 8 * (4 * 2) * 4


def test_the_metric_is_the_sum_of_the_leaves_both_ways():
    train = mesh(fsdp=8)
    leaf = jax.ShapeDtypeStruct((8, 4), jnp.float32)
    abstract = with_shardings({"a_DC": leaf, "b_DC": leaf, "scale_X": jax.ShapeDtypeStruct((3,), jnp.float32)}, train)
    weights = jax.tree.map(lambda x: jax.device_put(jnp.ones(x.shape), x.sharding), abstract)
    _, _, figures = Placement(abstract, decoding(train, data=8)).lend(weights, lambda lent: None)
    assert figures["reshard/bytes"] == 2 * 8 * 7 * 16


def test_the_path_by_hand():
    """From D over a and b to E over a, F over b: an axis at a time; what is new comes first, what goes last."""
    sizes = {"a": 2, "b": 2, "c": 2}
    got = path((8, 8, 8), ((), ("a", "b"), ()), (("a",), (), ("b",)), sizes)
    assert got == [(("a",), ("b",), ()), (("a",), (), ("b",))]
    got = path((8, 8), (("a", "b"), ()), (("c",), ("b",)), sizes)
    assert got == [(("a", "b", "c"), ()), (("a", "c"), ("b",)), (("c",), ("b",))]
    assert path((2, 8), (("a",), ("b",)), (("b",), ()), sizes)[-1] == (("b",), ()), (
        "where nothing else fits, a goes first"
    )
    assert path((8,), (("a", "b"),), (("b", "a"),), sizes) == [(("b", "a"),)]


def test_meshes_without_a_finer_one_have_no_stations():
    devices = np.array(jax.devices()[:6])
    one, other = (jax.sharding.Mesh(devices.reshape(shape), ("x", "y")) for shape in ((3, 2), (2, 3)))
    assert refinement(one, other) is None
    places = [jax.sharding.NamedSharding(m, jax.sharding.PartitionSpec("x")) for m in (one, other)]
    assert stations((6, 6), *places) == []
    assert dict(refinement(mesh(fsdp=4, expert=2), mesh(expert=2, tensor=4)).shape) == {
        "axis0": 2, "axis1": 2, "axis2": 2,
    }  # fmt: skip


@pytest.mark.parametrize(("training", "sampling"), PAIRS[:2])
def test_no_device_ever_holds_a_whole_array(training, sampling):
    """The programs' text names no result as large as an expert's stack, which XLA left alone would gather."""
    train = mesh(**training)
    shape = (4, 8, 64, 32)
    source, target = sharding("EDF", shape, train), sharding("EDF", shape, decoding(train, **sampling))
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=source)

    def largest(way) -> int:
        def move(x):
            for station in way:
                x = jax.lax.with_sharding_constraint(x, station)
            return x

        text = jax.jit(move, out_shardings=target).lower(leaf).compile().as_text()
        return max(int(np.prod([int(n) for n in dims.split(",")])) for dims in re.findall(r"f32\[([\d,]+)\]", text))

    assert largest(stations(shape, source, target)) <= 2 * np.prod(shape) / 8


def test_sampling_on_a_mesh_of_its_own_gives_the_same_tokens():
    train = mesh(fsdp=4, expert=2)
    decode = decoding(train, data=2, expert=2, tensor=2)
    abstract = with_shardings(abstract_variables(tiny.CONFIG), train)
    weights = jax.device_put(tiny.variables(), state_shardings(train, abstract))
    engine = tiny.engine(decode)
    with jax.set_mesh(train):
        got, _, _ = Placement(abstract, decode).lend(
            weights, lambda lent: generate(PROMPTS, SEEDS, engine=engine, weights=lent)
        )
    np.testing.assert_array_equal(got.completion_BL, usual().completion_BL)
    np.testing.assert_allclose(got.logp_sampler_BL, usual().logp_sampler_BL, atol=1e-5)
