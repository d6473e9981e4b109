"""Graded completions: their figures a task, their curves over the number of samples, and a line a problem."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from r1jax.data.records import Source
from r1jax.stages.correctness import ANSWER, OPEN

KEPT_COMPLETIONS = 4  # of a problem's, whose text is kept


class Graded(NamedTuple):
    """K graded completions of each of M problems."""

    correct_MK: np.ndarray  # float32, accuracy
    format_MK: np.ndarray  # float32
    tokens_MK: np.ndarray  # int32
    answers: list[list[str | None]]  # M lists of K
    completions: list[list[str]]  # M lists of the first few
    kinds: list[str]  # M, of `correctness`
    forced_MK: np.ndarray | None = None  # bool: whether a thought was cut; None where there is no budget


def summary(graded: Graded, samples: int) -> dict[str, Any]:
    """The figures of one task.

    pass@1 is the mean accuracy over all samples, pass@K the share of problems with a sample fully right, maj@K that
    of problems whose most frequent answer (the earliest of equals) is right. With K = 1, pass@1 is the mean. Free
    text counts in none of them and programs do not vote: a figure that no problem counts in is None.
    """
    right_MK = _checked(graded)
    majority = [_majority(answers, right_K) for answers, right_K in _voting(graded)]
    figures = {
        "n": len(graded.kinds),
        "pass@1": None,
        f"pass@{samples}": _mean(np.asarray((right_MK >= 1.0).any(axis=1))),
        f"maj@{samples}": _mean(majority),
        "format": float(graded.format_MK.mean(dtype=np.float64)),
        "mean_tokens": float(graded.tokens_MK.mean(dtype=np.float64)),
    }
    return figures | {"pass@1": _mean(right_MK)}


def sample_curves(graded: Graded, samples: int) -> dict[str, dict[str, float | None]]:
    """{"pass@k": {k: share}, "maj@k": {k: share}} for k = 1, 2, 4, .. and K, over the problems of `summary`.

    pass@k is the unbiased estimate from all K samples, 1 - C(K - c, k) / C(K, k) of a problem with c fully right
    (arXiv 2107.03374, eq. 1). maj@k is the mean over the K // k groups of k samples in turn: a group votes.
    """
    steps = sorted({min(2**i, samples) for i in range(samples.bit_length() + 1)})
    right_M = (_checked(graded) >= 1.0).sum(axis=1)
    passed = {
        str(k): _mean([1 - math.comb(samples - int(c), k) / math.comb(samples, k) for c in right_M]) for k in steps
    }
    votes: dict[str, float | None] = {}
    for k in steps:
        starts = range(0, samples - k + 1, k)
        votes[str(k)] = _mean([_majority(a[i : i + k], c[i : i + k]) for a, c in _voting(graded) for i in starts])
    return {"pass@k": passed, "maj@k": votes}


def joined(parts: Sequence[Graded]) -> Graded:
    """The problems of several batches."""
    forced = [part.forced_MK for part in parts if part.forced_MK is not None]
    return Graded(
        np.concatenate([part.correct_MK for part in parts]),
        np.concatenate([part.format_MK for part in parts]),
        np.concatenate([part.tokens_MK for part in parts]),
        [answers for part in parts for answers in part.answers],
        [texts for part in parts for texts in part.completions],
        [kind for part in parts for kind in part.kinds],
        np.concatenate(forced) if forced else None,
    )


def problems(task: str, source: Source, graded: Graded) -> Iterator[dict[str, Any]]:
    """What became of each problem: the question, and of every completion its grades, its length and its answer.

    "correct" of free text is empty.

    Args:
      source: whose first problems were graded.
    """
    for i in range(len(graded.answers)):
        record = source[i]
        yield {
            "task": task,
            "index": i,
            "question": record["question"],
            "answer": record["answer"],
            "language": record["language"],
            "correct": [] if graded.kinds[i] == OPEN else graded.correct_MK[i].tolist(),
            "format": graded.format_MK[i].tolist(),
            "tokens": graded.tokens_MK[i].tolist(),
            "answers": graded.answers[i],
            "completions": graded.completions[i],
        }


def share(which_MK: np.ndarray | None) -> float:
    assert which_MK is not None, "what is kept to a budget says whether it was forced"
    return float(which_MK.mean())


def _checked(graded: Graded) -> np.ndarray:
    """correct_MK of the problems that have a grader."""
    return graded.correct_MK[[kind != OPEN for kind in graded.kinds]]


def _voting(graded: Graded) -> list[tuple[list[str | None], np.ndarray]]:
    """The answers and grades of the problems whose answers can be told alike."""
    rows = zip(graded.answers, graded.correct_MK, graded.kinds, strict=True)
    return [(answers, correct_K) for answers, correct_K, kind in rows if kind == ANSWER]


def _mean(values: Sequence[float] | np.ndarray) -> float | None:
    return float(np.mean(values, dtype=np.float64)) if len(values) else None


def _majority(answers: Sequence[str | None], correct_K: np.ndarray) -> float:
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return 0.0
    winner = votes.most_common(1)[0][0]
    return float(correct_K[list(answers).index(winner)])
