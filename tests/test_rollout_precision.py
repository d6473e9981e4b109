"""Rollouts in less precision than the policy's: what is rounded, what it costs in agreement, and what corrects it."""

import dataclasses
import functools
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smoke_run
from flax.traverse_util import flatten_dict, unflatten_dict

from r1jax.mesh import make_mesh, state_shardings
from r1jax.models.layers import scales_name
from r1jax.rollout.precision import RoundedPlacement, quantized, rounded, sampler_policy
from r1jax.stages import rl
from r1jax.stages.inference import ONE_DEVICE
from tests import tiny_policy as tiny

ONE = make_mesh(ONE_DEVICE, jax.devices()[:1])
SHORT = {"steps": 2, "evaluation.every": 0, "evaluation.samples": 1, "evaluation.limit": 4, "grpo.epochs": 1}


def named(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def test_matrices_are_rounded_and_the_router_and_the_norms_are_not():
    given = named(tiny.variables(tiny.CONFIG))
    copy = named(jax.jit(lambda x: rounded(x, precision="bfloat16"))(tiny.variables(tiny.CONFIG)))
    assert copy.keys() == given.keys()
    exact = {name for name, leaf in copy.items() if leaf.dtype == jnp.float32}
    assert exact == {name for name in given if "scale_X" in name or "router" in name}
    for name, leaf in copy.items():
        want = given[name] if name in exact else np.asarray(given[name]).astype(jnp.bfloat16)
        np.testing.assert_array_equal(np.asarray(leaf, np.float32), np.asarray(want, np.float32))


@pytest.mark.parametrize(
    ("name", "shape", "kept"),
    [
        ("q_DHC", (6, 2, 4), "ijk->jk"), ("out_HCD", (2, 4, 6), "ijk->k"), ("down_FD", (3, 6, 5), "nij->nj"),
        ("gate_EDF", (3, 6, 4), "eij->ej"), ("down_EFD", (2, 3, 4, 6), "neij->nej"),
        ("k_up_WHC", (2, 5, 2, 4), "nijk->njk"),
    ],
)  # fmt: skip
def test_each_output_channel_has_its_scale(name, shape, kept):
    """The largest of a channel is 127 units; no weight is off by more than half a unit, and 0 stays 0."""
    w = np.random.default_rng(0).normal(size=shape) * np.exp(np.random.default_rng(1).normal(size=shape[-1]))
    w[..., 1] = 0.0
    units, scale = quantized(name, jnp.asarray(w, jnp.float32))
    assert units.dtype == jnp.int8 and units.shape == shape and scale.ndim == len(shape)
    largest = np.vectorize(abs)(w)
    for axis in reversed([i for i, letter in enumerate(kept.split("->")[0]) if letter not in kept.split("->")[1]]):
        largest = largest.max(axis=axis)
    np.testing.assert_allclose(np.asarray(scale).reshape(largest.shape) * 127, largest, rtol=1e-6)
    product = np.asarray(units, np.float64) * np.asarray(scale, np.float64)
    assert (np.abs(product - w) <= np.asarray(scale, np.float64) * 0.5 + 1e-7).all()
    assert not product[..., 1].any() and np.abs(np.asarray(units)).max() == 127


@pytest.mark.parametrize("config", [pytest.param(tiny.CONFIG, marks=pytest.mark.slow), tiny.DENSE], ids=["mla", "gqa"])
def test_8_bit_layers_compute_what_their_products_would(config):
    """Rows and decode steps of the integers with their scales, and of the matrices multiplied out beforehand."""
    policy = sampler_policy(config, "int8")
    weights = tiny.variables(config)
    copy = jax.jit(lambda x: rounded(x, precision="int8"))(weights)
    whole = {"params": {}, "router": copy["router"]}
    matrices = 0
    for path, leaf in flatten_dict(copy["params"]).items():
        if leaf.dtype == jnp.int8:
            matrices += 1
            scale = flatten_dict(copy["scales"])[*path[:-1], scales_name(path[-1])]
            leaf = leaf.astype(jnp.bfloat16) * scale.astype(jnp.bfloat16)
        whole["params"][path] = leaf
    whole["params"] = unflatten_dict(whole["params"])
    assert matrices == len(flatten_dict(copy["scales"])) > 5
    stored = sum(leaf.nbytes for leaf in jax.tree.leaves(copy["params"]) if leaf.dtype == jnp.int8)
    assert stored > 0.6 * sum(leaf.size for leaf in jax.tree.leaves(copy["params"])), (
        "most of a policy is in its layers"
    )
    prompts = tiny.draw_tokens(5, 4, 3)
    settings = dict(temperature=1.0, top_k=0, top_p=1.0, max_tokens=6)
    engine = tiny.engine(ONE, config=policy)
    seeds = np.arange(4, dtype=np.uint32)
    got, want = (engine.generate(tree, prompts, seeds, **settings) for tree in (copy, whole))
    np.testing.assert_array_equal(got.completion_BL, want.completion_BL)
    np.testing.assert_allclose(got.logp_sampler_BL, want.logp_sampler_BL, atol=1e-6)
    exact = tiny.engine(ONE, config=config).generate(weights, prompts, seeds, **settings)
    off = np.abs(got.logp_sampler_BL[:, 0] - exact.logp_sampler_BL[:, 0])[
        got.completion_BL[:, 0] == exact.completion_BL[:, 0]
    ]
    assert 0 < off.max() < 0.3


@pytest.mark.slow
def test_8_bit_layers_over_devices_sample_as_on_one():
    """The integers and their scales split over data, experts and heads; lent from a mesh where they lie otherwise."""
    training, sampling = (make_mesh(tiny.MESHES[name]) for name in ("fsdp4_tensor2", "data2_expert2_tensor2"))
    weights, policy = tiny.variables(tiny.CONFIG), sampler_policy(tiny.CONFIG, "int8")
    params = jax.device_put(weights, state_shardings(training, weights))
    prompts, seeds = tiny.draw_tokens(5, 4, 3, 6, 2), np.arange(8, dtype=np.uint32)
    settings = dict(temperature=1.0, top_k=0, top_p=1.0, max_tokens=6)

    def sampled(engine, copy):
        return engine.generate(copy, prompts, seeds, **settings)

    engine = tiny.engine(sampling, config=policy)
    got, _, figures = RoundedPlacement(params, training, sampling, "int8").lend(params, lambda x: sampled(engine, x))
    want = sampled(tiny.engine(ONE, config=policy), rounded(weights, precision="int8"))
    assert figures["reshard/bytes"] > 0
    first = got.completion_BL[:, 0] == want.completion_BL[:, 0]
    assert first.mean() > 0.7, "bfloat16 sums in another order: a draw may fall on the other side of a bound"
    np.testing.assert_allclose(got.logp_sampler_BL[first, 0], want.logp_sampler_BL[first, 0], atol=0.05)


def test_the_policy_itself_where_nothing_is_rounded():
    assert sampler_policy(tiny.CONFIG, "policy") is tiny.CONFIG
    narrow = dataclasses.replace(tiny.CONFIG, dtype="bfloat16", param_dtype="bfloat16")
    assert sampler_policy(tiny.CONFIG, "bfloat16") == narrow == sampler_policy(narrow, "bfloat16")


def test_the_copy_is_lent_on_the_samplers_mesh_and_the_parameters_stay():
    """From one mesh to another and back to nobody; the parameters are the very arrays they were, not donated."""
    training, sampling = (make_mesh(tiny.MESHES[name]) for name in ("fsdp4_tensor2", "data2_expert2_tensor2"))
    weights = tiny.variables(tiny.CONFIG)
    params = jax.device_put(weights, state_shardings(training, weights))
    placement = RoundedPlacement(params, training, sampling, "bfloat16")
    for _ in range(2):
        lent, kept, figures = placement.lend(params, lambda copy: copy)
        assert kept is params and figures["reshard/bytes"] > 0 and figures["time/reshard_s"] > 0
        want = state_shardings(sampling, lent)
        for leaf, place in zip(jax.tree.leaves(lent), jax.tree.leaves(want), strict=True):
            assert leaf.sharding.is_equivalent_to(place, leaf.ndim)
        for name, leaf in named(rounded(weights, precision="bfloat16")).items():
            np.testing.assert_array_equal(np.asarray(named(lent)[name], np.float32), np.asarray(leaf, np.float32))
    jax.tree.map(np.testing.assert_array_equal, params, weights)
    both = sum(RoundedPlacement(params, training, sampling, "bfloat16")._placement._move.received)
    assert figures["reshard/bytes"] < both, "nothing comes back"


@functools.cache
def rows(precision: str, cap: float):
    """The metrics of two steps of one update each."""
    changes = {"rollout.precision": precision, "grpo.sampler_cap": cap, "grpo.minibatches": 1}
    with tempfile.TemporaryDirectory() as folder:
        rl.run(smoke_run.stage("zero", **SHORT, **changes), folder)
        return smoke_run.rows(Path(folder) / "metrics.jsonl")


@pytest.mark.slow
def test_equal_precision_weighs_all_tokens_1():
    for row, plain in zip(rows("policy", 2.0), rows("policy", 0.0), strict=True):
        assert row["policy/sampler_weight"] == pytest.approx(1.0, abs=1e-5)
        assert row["policy/sampler_truncated"] == 0.0
        assert row["loss"] == pytest.approx(plain["loss"], abs=1e-5)
        assert row["grad_norm"] == pytest.approx(plain["grad_norm"], rel=1e-4)
        assert not [name for name in plain if "sampler_" in name and name != "policy/sampler_mismatch"]
        assert plain["policy/sampler_mismatch"] < 1e-5


@pytest.mark.parametrize("precision", [pytest.param("bfloat16", marks=pytest.mark.slow), "int8"])
def test_a_rounded_sampler_is_told_by_its_mismatch(precision):
    for row in rows(precision, 2.0):
        assert 1e-4 < row["policy/sampler_mismatch"] < 0.1
        assert 0.9 < row["policy/sampler_weight"] < 1.1 and row["policy/sampler_weight"] != 1.0
        assert np.isfinite(row["loss"]) and row["policy/ratio_mean"] == 1.0, "the ratio is the trainer's own"


def test_bad_precisions_are_refused():
    with pytest.raises(ValueError, match=r"rollout\.precision is 'bfloat6'.*did you mean 'bfloat16'"):
        smoke_run.stage("zero", init_from="base", **{"rollout.precision": "bfloat6"})
