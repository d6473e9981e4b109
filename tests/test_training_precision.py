"""In which precision the optimizer remembers: moments, master copies, sums of gradients; what a checkpoint holds."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import r1_zero_tiny
from r1jax.config import PrecisionConfig, stage_config
from r1jax.models.policy import Aux
from r1jax.training.checkpoint import Checkpoints
from r1jax.training.optimizer import Mastered, apply_updates, make_optimizer
from r1jax.training.state import TrainState, new_state
from r1jax.training.step import accumulate
from tests.test_training_optimizer import CONFIG

SMALL = dataclasses.replace(CONFIG, lr=1e-4, warmup_steps=1, weight_decay=0.1)
SHAPES = {"embed_VD": (5, 4), "gate_DF": (4, 6), "scale_X": (4,)}


def precise(moments: str, master: bool, config=SMALL):
    return make_optimizer(dataclasses.replace(config, precision=PrecisionConfig(moments, master)), 100)


def draw(seed: int, scale: float) -> dict[str, np.ndarray]:
    """Numbers about `scale` that bfloat16 holds exactly."""
    rng = np.random.default_rng(seed)
    drawn = {name: scale * (1 + rng.random(shape)) for name, shape in SHAPES.items()}
    return {name: np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32) for name, x in drawn.items()}


def trained(optimizer, params, updates: int):
    """(parameters, optimizer's state) after so many updates by gradients that are the same for all."""
    state = optimizer.init(params)
    for i in range(updates):
        moved, state = optimizer.update(draw(100 + i, 0.5), state, params)
        params, state = apply_updates(params, moved, state)
    return params, state


def rounded(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), tree)


def test_master_copies_move_as_float32_parameters_do_and_are_rounded():
    exact = draw(0, 1.0)
    want, _ = trained(make_optimizer(SMALL, 100), exact, 8)
    got, state = trained(precise("float32", True), rounded(exact), 8)
    jax.tree.map(np.testing.assert_array_equal, state.master, want)
    jax.tree.map(np.testing.assert_array_equal, got, rounded(want))
    assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(got))


def test_without_them_small_updates_are_lost():
    """Eight steps of 1e-4 from 1..2, where bfloat16's numbers lie 2^-7 apart: what the copies are for."""
    start = rounded(draw(0, 1.0))
    alone, _ = trained(precise("float32", False), start, 8)
    jax.tree.map(np.testing.assert_array_equal, alone, start)
    _, state = trained(precise("float32", True), start, 8)
    moved = jax.tree.map(lambda master, x: np.abs(master - x).min(), state.master, draw(0, 1.0))
    assert min(jax.tree.leaves(moved)) > 5e-4


@pytest.mark.parametrize("rule", ["adamw", "muon"])
@pytest.mark.parametrize("moments", ["float32", "bfloat16"])
def test_moments_have_their_dtype_before_and_after_an_update(rule, moments):
    """Whatever the parameters' own; counts and Muon's coefficients are no moments."""
    optimizer = precise(moments, False, dataclasses.replace(SMALL, rule=rule))
    params = rounded(draw(0, 1.0))
    before = optimizer.init(params)
    after = trained(optimizer, params, 1)[1]
    for state in (before, after):
        kinds = {True: set(), False: set()}
        for path, leaf in jax.tree_util.tree_leaves_with_path(state):
            names = [getattr(key, "name", "") for key in path]
            kinds["mu" in names or "nu" in names].add(str(leaf.dtype))
        assert kinds[True] == {moments}
        assert kinds[False] == ({"int32", "float32"} if rule == "muon" else {"int32"})


def test_bfloat16_moments_are_rounded_between_updates_and_nowhere_else():
    """Adam in NumPy: float64 but for the rounding of both moments after each update."""
    config = dataclasses.replace(SMALL, weight_decay=0.0, lr=0.1)
    params, state = trained(precise("bfloat16", False, config), draw(0, 1.0), 3)
    want, first, second = draw(0, 1.0)["gate_DF"].astype(np.float64), 0.0, 0.0
    for i in range(3):
        grad = draw(100 + i, 0.5)["gate_DF"].astype(np.float64)
        first, second = 0.9 * first + 0.1 * grad, 0.99 * second + 0.01 * grad**2
        scaled = first / (1 - 0.9 ** (i + 1)) / (np.sqrt(second / (1 - 0.99 ** (i + 1))) + 1e-8)
        want = want - 0.1 * scaled
        first, second = (np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64) for x in (first, second))
    np.testing.assert_allclose(params["gate_DF"], want, rtol=2e-5)
    (moment,) = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if "nu" in [getattr(key, "name", "") for key in path] and path[-1].key == "gate_DF"
    ]
    np.testing.assert_allclose(np.asarray(moment, np.float64), second, rtol=2**-7)


class OneRow(NamedTuple):
    tokens_RT: jax.Array
    segment_RT: jax.Array


@pytest.mark.parametrize("micro_batches", [1, 600])
def test_gradients_are_summed_in_float32(micro_batches):
    """A sum in bfloat16 would stop at 256 ones, and could not hold 600."""
    params = {"params": {"w": jnp.ones((3,), jnp.bfloat16)}, "router": {}}
    per_batch = 600 / micro_batches

    def loss(variables, rows, _):
        total = (variables["params"]["w"] * jnp.bfloat16(per_batch)).sum()
        return total, ({"loss": total.astype(jnp.float32)}, Aux(jnp.zeros((0, 1)), jnp.zeros(()), jnp.zeros(())))

    grads, _, _ = accumulate(loss, params, OneRow(*jnp.ones((2, micro_batches, 1, 1), jnp.int32)))
    assert grads["w"].dtype == jnp.float32
    np.testing.assert_array_equal(grads["w"], np.full(3, 600.0))


def state_of(optimizer) -> TrainState:
    return new_state({"params": rounded(draw(0, 1.0)), "router": {}}, optimizer, with_reference=False)


def shapes_of(optimizer) -> TrainState:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state_of(optimizer))


def test_a_checkpoint_keeps_the_precision_and_refuses_another(tmp_path):
    optimizer = precise("bfloat16", True)
    state = state_of(optimizer)
    moved, kept = optimizer.update(draw(1, 0.5), state.optimizer, state.params["params"])
    params, kept = apply_updates(state.params["params"], moved, kept)
    state = state._replace(params={"params": params, "router": {}}, optimizer=kept)
    with_disk = Checkpoints(tmp_path, keep=1)
    with_disk.save(1, state, {})
    with_disk.wait()
    got, _ = with_disk.restore(1, shapes_of(optimizer))
    assert isinstance(got.optimizer, Mastered)
    for one, other in zip(*map(jax.tree.leaves, (got, state)), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one, np.float64), np.asarray(other, np.float64))
    for other, message in (
        (precise("float32", True), "mu.*bfloat16.*float32"),
        (precise("bfloat16", False), "checkpoint absent"),
    ):
        with pytest.raises(ValueError, match=rf"(?s)arrays of 'train' differ.*{message}"):
            with_disk.restore(1, shapes_of(other))
    with_disk.close()


def test_what_a_config_may_not_ask_for():
    with pytest.raises(ValueError, match=r"optimizer\.beta2 is 0\.999 and precision\.moments 'bfloat16'.*0\.996"):
        dataclasses.replace(CONFIG, beta2=0.999, precision=PrecisionConfig("bfloat16", False))
    with pytest.raises(ValueError, match=r"precision\.moments is 'bfloat61'.*did you mean 'bfloat16'"):
        PrecisionConfig("bfloat61", False)
    config = r1_zero_tiny.zero()
    with config.unlocked():
        config.optimizer.precision = dict(moments="float32", master=True)
    with pytest.raises(ValueError, match=r"optimizer\.precision\.master is True and policy\.param_dtype 'float32'"):
        stage_config(config)


def test_a_decay_that_is_allowed_lets_every_bfloat16_moment_fall():
    """At the bound, of all 128 numbers of an octave none rounds back to itself; above it one does."""
    octave = np.asarray(jnp.asarray(1 + np.arange(128) / 128, jnp.bfloat16), np.float64)

    def stuck(beta: float) -> int:
        return int((np.asarray(jnp.asarray(beta * octave, jnp.bfloat16), np.float64) == octave).sum())

    assert stuck(1 - 2**-8) == 0 < stuck(1 - 2**-9 - 1e-4)
