"""Slots that are filled again: a sequence's tokens depend neither on them, nor on when it began or beside whom."""

import functools

import jax
import numpy as np
import pytest

from r1jax.mesh import make_mesh, state_shardings
from r1jax.rollout.slots import FREE, Queue, Slots
from r1jax.types import Rollouts
from tests import tiny_policy as tiny

STOP, PAD, MAX = (3, 4, 5, 6), 0, 12
PROMPTS = tiny.draw_tokens(7, 3, 9, 1, 6, 2, 33, 5)
SEEDS = np.arange(100, 121, dtype=np.uint32)  # G = 3
CONFIGS = {"mla, mixture": tiny.CONFIG, "gqa": tiny.DENSE}


@pytest.fixture(autouse=True)
def cut_often(monkeypatch):
    """Caches of 4 tokens at first, batches halved to the last, steps cut short, and two slots filled at a time."""
    for name, value in dict(SMALLEST_CACHE=4, SMALLEST_BATCH=1, STEPS=7, FREE_SHARE=4).items():
        monkeypatch.setattr(f"r1jax.rollout.engine.{name}", value)


@functools.cache
def engine(config):
    return tiny.engine(tiny.one_device(), config=config, stop_ids=STOP, pad_id=PAD)


def generate(prompts=PROMPTS, seeds=SEEDS, *, on=None, weights=None, config=tiny.CONFIG, **changes) -> Rollouts:
    settings = dict(temperature=0.8, top_k=0, top_p=1.0, max_tokens=MAX) | changes
    weights = tiny.variables(config) if weights is None else weights
    return (on or engine(config)).generate(weights, prompts, seeds, **settings)


@functools.cache
def at_once(config=tiny.CONFIG, temperature=0.8) -> Rollouts:
    return generate(config=config, temperature=temperature)


def furthest(got: Rollouts, want: Rollouts) -> float:
    """The largest difference of any field."""
    return max(float(np.abs(np.subtract(x, y, dtype=np.float64)).max()) for x, y in zip(got, want, strict=True))


@pytest.mark.parametrize("temperature", [0.8, 0.0])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("slots", [3, 8])
def test_slots_change_nothing(config, temperature, slots):
    """Sequences of 1 to 12 tokens, after prompts of 1 to 33."""
    want = at_once(config, temperature)
    assert len(set(want.length_B.tolist())) > 3 and want.length_B.max() == MAX, "the case should be ragged"
    assert furthest(generate(config=config, temperature=temperature, slots=slots), want) < 1e-5


def test_a_group_larger_than_the_slots():
    assert furthest(generate(PROMPTS[:1], SEEDS, slots=4), generate(PROMPTS[:1], SEEDS)) < 1e-5


def test_first_tokens_that_are_the_last():
    """Every sequence ends with the token that it is filled in with."""
    assert furthest(generate(max_tokens=1, slots=4), generate(max_tokens=1)) < 1e-5


@pytest.mark.parametrize("name", ["data8", "data2_expert2_tensor2"])
def test_slots_on_a_mesh_change_nothing(name):
    mesh = make_mesh(tiny.MESHES[name])
    weights = tiny.variables()
    sharded = jax.device_put(weights, state_shardings(mesh, weights))
    on = tiny.engine(mesh, stop_ids=STOP, pad_id=PAD)
    assert furthest(generate(on=on, weights=sharded, slots=8), at_once()) < 1e-5
    with pytest.raises(
        ValueError, match=r"rollout\.slots is 9; expected 0 .all at once. or a multiple of the [48] devices"
    ):
        generate(on=on, weights=sharded, slots=9)


def test_other_lengths_and_counts_compile_nothing(monkeypatch):
    monkeypatch.setattr("r1jax.rollout.engine.SMALLEST_BATCH", 8)
    assert generate(slots=8).length_B.max() == MAX, "the case should need caches of every size"
    programs = [getattr(engine(tiny.CONFIG), name) for name in ("_read", "_vacant", "_refill", "_advance", "_grow")]
    count = [program._cache_size() for program in programs]
    assert min(count) >= 1, "the case should run them all"
    longer = tiny.draw_tokens(9, *range(20, 32), 48)
    generate(longer, np.arange(39, dtype=np.uint32), slots=8, temperature=0.3)
    assert [program._cache_size() for program in programs] == count
    generate(PROMPTS[:4], SEEDS[:12], slots=8)
    assert programs[0]._cache_size() == count[0] + 1, "the count sees another bucket"


def test_what_was_sampled_is_written_down_by_hand():
    """Slot 0 goes on with sequence 2, slot 1 is free, slot 2 begins sequence 0 and ends it."""
    slots = Slots(np.array([2, FREE, 0]), count=3, max_tokens=4, pad_id=9)
    slots.length_N[:] = [0, 4, 1]
    tokens_BT = np.array([[5, 6, 7], [8, 8, 8], [1, 2, 9]], np.int32)
    slots.note(tokens_BT, -tokens_BT.astype(np.float32), np.int32([3, 0, 2]), np.array([False, True, True]))
    assert slots.tokens_NL.tolist() == [[1, 2, 9, 9], [9] * 4, [9, 6, 7, 9]]
    assert slots.logp_NL.tolist() == [[-1, -2, 0, 0], [0] * 4, [0, -6, -7, 0]]
    assert slots.length_N.tolist() == [2, 4, 3] and slots.stopped_N.tolist() == [True, False, False]
    assert slots.going().tolist() == [True, False, False] and slots.longest() == 3


def test_the_queue_reads_prompts_when_their_turn_comes():
    """5 prompts, 2 read at once, 2 sequences of each."""
    parts = []

    def read(part):
        parts.append(part)
        return f"part {part}"

    queue = Queue(read, 2, 2, np.arange(10, 20, dtype=np.uint32))
    assert parts == [0] and len(queue) == 10
    taken = [queue.take(3) for _ in range(3)]
    assert [t.number_R.tolist() for t in taken] == [[0, 1, 2], [3], [4, 5, 6]]
    assert [t.row_R.tolist() for t in taken] == [[0, 0, 1], [1], [0, 0, 1]]
    assert [t.source for t in taken] == ["part 0", "part 0", "part 1"] and parts == [0, 1]
    assert taken[1].seed_R.tolist() == [13] and len(queue) == 3
    turn = taken[1].turn(np.array([4, 6]), 3, slots=8)
    assert [x.tolist() for x in turn] == [[4, 8, 8], [1, 0, 0], [13, 0, 0]]
