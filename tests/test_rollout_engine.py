"""The engine: cached decode equals the full forward, and a sequence depends on its own prompt and seed alone."""

import functools

import jax
import numpy as np
import pytest

from r1jax.mesh import make_mesh, state_shardings
from r1jax.rollout.decoding import Sampling
from r1jax.rollout.engine import bucket
from r1jax.rollout.sampling import sample
from r1jax.types import Rollouts
from tests import tiny_policy as tiny
from tests.reference_policy import log_softmax

STOP, PAD, MAX = (3, 4, 5, 6), 0, 12
PROMPTS = tiny.draw_tokens(7, 3, 9, 1, 6)
SEEDS = np.arange(100, 112, dtype=np.uint32)  # G = 3


@functools.cache
def one_device_engine():
    return tiny.engine(tiny.one_device(), stop_ids=STOP, pad_id=PAD)


def generate(prompts=PROMPTS, seeds=SEEDS, *, engine=None, weights=None, **changes) -> Rollouts:
    settings = dict(temperature=0.8, top_k=0, top_p=1.0, max_tokens=MAX) | changes
    weights = tiny.variables() if weights is None else weights
    return (engine or one_device_engine()).generate(weights, prompts, seeds, **settings)


@functools.cache
def usual() -> Rollouts:
    return generate()


def full_forward(rollouts: Rollouts, temperature: float) -> np.ndarray:
    """Log-probabilities [B, MAX, V] of every next token, each sequence read whole, without a cache."""
    group = len(rollouts.length_B) // len(rollouts.prompt_length_P)
    prompts = [row[:n].tolist() for row, n in zip(rollouts.prompt_PL, rollouts.prompt_length_P, strict=True)]
    whole = [
        prompts[b // group] + tokens[:n].tolist()
        for b, (tokens, n) in enumerate(zip(rollouts.completion_BL, rollouts.length_B, strict=True))
    ]
    logits, _ = tiny.forward()(tiny.variables(), tiny.rows(whole, 24))
    out = np.zeros((len(whole), MAX, tiny.CONFIG.vocab_size))
    for b, n in enumerate(rollouts.length_B):
        start = len(prompts[b // group]) - 1
        out[b, :n] = log_softmax(np.asarray(logits[b, start : start + n], np.float64), temperature)
    return out


def chosen(logp_BLV: np.ndarray, rollouts: Rollouts) -> np.ndarray:
    return np.take_along_axis(logp_BLV, rollouts.completion_BL[:, :, None].astype(int), axis=2)[:, :, 0]


def test_cached_decode_equals_the_full_forward():
    rollouts = usual()
    assert rollouts.length_B.max() > 8, "the case should decode far into the cache"
    np.testing.assert_allclose(rollouts.logp_sampler_BL, chosen(full_forward(rollouts, 0.8), rollouts), atol=1e-5)


def test_a_sequence_ends_at_its_first_stop_token_and_is_padded_after():
    rollouts = usual()
    finished = 0
    for tokens, n, logp, done in zip(
        rollouts.completion_BL, rollouts.length_B, rollouts.logp_sampler_BL, rollouts.finished_B, strict=True
    ):
        stops = [t for t, token in enumerate(tokens[:n]) if token in STOP]
        assert stops == ([n - 1] if done else []), "the stop token is kept, and is the last"
        assert done or n == MAX
        assert (tokens[n:] == PAD).all() and (logp[n:] == 0).all() and (logp[:n] < 0).all()
        finished += bool(done)
    assert 0 < finished < len(SEEDS), "the case should hold both finished and truncated sequences"


def test_records_have_the_promised_shapes_and_types():
    rollouts = usual()
    shapes = {name: (x.shape, x.dtype.name) for name, x in rollouts._asdict().items()}
    assert shapes == {
        "prompt_PL": ((4, 32), "int32"),
        "prompt_length_P": ((4,), "int32"),
        "completion_BL": ((12, MAX), "int32"),
        "length_B": ((12,), "int32"),
        "logp_sampler_BL": ((12, MAX), "float32"),
        "finished_B": ((12,), "bool"),
    }
    for row, prompt in zip(rollouts.prompt_PL, PROMPTS, strict=True):
        assert row[: len(prompt)].tolist() == prompt and (row[len(prompt) :] == PAD).all()


def test_samples_of_a_prompt_differ_and_other_seeds_give_other_tokens():
    rollouts = usual()
    assert len({tuple(tokens) for tokens in rollouts.completion_BL}) == len(SEEDS)
    other = generate(seeds=SEEDS + 1000)
    assert (other.completion_BL[:, 0] != rollouts.completion_BL[:, 0]).any()


def test_neighbours_do_not_matter():
    """The second prompt's samples, with other prompts around them, in other places, and quite alone."""
    want = usual().completion_BL[3:6]
    others = tiny.draw_tokens(8, 2, 11, 5)
    seeds = np.arange(12, dtype=np.uint32)
    seeds[9:] = SEEDS[3:6]
    moved = generate([*others, PROMPTS[1]], seeds)
    np.testing.assert_array_equal(moved.completion_BL[9:], want)
    alone = generate([PROMPTS[1]], SEEDS[4:5])
    np.testing.assert_array_equal(alone.completion_BL, want[1:2])
    np.testing.assert_allclose(alone.logp_sampler_BL, usual().logp_sampler_BL[4:5], atol=1e-5)


def test_a_token_is_drawn_with_the_key_of_its_position():
    """fold_in(key(seed), t) and the full forward's distribution give the token t: a fresh number each, by contract."""
    rollouts = usual()
    logp_BLV = full_forward(rollouts, 0.8).astype(np.float32)
    b, t = np.nonzero(np.arange(MAX)[None] < rollouts.length_B[:, None])
    keys = jax.vmap(lambda seed, at: jax.random.fold_in(jax.random.key(seed), at))(SEEDS[b], t)
    token, _ = sample(logp_BLV[b, t], keys, temperature=1.0, top_k=0, top_p=1.0)
    np.testing.assert_array_equal(token, rollouts.completion_BL[b, t])


def test_stream_gives_the_tokens_of_generate():
    rollouts = usual()
    for b in (0, 4, 11):
        settings = dict(temperature=0.8, top_k=0, top_p=1.0, max_tokens=MAX)
        tokens = list(one_device_engine().stream(tiny.variables(), PROMPTS[b // 3], int(SEEDS[b]), **settings))
        assert tokens == rollouts.completion_BL[b, : rollouts.length_B[b]].tolist()


def test_temperature_zero_is_the_argmax_of_the_full_forward():
    rollouts = generate(temperature=0.0)
    logp_BLV = full_forward(rollouts, 1.0)
    for b, n in enumerate(rollouts.length_B):
        assert rollouts.completion_BL[b, :n].tolist() == logp_BLV[b, :n].argmax(-1).tolist()
    np.testing.assert_allclose(rollouts.logp_sampler_BL, chosen(logp_BLV, rollouts), atol=1e-5)


def test_top_k_of_one_is_greedy_and_scored_at_the_temperature():
    rollouts = generate(top_k=1)
    np.testing.assert_array_equal(rollouts.completion_BL, generate(temperature=0.0).completion_BL)
    np.testing.assert_allclose(rollouts.logp_sampler_BL, chosen(full_forward(rollouts, 0.8), rollouts), atol=1e-5)


def test_one_program_serves_a_bucket():
    """Neither other weights, seeds, temperatures nor other prompt lengths below 33 tokens compile anything."""
    usual()
    begin, advance = one_device_engine()._begin, one_device_engine()._advance
    count = begin._cache_size(), advance._cache_size()
    generate(tiny.draw_tokens(9, 32, 1, 2, 20), SEEDS + 1, temperature=0.3, weights=tiny.variables(seed=1))
    assert (begin._cache_size(), advance._cache_size()) == count
    generate(tiny.draw_tokens(9, 33, 1, 2, 20))
    assert begin._cache_size() == count[0] + 1, "the count sees a new program"


@pytest.fixture
def cut_often(monkeypatch):
    """Caches of 2 tokens at first, and batches halved to the last."""
    monkeypatch.setattr("r1jax.rollout.engine.SMALLEST_CACHE", 2)
    monkeypatch.setattr("r1jax.rollout.engine.SMALLEST_BATCH", 1)


def test_cutting_changes_nothing(cut_often):
    """Growing caches and halved batches, layers apart: what the one program samples at its largest throughout."""
    engine = tiny.engine(tiny.one_device(), stop_ids=STOP, pad_id=PAD)
    got = generate(engine=engine)
    assert engine._keep._cache_size() >= 1 and engine._grow._cache_size() >= 2, "the case should cut in both ways"
    arrays = engine._arrays(PROMPTS, SEEDS, Sampling(0.8, 0, 1.0, MAX))
    want = engine._rollout(tiny.variables(), *arrays, Sampling(0.0, 0, 1.0, MAX), PAD)
    np.testing.assert_array_equal(got.completion_BL, want[0])
    np.testing.assert_allclose(got.logp_sampler_BL, want[1], atol=1e-5)
    np.testing.assert_array_equal(got.length_B, want[2])
    np.testing.assert_array_equal(got.finished_B, want[3])


def test_cutting_changes_nothing_on_a_mesh(cut_often):
    mesh = make_mesh(tiny.MESHES["data2_expert2_tensor2"])
    weights = tiny.variables()
    sharded = jax.device_put(weights, state_shardings(mesh, weights))
    engine = tiny.engine(mesh, stop_ids=STOP, pad_id=PAD)
    got = generate(engine=engine, weights=sharded)
    assert engine._keep._cache_size() >= 1 and engine._grow._cache_size() >= 2, "the case should cut in both ways"
    for mine, want, field in zip(got, usual(), Rollouts._fields, strict=True):
        np.testing.assert_allclose(mine, want, atol=1e-5, err_msg=field)


def test_buckets():
    """The smallest of 32 * 2**k and 48 * 2**k that holds the prompt."""
    sizes = sorted([32 << k for k in range(8)] + [48 << k for k in range(8)])
    for length in range(1, 4097):
        assert bucket(length) == next(size for size in sizes if size >= length)


def test_a_longer_bucket_gives_the_same_tokens():
    prompts = [*PROMPTS[:3], tiny.draw_tokens(9, 33)[0]]
    np.testing.assert_array_equal(generate(prompts).completion_BL[:9], usual().completion_BL[:9])


def test_max_tokens_one_samples_just_the_first():
    rollouts = generate(max_tokens=1)
    np.testing.assert_array_equal(rollouts.completion_BL, usual().completion_BL[:, :1])
    assert (rollouts.length_B == 1).all()


@pytest.mark.parametrize("name", tiny.MESHES)
def test_sharded_rollouts_equal_unsharded(name):
    """Four prompts do not divide over eight devices: the batch is padded, and the padding cut off again."""
    mesh = make_mesh(tiny.MESHES[name])
    weights = tiny.variables()
    sharded = jax.device_put(weights, state_shardings(mesh, weights))
    rollouts = generate(engine=tiny.engine(mesh, stop_ids=STOP, pad_id=PAD), weights=sharded)
    for got, want, field in zip(rollouts, usual(), Rollouts._fields, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5, err_msg=field)


@pytest.mark.parametrize(
    "prompts, seeds, changes, message",
    [
        ([], 0, {}, r"0 prompts and 0 seeds; expected a positive multiple"),
        ([[1], [2]], 3, {}, r"2 prompts and 3 seeds"),
        ([[1], []], 2, {}, r"prompt 1 is empty"),
        ([[1], [1] * 60], 2, {}, r"prompt 1 has 60 tokens and max_tokens is 12.*policy\.context \(64\)"),
        ([[1]], 1, {"max_tokens": 0}, r"max_tokens is 0; expected at least 1"),
        ([[1]], 1, {"top_p": 0.0}, r"top_p 0\.0.*0 < top_p <= 1"),
        ([[1]], 1, {"top_k": -1}, r"top_k -1"),
        ([[1]], 1, {"temperature": -0.5}, r"temperature is -0\.5"),
    ],
)
def test_bad_input_is_named(prompts, seeds, changes, message):
    with pytest.raises(ValueError, match=message):
        generate(prompts, np.zeros(seeds, np.uint32), **changes)
