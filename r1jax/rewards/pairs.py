"""Preference pairs from a judge, as DeepSeek-R1 (arXiv 2501.12948) builds them for its helpful reward model.

Two responses to a question are judged four times, their places drawn at random each time; the marks are averaged; only
pairs whose mean mark is more than 1 apart from 0 are kept; and chosen and rejected responses of the whole set are made
to have comparable lengths, so that length is not what is learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from r1jax.rewards.judge import LEVELS, Generate, Votes, ask, comparison_prompt


class Candidate(NamedTuple):
    question: str
    first: str
    second: str


class Pair(NamedTuple):
    question: str
    chosen: str
    rejected: str
    margin: float  # mean mark in favour of the chosen one, above 0


def judge_candidates(
    candidates: Sequence[Candidate], generate: Generate, *, votes: int = 4, seed: int = 0
) -> tuple[list[float | None], Votes]:
    """The mean mark of each candidate, in -2..2 in favour of its first response, and what the judge said.

    None where a vote was not readable: with fewer votes the places may not have evened out.
    """
    said = ask(
        candidates, lambda draw, c: comparison_prompt(c[0], c[1], c[2], draw), LEVELS, generate, votes=votes, seed=seed
    )
    return [sum(values) / votes if len(values) == votes else None for values in said.values], said


def clear_pairs(candidates: Sequence[Candidate], marks: Sequence[float | None], *, margin: float = 1.0) -> list[Pair]:
    """Those whose mark is further than `margin` from a draw, the better response first."""
    pairs = []
    for (question, first, second), mark in zip(candidates, marks, strict=True):
        if mark is not None and abs(mark) > margin:
            chosen, rejected = (first, second) if mark > 0 else (second, first)
            pairs.append(Pair(question, chosen, rejected, abs(mark)))
    return pairs


def balance_lengths(pairs: Sequence[Pair], *, tolerance: float = 0.02) -> list[Pair]:
    """The pairs less the most lopsided ones, so that chosen and rejected are equally long on average.

    Drops the pair whose longer side exceeds the other by most, among those that lean the way the whole set leans,
    until the two totals, in characters, differ by at most `tolerance` of the larger. Keeps the order.
    """
    excess = [len(pair.chosen) - len(pair.rejected) for pair in pairs]
    chosen, rejected = sum(len(pair.chosen) for pair in pairs), sum(len(pair.rejected) for pair in pairs)
    order = sorted(range(len(pairs)), key=excess.__getitem__)
    low, high = 0, len(order)  # order[low:high] is kept
    while abs(chosen - rejected) > tolerance * max(chosen, rejected):
        if chosen > rejected:
            high -= 1
            dropped = order[high]
        else:
            dropped = order[low]
            low += 1
        chosen -= len(pairs[dropped].chosen)
        rejected -= len(pairs[dropped].rejected)
    return [pairs[i] for i in sorted(order[low:high])]
