import itertools
import json
from collections import Counter

import pytest

from r1jax.data.loader import Loader


class Source:
    """`size` records named after their source."""

    def __init__(self, name, size):
        self.name, self.size = name, size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return {"name": self.name, "index": int(index)}


def _loader(*sizes, weights=None, batch=4, seed=0, shuffle=True, part=None):
    sources = [Source(letter, size) for letter, size in zip("abc", sizes, strict=False)]
    return Loader(
        sources,
        weights or [1.0] * len(sizes),
        batch=batch,
        seed=seed,
        shuffle=shuffle,
        part=part or slice(0, batch),
    )


def _take(loader, batches):
    return [f"{record['name']}{record['index']}" for batch in itertools.islice(loader, batches) for record in batch]


def test_without_shuffle_the_order_is_the_sources_and_repeats():
    assert _take(_loader(3, shuffle=False, batch=2), 4) == ["a0", "a1", "a2", "a0", "a1", "a2", "a0", "a1"]


def test_batches_are_lists_of_the_records_themselves():
    records = [{"question": "q", "answer": "1"}]
    loader = Loader([records], [1.0], batch=2, seed=0, shuffle=True, part=slice(0, 2))
    batch = next(loader)
    assert batch == records * 2 and batch[0] is records[0]


def test_every_epoch_covers_each_example_once_in_a_new_order():
    seen = _take(_loader(12), 9)
    epochs = [seen[start : start + 12] for start in (0, 12, 24)]
    assert all(sorted(epoch) == sorted(f"a{i}" for i in range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != [f"a{i}" for i in range(12)]


def test_it_is_a_function_of_its_seed():
    assert _take(_loader(50, 9), 20) == _take(_loader(50, 9), 20)
    assert _take(_loader(50, 9), 20) != _take(_loader(50, 9, seed=1), 20)


def test_sources_of_one_length_are_shuffled_apart():
    seen = _take(_loader(30, 30), 15)
    assert [s[1:] for s in seen if s[0] == "a"] != [s[1:] for s in seen if s[0] == "b"]


@pytest.mark.parametrize("weights", [[3.0, 1.0], [0.75, 0.25], [0.1, 1 / 30]])
def test_sources_are_mixed_by_weight(weights):
    counts = Counter(name[0] for name in _take(_loader(100, 70, weights=weights, batch=10), 20))
    assert abs(counts["a"] - 150) <= 1 and counts["a"] + counts["b"] == 200


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("cuts", [(0, 3, 6), (0, 1, 3, 6), (0, 0, 6)])
def test_parts_in_order_are_what_one_process_alone_would_see(cuts, shuffle):
    parts = [slice(*pair) for pair in itertools.pairwise(cuts)]
    loaders = [_loader(11, 5, batch=6, part=part, shuffle=shuffle) for part in parts]
    alone = _loader(11, 5, batch=6, shuffle=shuffle)
    for _ in range(8):
        assert list(itertools.chain(*(_take(loader, 1) for loader in loaders))) == _take(alone, 1)
        assert len({loader.state() for loader in [*loaders, alone]}) == 1


def test_a_state_goes_on_with_other_parts():
    """What two processes saved, one or three go on from, and the other way round."""
    first = _loader(11, 5, batch=6, part=slice(3, 6))
    _take(first, 5)
    alone = _loader(11, 5, batch=6)
    alone.set_state(first.state())
    want = _take(_loader(11, 5, batch=6), 9)[30:]
    assert _take(alone, 2) == want[:12]
    thirds = [_loader(11, 5, batch=6, part=slice(at, at + 2)) for at in (0, 2, 4)]
    for third in thirds:
        third.set_state(alone.state())
    assert list(itertools.chain(*(_take(third, 1) for third in thirds))) == want[12:18]


@pytest.mark.parametrize("after", [0, 1, 5])
def test_resumed_batches_equal_uninterrupted_ones(after):
    loader = _loader(11, 5, weights=[2.0, 1.0], part=slice(1, 3))
    _take(loader, after)
    state = loader.state()
    want = _take(loader, 12)
    fresh = _loader(11, 5, weights=[2.0, 1.0], part=slice(1, 3))
    fresh.set_state(state)
    assert fresh.state() == state
    assert _take(fresh, 12) == want
    loader.set_state(state)  # and back in the same object
    assert _take(loader, 12) == want


def test_the_state_does_not_run_ahead_with_the_readers():
    loader = _loader(100, batch=1)
    next(loader)
    assert json.loads(loader.state())["iterator"] == {"next_index": 1}


@pytest.mark.parametrize("other", [dict(sizes=(12,)), dict(seed=1), dict(shuffle=False)])
def test_the_state_of_another_stream_is_refused(other):
    sizes = other.pop("sizes", (11,))
    state = _loader(11).state()
    with pytest.raises(ValueError, match=r"loader state was saved with (lengths|seed|shuffle)"):
        _loader(*sizes, **other).set_state(state)


def test_a_corrupt_state_is_refused_and_changes_nothing():
    loader = _loader(11)
    _take(loader, 2)
    state = loader.state()
    tree = json.loads(state)
    broken = [b"", b"\xff\xfe", b"[]", b"3", b"null", b"{}", state[:-4], b"[" * 100_000]
    broken += [
        json.dumps({**tree, "iterator": it}).encode()
        for it in ({}, {"next_index": -4}, {"next_index": "4"}, {"next_index": 3}, 3)
    ]
    for content in broken:
        with pytest.raises(ValueError, match="loader state"):
            loader.set_state(content)
    assert loader.state() == state


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(sizes=()), "sources is empty"),
        (dict(sizes=(3, 0)), r"sources\[1\] is empty"),
        (dict(sizes=(3,), weights=[1.0, 2.0]), "weights has 2 entries"),
        (dict(sizes=(3, 3), weights=[1.0, 0.0]), r"weights\[1\] is 0.0"),
        (dict(sizes=(3,), weights=[float("nan")]), r"weights\[0\] is nan"),
        (dict(sizes=(3,), batch=0), "batch is 0"),
        (dict(sizes=(3,), seed=-1), "seed is -1"),
        (dict(sizes=(3,), part=slice(2, 5)), r"part is 2\.\.5; expected a part of a batch of 4"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        _loader(*arguments.pop("sizes"), **arguments)


def test_an_error_of_a_source_reaches_the_caller():
    class Broken(Source):
        def __getitem__(self, index):
            raise OSError(f"record {index} is damaged")

    loader = Loader([Broken("a", 3)], [1.0], batch=1, seed=0, shuffle=False, part=slice(0, 1))
    with pytest.raises(OSError, match="record 0 is damaged"):
        next(loader)
