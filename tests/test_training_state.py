"""The state: what it holds, and that it is made straight in its shardings."""

import dataclasses

import jax
import numpy as np
import pytest

from r1jax.config import OptimizerConfig
from r1jax.mesh import make_mesh
from r1jax.training.optimizer import make_optimizer
from r1jax.training.state import abstract_state, fresh_params, new_state, shardings, start_state
from tests import tiny_policy as tiny

OPTIMIZER = make_optimizer(
    OptimizerConfig(
        rule="adamw",
        lr=0.1,
        warmup_steps=1,
        schedule="constant",
        final_scale=1.0,
        beta1=0.9,
        beta2=0.99,
        eps=1e-8,
        weight_decay=0.0,
        clip_norm=1.0,
    ),
    10,
)


def test_a_new_state_is_at_step_zero_and_refers_to_its_own_copy():
    weights = jax.tree.map(jax.numpy.asarray, tiny.variables())
    state = new_state(weights, OPTIMIZER, with_reference=True)
    assert int(state.step) == 0
    jax.tree.map(np.testing.assert_array_equal, state.reference, weights)
    for policy, reference in zip(*map(jax.tree.leaves, (state.params, state.reference)), strict=True):
        apart = policy.unsafe_buffer_pointer() != reference.unsafe_buffer_pointer()
        assert apart, "a step that donates the policy would destroy the reference"
    assert new_state(weights, OPTIMIZER, with_reference=False).reference is None


def test_the_optimizer_holds_no_moments_of_the_load_bias():
    state = new_state(tiny.variables(), OPTIMIZER, with_reference=False)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.optimizer)]
    assert any("gate_EDF" in path for path in paths) and not any("bias_E" in path for path in paths)


@pytest.mark.parametrize("with_reference", [False, True])
def test_a_started_state_is_what_was_announced(with_reference):
    """Shapes, dtypes and shardings equal `abstract_state`'s, and the numbers those of `new_state`."""
    mesh = make_mesh(tiny.MESHES["data2_expert2_tensor2"])
    abstract = abstract_state(tiny.CONFIG, OPTIMIZER, mesh, with_reference)
    place = shardings(abstract)
    want = new_state(tiny.variables(), OPTIMIZER, with_reference)
    state = start_state(jax.device_put(tiny.variables(), place.params), OPTIMIZER, abstract)
    assert jax.tree.structure(state) == jax.tree.structure(abstract)
    for got, announced, expected in zip(*map(jax.tree.leaves, (state, abstract, want)), strict=True):
        assert (got.shape, got.dtype) == (announced.shape, announced.dtype)
        assert got.sharding.is_equivalent_to(announced.sharding, got.ndim)
        np.testing.assert_array_equal(got, expected)
    gate = state.params["params"]["moe"]["moe"]["gate_EDF"]
    assert gate.addressable_shards[0].data.shape == (2, 4, 16, 6), "experts and their width are split in two"


def test_fresh_weights_do_not_depend_on_the_mesh():
    with tiny.quick():
        config = dataclasses.replace(tiny.CONFIG, layers=2, dense_layers=0)
        alone = fresh_params(config, tiny.one_device(), seed=3)
        spread = fresh_params(config, make_mesh(tiny.MESHES["data2_expert2_tensor2"]), seed=3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), alone, spread)
    assert len(spread["params"]["head_DV"].sharding.device_set) == 8
