"""Sequences to packed rows, and the way back.

A row holds several segments side by side. A document is one segment. A group of completions is one segment too: the
prompt stands once, and each completion is a branch that sees the prompt and itself. The last prompt token predicts
the first token of every completion, so each branch begins with its own copy of it; a branch of n completion tokens
therefore takes n places, and the shared part is the prompt without its last token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from r1jax.types import Packed

LOOK_AHEAD = 8  # groups that are tried in the room a row has left


@dataclasses.dataclass(frozen=True)
class Piece:
    """What goes into one row together: a shared prefix and its branches."""

    prefix: tuple[int, ...]  # inputs of branch 0
    prefix_target: tuple[int, ...]
    prefix_weight: tuple[float, ...]
    branches: tuple[tuple[int, tuple[int, ...], tuple[int, ...]], ...]  # (sequence number, inputs, targets)

    @property
    def length(self) -> int:
        return len(self.prefix) + sum(len(inputs) for _, inputs, _ in self.branches)


def document(tokens: Sequence[int], prompt_length: int = 0) -> Piece:
    """A document as next-token inputs and targets; the first `prompt_length` tokens are read, not learnt."""
    inputs, targets = tuple(tokens[:-1]), tuple(tokens[1:])
    weight = tuple(0.0 if i + 1 < prompt_length else 1.0 for i in range(len(inputs)))
    return Piece(inputs, targets, weight, ())


@dataclasses.dataclass
class Waiting:
    """A group of which completions have no place yet."""

    prompt: tuple[int, ...]
    completions: list[tuple[int, Sequence[int]]]  # (sequence number, token ids), none of them empty

    @property
    def shared(self) -> int:
        """Places that the prompt takes, once a row: all but its last token."""
        return len(self.prompt) - 1

    @property
    def length(self) -> int:
        return self.shared + sum(len(tokens) for _, tokens in self.completions)

    def fullest(self, room: int) -> list[int]:
        """Those completions, by their place in the list, that with the prompt fill `room` as nearly as any do."""
        room -= self.shared
        if room <= 0:
            return []
        # Bit n of the k-th number: some of the first k completions have n tokens together.
        reached = [1]
        for _, tokens in self.completions:
            reached.append(reached[-1] | reached[-1] << len(tokens))
        left = (reached[-1] & (1 << room + 1) - 1).bit_length() - 1
        taken = []
        for i in reversed(range(len(self.completions))):
            if not reached[i] >> left & 1:
                taken.append(i)
                left -= len(self.completions[i][1])
        return taken[::-1]

    def take(self, those: Sequence[int]) -> Piece:
        """These completions with their prompt; they wait no more."""
        unlearnt, last = (0.0,) * self.shared, self.prompt[-1]
        branches = [
            (number, (last, *tokens[:-1]), tuple(tokens)) for number, tokens in map(self.completions.__getitem__, those)
        ]
        self.completions = [item for i, item in enumerate(self.completions) if i not in those]
        return Piece(self.prompt[:-1], (0,) * self.shared, unlearnt, tuple(branches))


def waiting(prompt: Sequence[int], completions: Sequence[tuple[int, Sequence[int]]]) -> Waiting:
    """A group, its longest completions first; empty ones need no place and are left out."""
    return Waiting(tuple(prompt), sorted((c for c in completions if len(c[1])), key=lambda c: -len(c[1])))


def fill_rows(groups: Sequence[Waiting], room: int) -> list[list[Piece]]:
    """Groups as rows of at most `room` tokens, each row as full as the groups looked at can make it.

    Groups are finished in turn, the longest first; what room one leaves in its row goes to whichever of the next
    `LOOK_AHEAD` fills it best, and then to another of them.

    Raises:
      ValueError: a prompt and one of its completions exceed `room`.
    """
    for group in groups:
        longest = max((len(tokens) for _, tokens in group.completions), default=0)
        if longest and group.shared + longest > room:
            raise ValueError(
                f"a prompt of {len(group.prompt)} tokens and a completion of {longest} exceed batch.row_length "
                f"({room}); raise it, or lower rollout.max_tokens"
            )
    left = sorted((group for group in groups if group.completions), key=lambda group: -group.length)
    rows: list[list[Piece]] = []
    while left:
        row = [left[0].take(left[0].fullest(room))]
        free, others = room - row[0].length, left[1 : 1 + LOOK_AHEAD]
        while others:
            choices = [(group, group.fullest(free)) for group in others]
            group, those = max(choices, key=lambda choice: sum(len(choice[0].completions[i][1]) for i in choice[1]))
            if not those:
                break
            row.append(group.take(those))
            free -= row[-1].length
            others = [other for other in others if other is not group]
        rows.append(row)
        left = [group for group in left if group.completions]
    return rows


def split_group(prompt: Sequence[int], completions: Sequence[tuple[int, Sequence[int]]], room: int) -> list[Piece]:
    """A prompt's completions as pieces of at most `room` tokens, few of them.

    Args:
      prompt: token ids, at least one.
      completions: (sequence number, token ids); an empty completion needs no place and is left out.

    Raises:
      ValueError: prompt and one completion exceed `room`.
    """
    return [piece for row in fill_rows([waiting(prompt, completions)], room) for piece in row]


def fit(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Best-fit decreasing: which items (by index) share a row of `room`."""
    rows: list[list[int]] = []
    left: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        candidates = [(free, row) for row, free in enumerate(left) if free >= lengths[item]]
        if candidates:
            _, row = min(candidates)
        else:
            row = len(rows)
            rows.append([])
            left.append(room)
        rows[row].append(item)
        left[row] -= lengths[item]
    return rows


def write_rows(rows: Sequence[Sequence[Piece]], row_length: int, pad_id: int) -> Packed:
    """Pieces, already assigned to rows, as arrays [R, T]; what is left of a row is padding (segment 0)."""
    shape = (len(rows), row_length)
    tokens, target = np.full(shape, pad_id, np.int32), np.full(shape, pad_id, np.int32)
    segment, branch, position = (np.zeros(shape, np.int32) for _ in range(3))
    weight = np.zeros(shape, np.float32)
    for r, pieces in enumerate(rows):
        at = 0
        for s, piece in enumerate(pieces, start=1):
            start, n = at, len(piece.prefix)
            here = slice(at, at + n)
            tokens[r, here], target[r, here], weight[r, here] = piece.prefix, piece.prefix_target, piece.prefix_weight
            position[r, here] = np.arange(n)
            at += n
            for b, (_, inputs, targets) in enumerate(piece.branches, start=1):
                here = slice(at, at + len(inputs))
                tokens[r, here], target[r, here], weight[r, here] = inputs, targets, 1.0
                branch[r, here] = b
                position[r, here] = np.arange(n, n + len(inputs))
                at += len(inputs)
            segment[r, start:at] = s
    return Packed(tokens, segment, branch, position, target, weight)


def places(rows: Sequence[Sequence[Piece]], row_length: int, sequences: int, length: int) -> np.ndarray:
    """index_BL: the flat place r * T + t that predicts token l of sequence b; -1 where there is none."""
    index = np.full((sequences, length), -1, np.int32)
    for r, pieces in enumerate(rows):
        at = r * row_length
        for piece in pieces:
            at += len(piece.prefix)
            for number, inputs, _ in piece.branches:
                index[number, : len(inputs)] = np.arange(at, at + len(inputs))
                at += len(inputs)
    return index


def pack_groups(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    row_length: int,
    row_multiple: int,
    length: int,
    pad_id: int,
) -> tuple[Packed, np.ndarray]:
    """Groups of completions as rows whose number is a multiple of `row_multiple`.

    Args:
      prompts: P prompts.
      completions: B = P * G completions; number b belongs to prompt b // G.
      length: L of the returned index.

    Returns:
      (Packed, index_BL as `places` gives it)
    """
    samples = len(completions) // len(prompts)
    groups = [
        waiting(prompt, [(b, completions[b]) for b in range(p * samples, (p + 1) * samples)])
        for p, prompt in enumerate(prompts)
    ]
    rows = fill_rows(groups, row_length)
    rows += [[] for _ in range(-len(rows) % row_multiple)] or ([[]] * row_multiple if not rows else [])
    return write_rows(rows, row_length, pad_id), places(rows, row_length, len(completions), length)


def pad_rows(packed: Packed, rows: int, pad_id: int) -> Packed:
    """`packed` with empty rows added, up to `rows`."""
    missing = rows - packed.tokens_RT.shape[0]
    empty = write_rows([[]] * missing, packed.tokens_RT.shape[1], pad_id)
    return Packed(*(np.concatenate(pair) for pair in zip(packed, empty, strict=True))) if missing else packed


class DocumentPacker:
    """A stream of documents as batches of full rows. What does not fit waits for the next batch.

    `waiting` is the whole state: token lists that were drawn and not yet placed.
    """

    def __init__(self, documents: Iterator[tuple[list[int], int]], *, rows: int, row_length: int, pad_id: int):
        """Args: documents: endless (token ids, prompt length); longer ones than a row are cut into several."""
        self._documents, self._rows, self._length, self._pad = documents, rows, row_length, pad_id
        self.waiting: list[tuple[list[int], int]] = []

    def __next__(self) -> Packed:
        while sum(len(tokens) - 1 for tokens, _ in self.waiting) < self._rows * self._length:
            tokens, prompt = next(self._documents)
            for start in range(0, max(len(tokens) - 1, 1), self._length):
                self.waiting.append((tokens[start : start + self._length + 1], max(0, prompt - start)))
        pieces = [document(tokens, prompt) for tokens, prompt in self.waiting]
        rows = fit([piece.length for piece in pieces], self._length)
        # Fullest rows go out first; the rest waits, in the order it was drawn.
        rows.sort(key=lambda row: -sum(pieces[i].length for i in row))
        used = {i for row in rows[: self._rows] for i in row}
        out = [[pieces[i] for i in row] for row in rows[: self._rows]]
        self.waiting = [doc for i, doc in enumerate(self.waiting) if i not in used]
        return write_rows(out, self._length, self._pad)
