"""The host's side of decode slots: which sequences wait, which sits where, and what each has sampled.

All of it is the same on every process of a run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from r1jax.rollout.filling import Read, Turn

FREE = -1  # of a slot that holds no sequence


class Slots:
    """The sequence of each slot, and what all N sequences have sampled."""

    def __init__(self, sequence_B: np.ndarray, count: int, max_tokens: int, pad_id: int):
        """`sequence_B`: the number of each slot's sequence, of `count`, or `FREE`."""
        self.sequence_B = sequence_B
        self.tokens_NL = np.full((count, max_tokens), pad_id, np.int32)
        self.logp_NL = np.zeros((count, max_tokens), np.float32)
        self.length_N = np.zeros(count, np.int32)
        self.stopped_N = np.zeros(count, bool)

    def note(self, tokens_BT: np.ndarray, logp_BT: np.ndarray, length_B: np.ndarray, stopped_B: np.ndarray) -> None:
        """Writes down what `advance` sampled; a sequence's first token stands before what that sampled."""
        slot_B = np.flatnonzero(self.sequence_B != FREE)
        number_B = self.sequence_B[slot_B]
        had_B, has_B = self.length_N[number_B], length_B[slot_B]
        b, t = np.nonzero(np.arange(tokens_BT.shape[1])[None] < (has_B - had_B)[:, None])
        column = t + (had_B[b] > 0)
        self.tokens_NL[number_B[b], had_B[b] + t] = tokens_BT[slot_B[b], column]
        self.logp_NL[number_B[b], had_B[b] + t] = logp_BT[slot_B[b], column]
        self.length_N[number_B] = has_B
        self.stopped_N[number_B] = stopped_B[slot_B]

    def going(self) -> np.ndarray:
        """going_B: whether a slot's sequence goes on."""
        number_B = self.sequence_B
        full_B = self.length_N[number_B] >= self.tokens_NL.shape[1]
        return (number_B != FREE) & ~self.stopped_N[number_B] & ~full_B

    def longest(self) -> int:
        """Tokens of the longest sequence that goes on; 0 where none does."""
        return int(self.length_N[self.sequence_B[self.going()]].max(initial=0))


class Next(NamedTuple):
    """Sequences whose turn has come."""

    number_R: np.ndarray
    source: Read  # their prompts are among these
    row_R: np.ndarray  # there
    seed_R: np.ndarray

    def turn(self, slot_B: np.ndarray, size: int, slots: int) -> Turn:
        """They take the first of `slot_B`; filled up to `size` with slots that there are not, of `slots`."""
        more = (0, size - len(self.number_R))
        slot_R = np.pad(slot_B[: len(self.number_R)], more, constant_values=slots)
        return Turn(slot_R.astype(np.int32), np.pad(self.row_R, more).astype(np.int32), np.pad(self.seed_R, more))


class Queue:
    """Sequences that wait for slots, in order. Prompts are read some at a time, when the first of them has its turn."""

    def __init__(self, read: Callable[[int], Read], some: int, group: int, seed_N: np.ndarray):
        """`read(i)` reads `some` prompts, those from i * some on; of each there are `group` sequences."""
        self._read, self._some, self._group, self._seed_N = read, some, group, seed_N
        self._next, self._held, self.source = 0, 0, read(0)

    def __len__(self) -> int:
        return len(self._seed_N) - self._next

    def take(self, most: int) -> Next:
        """The next sequences, `most` or as many as share what is read at once; there must be one."""
        each = self._some * self._group
        part = self._next // each
        if part != self._held:
            self.source, self._held = self._read(part), part
        number_R = np.arange(self._next, min(self._next + most, (part + 1) * each, len(self._seed_N)))
        self._next += len(number_R)
        return Next(number_R, self.source, number_R // self._group - part * self._some, self._seed_N[number_R])
