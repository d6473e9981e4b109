"""Batches of records without end: mixed, shuffled, shared out between processes, resumable to the example."""

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

    The sources are mixed by weight, each shuffled anew every epoch. Of each batch of the mixed stream a process reads
    its own part, of consecutive records: the parts of all processes, in their order, are the batch that one process
    alone would see. Everything is a function of the arguments.

    Args:
      sources: `len()` and `[i] -> record`; read from several threads.
      weights: shares of the examples, one a source, above 0; they need not sum to 1.
      batch: records a step, of all processes together.
      seed: of the shuffles, 0 or more.
      shuffle: False keeps the order of each source.
      part: which records of each batch are this process's; it may be empty.

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
        part: slice,
    ):
        _check(sources, weights, batch, seed, part)
        self._stream = {  # what a saved state must agree with for its position to mean the same example
            "lengths": [len(source) for source in sources],
            "weights": [float(weight) for weight in weights],
            "seed": seed,
            "shuffle": shuffle,
        }
        self._batch, self._size, self._drawn = batch, part.stop - part.start, 0
        parts = [_endless(source, seed, number, shuffle) for number, source in enumerate(sources)]
        mixed = grain.MapDataset.mix(parts, self._stream["weights"])
        mine = grain.MapDataset.source(_Parts(mixed, batch, part))
        ahead = grain.ReadOptions(
            num_threads=_READ_THREADS, prefetch_buffer_size=max(_READ_THREADS, _BATCHES_AHEAD * self._size)
        )
        self._records = iter(mine.to_iter_dataset(ahead).batch(self._size or 1, batch_fn=list))

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> list[Record]:
        records = next(self._records) if self._size else []
        self._drawn += 1
        return records

    def state(self) -> bytes:
        """Where the iterator stands, to be stored in a checkpoint. It is the same for every part of the batches."""
        return json.dumps({"stream": self._stream, "iterator": {"next_index": self._drawn * self._batch}}).encode()

    def set_state(self, state: bytes) -> None:
        """Goes on from `state`: the next batch is the one that followed when it was taken.

        Raises:
          ValueError: these bytes are no such state, or one of other sources, weights, seed or batch.
        """
        try:
            saved = json.loads(state)
            stream, iterator = saved["stream"], saved["iterator"]
            changed = [name for name, value in self._stream.items() if stream[name] != value]
            index = iterator["next_index"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"loader state {state[:80]!r} cannot be read; restore an older checkpoint") from error
        if type(index) is not int or index < 0 or index % self._batch:
            raise ValueError(f"loader state has iterator {iterator!r}; expected a multiple of the batch, {self._batch}")
        for name in changed:
            raise ValueError(
                f"loader state was saved with {name} {stream[name]!r}, now {self._stream[name]!r}; "
                "resume with the same data, or start in a new workdir"
            )
        self._drawn = index // self._batch
        self._records.set_state({"next_index": self._drawn * self._size})


class _Parts:
    """Of a stream, the records `part` of each `batch`, one after the other."""

    def __init__(self, stream: grain.MapDataset, batch: int, part: slice):
        self._stream, self._batch, self._start, self._size = stream, batch, part.start, part.stop - part.start

    def __len__(self) -> int:
        return len(self._stream) // self._batch * self._size

    def __getitem__(self, index: int) -> Record:
        number, place = divmod(index, self._size)
        return self._stream[number * self._batch + self._start + place]


def _endless(source: Source, seed: int, number: int, shuffle: bool) -> grain.MapDataset:
    """The source over and over; each epoch, and each source of a loader, in an order of its own."""
    dataset = grain.MapDataset.source(source)
    if shuffle:
        dataset = dataset.shuffle(seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
    return dataset.repeat()


def _check(sources, weights, batch: int, seed: int, part: slice) -> None:
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
    if not 0 <= part.start <= part.stop <= batch:
        raise ValueError(f"part is {part.start}..{part.stop}; expected a part of a batch of {batch}")
