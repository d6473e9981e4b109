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


def split_group(prompt: Sequence[int], completions: Sequence[tuple[int, Sequence[int]]], room: int) -> list[Piece]:
    """A prompt's completions as few pieces of at most `room` tokens, longest completions first.

    Args:
      prompt: token ids, at least one.
      completions: (sequence number, token ids); an empty completion needs no place and is left out.

    Raises:
      ValueError: prompt and one completion exceed `room`.
    """
    shared, last = tuple(prompt[:-1]), prompt[-1]
    pieces: list[list] = []
    left: list[int] = []
    for number, tokens in sorted(completions, key=lambda c: -len(c[1])):
        if not len(tokens):
            continue
        if len(shared) + len(tokens) > room:
            raise ValueError(
                f"a prompt of {len(prompt)} tokens and a completion of {len(tokens)} exceed batch.row_length ({room}); "
                "raise it, or lower rollout.max_tokens"
            )
        branch = (number, (last, *tokens[:-1]), tuple(tokens))
        at = next((i for i, free in enumerate(left) if free >= len(tokens)), None)
        if at is None:
            at = len(pieces)
            pieces.append([])
            left.append(room - len(shared))
        pieces[at].append(branch)
        left[at] -= len(tokens)
    unlearnt = (0.0,) * len(shared)
    return [Piece(shared, (0,) * len(shared), unlearnt, tuple(branches)) for branches in pieces]


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
    group = len(completions) // len(prompts)
    pieces: list[Piece] = []
    for p, prompt in enumerate(prompts):
        numbered = [(b, completions[b]) for b in range(p * group, (p + 1) * group)]
        pieces += split_group(prompt, numbered, row_length)
    rows = [[pieces[i] for i in row] for row in fit([piece.length for piece in pieces], row_length)]
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
