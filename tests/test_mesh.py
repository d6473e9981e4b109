"""Axis rules, the mesh, and a forward pass that does not depend on it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from r1jax.mesh import (
    ACTIVATIONS,
    WEIGHTS,
    activation_sharding,
    batch_multiple,
    constrain,
    make_mesh,
    spec,
    state_shardings,
)
from r1jax.models.policy import abstract_variables
from tests import tiny_policy as tiny


def test_letters_say_the_sharding():
    assert spec("EDF", WEIGHTS) == PartitionSpec(("expert",), ("fsdp", "context"), ("tensor",))
    assert spec("NDHC", WEIGHTS) == PartitionSpec(None, ("fsdp", "context"), ("tensor",), None)
    assert spec("DQ", WEIGHTS) == PartitionSpec(("fsdp", "context"), None)
    assert spec("QHC", WEIGHTS) == PartitionSpec(("fsdp", "context"), ("tensor",), None)
    assert spec("RTD", ACTIVATIONS) == PartitionSpec(("data", "fsdp", "expert"), ("context",), None)


def test_a_mesh_axis_used_twice_is_an_error():
    with pytest.raises(ValueError, match=r"'BR'.*data.*fsdp.*twice"):
        spec("BR", ACTIVATIONS)


def test_minus_one_takes_what_is_left():
    mesh = make_mesh(dataclasses.replace(tiny.ONE_DEVICE, fsdp=-1, tensor=2))
    assert dict(mesh.shape) == {"data": 1, "fsdp": 4, "expert": 1, "tensor": 2, "context": 1}


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"data": 3}, r"data=3 .*does not match 8 devices.*-1"),
        ({"data": 3, "fsdp": -1}, r"does not match 8 devices"),
        ({"data": -1, "fsdp": -1}, r"mesh\.data is -1, mesh\.fsdp is -1.*at most one"),
        ({"data": 0}, r"mesh\.data is 0; expected positive"),
    ],
)
def test_a_mesh_that_does_not_fit_is_an_error(sizes, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(dataclasses.replace(tiny.ONE_DEVICE, **sizes))


def test_batches_divide_over_data_fsdp_and_expert():
    assert batch_multiple(make_mesh(tiny.MESHES["data2_expert2_tensor2"])) == 4
    assert batch_multiple(make_mesh(dataclasses.replace(tiny.ONE_DEVICE, data=2, fsdp=2, context=2))) == 4


def test_a_parameter_and_its_moments_are_sharded_by_name():
    mesh = make_mesh(tiny.MESHES["data2_expert2_tensor2"])
    params = abstract_variables(tiny.CONFIG)["params"]
    state = {"params": params, "optimizer": jax.eval_shape(optax.adam(1.0).init, params)}
    place = state_shardings(mesh, state)
    want = {
        "embed_VD": PartitionSpec(("tensor",), ("fsdp", "context")),
        "gate_EDF": PartitionSpec(None, ("expert",), ("fsdp", "context"), ("tensor",)),
        "out_HCD": PartitionSpec(None, ("tensor",), None, ("fsdp", "context")),
        "router_DE": PartitionSpec(None, ("fsdp", "context"), ("expert",)),
        "k_up_WHC": PartitionSpec(None, ("fsdp", "context"), ("tensor",), None),
        "count": PartitionSpec(),
    }
    seen = []
    for path, sharding in jax.tree_util.tree_leaves_with_path(place):
        name = str(getattr(path[-1], "key", getattr(path[-1], "name", "")))
        if name in want:
            assert sharding.spec == want[name], path
            seen.append(name)
    # Each parameter has two moments; attention stands in both stacks.
    assert {name: seen.count(name) for name in want} == dict(
        embed_VD=3, gate_EDF=3, out_HCD=6, router_DE=3, k_up_WHC=6, count=1
    )


def test_a_dimension_that_does_not_divide_is_an_error():
    mesh = make_mesh(tiny.MESHES["expert8"])
    abstract = {"moe": {"gate_EDF": jax.ShapeDtypeStruct((2, 12, 16, 8), jnp.float32)}}
    with pytest.raises(ValueError, match=r"moe/gate_EDF: dimension E of size 12 .*expert of size 8"):
        state_shardings(mesh, abstract)


def test_constrain_without_a_mesh_changes_nothing():
    x = jnp.ones((3, 2))
    assert constrain(x, "BD") is x


@pytest.mark.parametrize("name", tiny.MESHES)
def test_sharded_forward_equals_unsharded(name):
    weights = tiny.variables()
    packed = tiny.rows(tiny.draw_tokens(1, 12, 7, 9, 12, 3, 5, 11, 8), 12)
    want, want_aux = tiny.forward()(weights, packed)
    mesh = make_mesh(tiny.MESHES[name])
    sharded = jax.device_put(weights, state_shardings(mesh, weights))
    rows = jax.device_put(packed, activation_sharding(mesh, "RT"))
    with jax.set_mesh(mesh):
        logits, aux = tiny.forward()(sharded, rows)
    assert len(sharded["params"]["moe"]["moe"]["gate_EDF"].sharding.device_set) == 8
    np.testing.assert_allclose(logits, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(aux.load_NE, want_aux.load_NE)
    np.testing.assert_allclose(aux.balance, want_aux.balance, rtol=1e-5)
