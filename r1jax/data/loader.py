"""Batches of records without end: mixed, shuffled, shared out between hosts, resumable to the example."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from r1jax.data.records import Source

Record = dict[str, Any]

_READ_THREADS = 4  # order does not depend on them
_BATCHES_AHEAD = 2


class Loader:
    """An endless iterator of batches, each a list of records as the sources give them.

    The sources are mixed by weight, each shuffled anew every epoch; the mixed stream is dealt out to the hosts in
    turn. So all hosts together see each example once an epoch, and one host with a batch of `n * batch` sees the
    same examples a step as n hosts do. Everything is a function of the arguments.

    Args:
      sources: `len()` and `[i] -> record`; read from several threads.
      weights: shares of the examples, one a source, above 0; they need not sum to 1.
      batch: records a step on this host.
      seed: of the shuffles, 0 or more.
      shuffle: False keeps the order of each source.
      process_index, process_count: which host this is, of how many.

    Raises:
      ValueError: a source is empty, or an argument is out of its range.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        weights: Sequence[float],
        *,
        batch: int,
        seed: int,
        shuffle: bool,
        process_index: int,
        process_count: int,
    ):
        _check(sources, weights, batch, seed, process_index, process_count)
        self._stream = {  # what a saved state must agree with for its position to mean the same example
            "lengths": [len(source) for source in sources],
            "weights": [float(weight) for weight in weights],
            "seed": seed,
            "shuffle": shuffle,
            "process_count": process_count,
        }
        parts = [_endless(source, seed, number, shuffle) for number, source in enumerate(sources)]
        mixed = grain.MapDataset.mix(parts, self._stream["weights"])
        mine = mixed.slice(slice(process_index, None, process_count))
        ahead = grain.ReadOptions(
            num_threads=_READ_THREADS, prefetch_buffer_size=max(_READ_THREADS, _BATCHES_AHEAD * batch)
        )
        self._batches = iter(mine.to_iter_dataset(ahead).batch(batch, batch_fn=list))

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> list[Record]:
        return next(self._batches)

    def state(self) -> bytes:
        """Where the iterator stands, to be stored in a checkpoint."""
        return json.dumps({"stream": self._stream, "iterator": self._batches.get_state()}).encode()

    def set_state(self, state: bytes) -> None:
        """Goes on from `state`: the next batch is the one that followed when it was taken.

        Raises:
          ValueError: these bytes are no such state, or one of other sources, weights, seed or host count.
        """
        here = self._batches.get_state()
        try:
            saved = json.loads(state)
            stream, iterator = saved["stream"], saved["iterator"]
            sound = iterator.keys() == here.keys() and all(type(v) is int and v >= 0 for v in iterator.values())
            changed = [name for name, value in self._stream.items() if stream[name] != value]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"loader state {state[:80]!r} cannot be read; restore an older checkpoint") from error
        if not sound:
            raise ValueError(f"loader state has iterator {iterator!r}; expected one like {here!r}")
        for name in changed:
            raise ValueError(
                f"loader state was saved with {name} {stream[name]!r}, now {self._stream[name]!r}; "
                "resume with the same data, or start in a new workdir"
            )
        self._batches.set_state(iterator)


def _endless(source: Source, seed: int, number: int, shuffle: bool) -> grain.MapDataset:
    """The source over and over; each epoch, and each source of a loader, in an order of its own."""
    dataset = grain.MapDataset.source(source)
    if shuffle:
        dataset = dataset.shuffle(seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
    return dataset.repeat()


def _check(sources, weights, batch: int, seed: int, process_index: int, process_count: int) -> None:
    if not sources:
        raise ValueError("sources is empty; expected at least one")
    if len(weights) != len(sources):
        raise ValueError(f"weights has {len(weights)} entries; expected one for each of {len(sources)} sources")
    for number, (source, weight) in enumerate(zip(sources, weights, strict=True)):
        if not len(source):
            raise ValueError(f"sources[{number}] is empty; expected examples: check its split and filters")
        if not (weight > 0 and math.isfinite(weight)):
            raise ValueError(
                f"weights[{number}] is {weight!r}; expected above 0: leave out a source that is not wanted"
            )
    if batch < 1:
        raise ValueError(f"batch is {batch}; expected 1 or more records")
    if seed < 0:
        raise ValueError(f"seed is {seed}; expected 0 or more")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index is {process_index}; expected 0..{process_count - 1} (process_count)")
