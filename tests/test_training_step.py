"""The update: against NumPy, and independent of packing, accumulation and mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.config import BatchConfig, GrpoConfig, OptimizerConfig, RouterConfig
from r1jax.data.packing import Piece, document, fit, places, split_group, write_rows
from r1jax.mesh import activation_sharding, make_mesh, state_shardings
from r1jax.training.optimizer import make_optimizer
from r1jax.training.state import TrainState, new_state
from r1jax.training.step import RlBatch, look_up, rl_step, score, segment_count, sft_step
from tests import reference_numpy, reference_policy
from tests import tiny_policy as tiny

# Mixture layers only: most of a test is compiling, and the two stacks are two programs.
CONFIG = dataclasses.replace(tiny.CONFIG, layers=2, dense_layers=0)
ROWS, LENGTH, TEMPERATURE, MAX_LENGTH = 8, 48, 0.8, 8
BATCH = BatchConfig(row_length=LENGTH, rows=ROWS, micro_rows=ROWS, logit_chunk=16)
ROUTER = RouterConfig(bias_rate=0.01, balance_coef=0.05)
GRPO = GrpoConfig(
    advantage_scale="std",
    aggregation="sum_then_normalize",
    clip_low=0.2,
    clip_high=0.3,
    kl_coef=0.1,
    kl_estimator="k3",
    reduction="sequence",
    importance="token",
    sampler_cap=0.0,
    minibatches=1,
    epochs=1,
    reference_refresh=0,
)
# A large eps keeps Adam's step smooth where a gradient is nearly 0, so that rounding does not show in the sign.
OPTIMIZER = OptimizerConfig(
    rule="adamw",
    lr=0.02,
    warmup_steps=1,
    schedule="constant",
    final_scale=1.0,
    beta1=0.9,
    beta2=0.99,
    eps=0.01,
    weight_decay=0.01,
    clip_norm=1.0,
)
PROMPTS = tiny.draw_tokens(1, 4, 1)
COMPLETIONS = tiny.draw_tokens(2, 5, 1, 7, 3, 6, 0, 4, 8)  # G = 4
ADVANTAGES = np.float32([1.2, -0.8, -0.9, 0.5, 1.5, 0.3, -1.0, -0.8])
DOCUMENTS = tiny.draw_tokens(3, 20, 7, 13, 24, 9, 2, 16, 11)
DOCUMENT_PROMPTS = [0, 3, 0, 10, 9, 1, 0, 4]


def state(reference: bool = True) -> TrainState:
    weights = jax.tree.map(jnp.asarray, tiny.variables(CONFIG))
    fresh = new_state(weights, make_optimizer(OPTIMIZER, 100), reference)
    return fresh._replace(reference=jax.tree.map(jnp.asarray, tiny.variables(CONFIG, seed=1))) if reference else fresh


@functools.cache
def sft(micro_rows: int = ROWS):
    config = dataclasses.replace(BATCH, micro_rows=micro_rows)
    return tiny.jit(functools.partial(sft_step, CONFIG, config, ROUTER, 0.0, make_optimizer(OPTIMIZER, 100)))


@functools.cache
def rl(*, micro_rows=ROWS, router=ROUTER, grpo=GRPO, optimizer=OPTIMIZER):
    config = dataclasses.replace(BATCH, micro_rows=micro_rows)
    transform = make_optimizer(optimizer, 100)
    step = functools.partial(rl_step, CONFIG, config, router, grpo, TEMPERATURE, MAX_LENGTH, transform)
    return tiny.jit(step)


def packed_documents(room: int = 24):
    """The documents, several a row as far as `room` tokens go, in ROWS rows."""
    pieces = [document(tokens, n) for tokens, n in zip(DOCUMENTS, DOCUMENT_PROMPTS, strict=True)]
    return write_rows(spread(pieces, room), LENGTH, 0)


def spread(pieces: list[Piece], room: int) -> list[list[Piece]]:
    """ROWS rows that hold at most `room` tokens each."""
    rows = [[pieces[i] for i in row] for row in fit([piece.length for piece in pieces], room)]
    return rows + [[]] * (ROWS - len(rows))


@functools.cache
def logp_alone(seed: int) -> np.ndarray:
    """logp_BL of the completions under `variables(seed=seed)`, each sequence read whole in a row of its own."""
    whole = [PROMPTS[b // 4] + tokens for b, tokens in enumerate(COMPLETIONS)]
    logits, _ = tiny.forward(CONFIG)(tiny.variables(CONFIG, seed=seed), tiny.rows(whole, 12))
    out = np.zeros((8, MAX_LENGTH))
    for b, tokens in enumerate(COMPLETIONS):
        start = len(PROMPTS[b // 4]) - 1
        logp = reference_policy.log_softmax(np.asarray(logits[b], np.float64)[start : start + len(tokens)], TEMPERATURE)
        out[b, : len(tokens)] = logp[np.arange(len(tokens)), tokens]
    return out


def mask() -> np.ndarray:
    return np.arange(MAX_LENGTH)[None] < np.array([len(tokens) for tokens in COMPLETIONS])[:, None]


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(8, MAX_LENGTH)) * 0.3


def rl_batch(room: int = 24) -> RlBatch:
    """Rollouts of a policy a little off this one, so that some ratios are clipped."""
    numbered = list(enumerate(COMPLETIONS))
    rows = spread(split_group(PROMPTS[0], numbered[:4], 24) + split_group(PROMPTS[1], numbered[4:], 24), room)
    packed, index_BL = write_rows(rows, LENGTH, 0), places(rows, LENGTH, len(COMPLETIONS), MAX_LENGTH)
    old, sampler = (np.where(mask(), logp_alone(0) + noise(n), 0).astype(np.float32) for n in (4, 5))
    return RlBatch(packed, index_BL, ADVANTAGES, sampler, old, np.float32(logp_alone(1)))


@functools.cache
def usual_sft():
    return jax.device_get(sft()(state(False), packed_documents()))


@functools.cache
def usual_rl():
    return jax.device_get(rl()(state(), rl_batch()))


def assert_same_update(got, want):
    """Equal parameters, moments and metrics to 1e-5; the router's bias exactly. Padding is each cut's own."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got[0], want[0])
    jax.tree.map(np.testing.assert_array_equal, got[0].params["router"], want[0].params["router"])
    for name in set(want[1]) - {"update/padding"}:
        np.testing.assert_allclose(got[1][name], want[1][name], rtol=1e-4, atol=1e-5, err_msg=name)


# --- against NumPy ---


def document_outputs() -> list[dict]:
    return [reference_policy.forward(CONFIG, tiny.variables(CONFIG), tokens[:-1]) for tokens in DOCUMENTS]


def test_sft_metrics_equal_numpy():
    """Loss and entropy over the learnt tokens, the balance loss as the mean over documents, the share of padding."""
    logp, entropy, balance = [], [], []
    for tokens, prompt, out in zip(DOCUMENTS, DOCUMENT_PROMPTS, document_outputs(), strict=True):
        logp_LV = reference_policy.log_softmax(out["logits"])
        learnt = [i for i in range(len(tokens) - 1) if i + 1 >= prompt]
        logp += [logp_LV[i, tokens[i + 1]] for i in learnt]
        entropy += [-np.sum(np.exp(logp_LV[i]) * logp_LV[i]) for i in learnt]
        balance.append(out["balance"])
    new, metrics = usual_sft()
    assert float(metrics["loss"]) == pytest.approx(-np.mean(logp), rel=1e-4)
    assert float(metrics["policy/entropy"]) == pytest.approx(np.mean(entropy), rel=1e-4)
    assert float(metrics["moe/balance"]) == pytest.approx(np.mean(balance), rel=1e-4)
    inputs = sum(len(tokens) - 1 for tokens in DOCUMENTS)
    assert float(metrics["update/padding"]) == pytest.approx(1 - inputs / (ROWS * LENGTH))
    assert int(new.step) == 1


def test_the_load_bias_moves_against_the_load():
    """By the rate, down for the experts above the mean load, up for those below, in every layer by itself."""
    load_NE = sum(out["load"] for out in document_outputs())
    mean = load_NE.mean(axis=1, keepdims=True)
    assert (load_NE > mean).any() and (load_NE < mean).any()
    new, metrics = usual_sft()
    before = tiny.variables(CONFIG)["router"]["moe"]["moe"]["bias_E"]
    shift = new.params["router"]["moe"]["moe"]["bias_E"] - before
    np.testing.assert_allclose(shift, 0.01 * np.sign(mean - load_NE), atol=1e-6)
    assert float(metrics["moe/max_load"]) == pytest.approx((load_NE / mean).max())
    assert int(metrics["moe/dropped"]) == 0


def test_score_equals_each_sequence_alone():
    """In packed rows, in micro-batches, at the sampling temperature; 0 where there is no token."""
    config = dataclasses.replace(BATCH, micro_rows=2)
    batch = rl_batch()
    run = tiny.jit(functools.partial(score, CONFIG, config, TEMPERATURE))
    np.testing.assert_allclose(run(tiny.variables(CONFIG), batch.packed, batch.index_BL), logp_alone(0), atol=1e-5)


def test_rl_metrics_equal_numpy():
    """Loss, KL, clipping and ratio from log-probabilities of unpacked sequences, put into the NumPy GRPO."""
    batch, (_, metrics) = rl_batch(), usual_rl()
    options = ("clip_low", "clip_high", "kl_coef", "kl_estimator", "reduction", "importance")
    want = reference_numpy.grpo(
        logp_alone(0),
        batch.logp_old_BL.astype(np.float64),
        logp_alone(1),
        ADVANTAGES.astype(np.float64),
        mask(),
        max_length=MAX_LENGTH,
        **{name: getattr(GRPO, name) for name in options},
    )
    assert 0 < want["clip_fraction"] < 1
    assert float(metrics["loss"]) == pytest.approx(want["loss"], rel=1e-4)
    for name in ("kl", "clip_fraction", "ratio_mean"):
        assert float(metrics[f"policy/{name}"]) == pytest.approx(want[name], rel=1e-4), name
    mismatch = np.abs(batch.logp_sampler_BL - batch.logp_old_BL)[mask()].mean()
    assert float(metrics["policy/sampler_mismatch"]) == pytest.approx(mismatch, rel=1e-4)


GOLDEN = {"sft": (4.2085605, 3.3856688), "rl": (0.3847311, 5.5058093)}


@pytest.mark.parametrize("kind, usual", [("sft", usual_sft), ("rl", usual_rl)])
def test_golden_step(kind, usual):
    metrics = usual()[1]
    got = (float(metrics["loss"]), float(metrics["grad_norm"]))
    assert got == pytest.approx(GOLDEN[kind], rel=1e-4), (
        f"(loss, grad_norm) of one {kind} step from fixed weights is {got}, pinned {GOLDEN[kind]}. Update the pin only "
        "for a change that is meant to alter the mathematics (architecture, loss, normalisation), and say so in "
        "CHANGELOG.md; a faster kernel or a refactoring must leave it as it is"
    )


# --- what must not matter ---


def test_sft_does_not_depend_on_micro_batches():
    assert_same_update(sft(micro_rows=1)(state(False), packed_documents()), usual_sft())


def test_rl_does_not_depend_on_micro_batches():
    """With the two groups in two micro-batches, beside six empty ones."""
    assert_same_update(rl(micro_rows=1)(state(), rl_batch()), usual_rl())


def test_sft_does_not_depend_on_packing():
    """The same documents in fewer, fuller rows, beside more empty ones."""
    full = [int((packed_documents(room).segment_RT > 0).any(axis=1).sum()) for room in (24, 48)]
    assert full == [5, 2]
    assert_same_update(sft()(state(False), packed_documents(48)), usual_sft())


def test_rl_does_not_depend_on_packing():
    """Each group in a row of its own, or both in one."""
    full = [int((rl_batch(room).packed.segment_RT > 0).any(axis=1).sum()) for room in (24, 48)]
    assert full == [2, 1]
    assert_same_update(rl()(state(), rl_batch(48)), usual_rl())


SHARDED = {"data8": 8, "fsdp4_tensor2": 8, "expert8": 8, "data2_expert2_tensor2": 8}  # micro_rows of each mesh
SLOW = [("sft", "fsdp4_tensor2"), ("sft", "expert8")]  # the same gradients and update as rl's, compiled once more


@pytest.mark.parametrize(
    "kind, name, micro_rows",
    [
        pytest.param(kind, name, rows, marks=pytest.mark.slow if (kind, name) in SLOW else ())
        for kind in ("sft", "rl")
        for name, rows in SHARDED.items()
    ],
)
def test_sharded_update_equals_unsharded(kind, name, micro_rows):
    mesh = make_mesh(tiny.MESHES[name])
    start, step, want = (state(False), sft, usual_sft) if kind == "sft" else (state(), rl, usual_rl)
    packed = packed_documents() if kind == "sft" else rl_batch().packed
    sharded = jax.device_put(start, state_shardings(mesh, start))
    rows = jax.device_put(packed, activation_sharding(mesh, "RT"))
    with jax.set_mesh(mesh):
        got = step(micro_rows=micro_rows)(sharded, rows if kind == "sft" else rl_batch()._replace(packed=rows))
    assert_same_update(got, want())


# --- what a step leaves alone, and what it moves ---


def test_the_reference_stays_and_the_stage_counts_steps():
    new, _ = usual_rl()
    jax.tree.map(np.testing.assert_array_equal, new.reference, tiny.variables(CONFIG, seed=1))
    assert int(new.step) == 0, "an update is not a step of the stage"
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), new.params["params"], tiny.variables(CONFIG)["params"])
    assert all(jax.tree.leaves(moved)), "every parameter learns"


def test_nothing_to_learn_moves_nothing():
    """No advantage, no KL, no decay, no balance: parameters and load bias are bitwise what they were."""
    run = rl(
        router=RouterConfig(bias_rate=0.0, balance_coef=0.0),
        grpo=dataclasses.replace(GRPO, kl_coef=0.0),
        optimizer=dataclasses.replace(OPTIMIZER, weight_decay=0.0),
    )
    batch = rl_batch()._replace(logp_old_BL=None, logp_ref_BL=None)
    new, metrics = run(state(), batch._replace(advantages_B=np.zeros(8, np.float32)))
    jax.tree.map(np.testing.assert_array_equal, new.params, tiny.variables(CONFIG))
    assert float(metrics["grad_norm"]) == 0.0 and float(metrics["loss"]) == 0.0

    new, metrics = run(state(), batch)
    assert float(metrics["grad_norm"]) > 0, "the same program learns from advantages"
    assert float(metrics["policy/ratio_mean"]) == 1.0 and float(metrics["policy/clip_fraction"]) == 0.0
    jax.tree.map(np.testing.assert_array_equal, new.params["router"], tiny.variables(CONFIG)["router"])


def test_the_ratio_departs_from_one_after_the_first_update_and_clipping_acts():
    config = dataclasses.replace(BATCH, micro_rows=2)
    batch, now = rl_batch(), state()
    old = tiny.jit(functools.partial(score, CONFIG, config, TEMPERATURE))(now.params, batch.packed, batch.index_BL)
    batch = batch._replace(logp_old_BL=old)
    ratios, clipped = [], []
    for _ in range(6):
        now, metrics = rl()(now, batch)
        ratios.append(float(metrics["policy/ratio_mean"]))
        clipped.append(float(metrics["policy/clip_fraction"]))
    assert ratios[0] == pytest.approx(1.0, abs=1e-5) and clipped[0] == 0.0
    assert abs(ratios[1] - 1.0) > 1e-3
    assert max(clipped[1:]) > 0.1


def test_learning_makes_good_completions_likelier():
    """After one update the advantage-weighted log-probability is higher than before."""
    batch, (new, _) = rl_batch(), usual_rl()
    run = tiny.jit(functools.partial(score, CONFIG, dataclasses.replace(BATCH, micro_rows=2), TEMPERATURE))
    after = np.asarray(run(new.params, batch.packed, batch.index_BL))
    lengths = np.maximum(mask().sum(axis=1), 1)
    assert ((after - logp_alone(0)).sum(axis=1) / lengths * ADVANTAGES).sum() > 0


# --- small parts ---


def test_look_up_gives_zero_outside():
    got = look_up(jnp.float32([5, 6, 7]), np.int32([[0, 2], [-1, 3], [1, 99]]))
    np.testing.assert_array_equal(got, [[5, 7], [0, 0], [6, 0]])


def test_segments_are_counted_over_rows():
    assert int(segment_count(np.int32([[1, 1, 2, 0], [0, 0, 0, 0], [1, 2, 3, 3]]))) == 5


def test_rows_must_divide_into_micro_batches():
    with pytest.raises(ValueError, match=r"8.*batch\.micro_rows \(3\)"):
        sft(micro_rows=3)(state(False), packed_documents())
