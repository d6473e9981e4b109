"""Accuracy: is a completion's answer the gold answer?

Three kinds of gold answer, each compared in its own way: a number exactly, as a fraction, here; words by
spelling, here; anything else symbolically by math-verify, in worker processes. A gold answer that is none of
these cannot be read: it is reported before the run, and scores 0 whatever the completion. Tasks of reasoning-gym
are scored by their own scorers, in workers too.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from r1jax.rewards.extraction import extractor
from r1jax.rewards.numbers import Number, canonical, number, same_number, words
from r1jax.rewards.workers import Outcome, WorkerPool

MAX_ANSWER = 512  # characters of a gold or candidate answer; longer ones are not parsed
MAX_PROCEDURAL_ANSWER = 8192  # reasoning-gym has answers that are grids
COMPARISON_TIMEOUT_S = 5.0  # of one comparison in a worker
COMPARISON_MEMORY_MIB = 2048  # of one worker
MAX_SHOWN = 80  # characters of an answer, in a warning
PROCEDURAL = "reasoning_gym:"

SAME = "r1jax.rewards.equivalence:same"
SCORE = "r1jax.rewards.procedural:score"

MAX_NESTING = 16  # brackets within brackets; the parser's time is exponential in it
# Factorials, towers and three-digit powers, sums and integrals: costly, and calls for a value rather than one.
_UNEVALUATED = re.compile(r"!|\^\s*\{[^{}]*\^|\*\*|\^\s*\{?\s*[0-9]{3}|\\(?:sum|prod|int|lim)(?![A-Za-z])")

COUNTS = ("graded", "not_parsed", "timed_out", "crashed")


class Comparison(NamedTuple):
    """A call that a worker has to make; equal ones are made once."""

    function: str
    args: tuple[str, ...]


def accuracy(
    prompts: Sequence[str],
    completions: Sequence[str],
    answer: Sequence[str],
    task: Sequence[str],
    metadata: Sequence[str | None] | None = None,
    extraction: str | Mapping[str, str] = "answer",
    pool: WorkerPool | None = None,
    report: Callable[[str, float], None] | None = None,
    budget_s: float = math.inf,
    **columns: Any,
) -> list[float]:
    """1.0 where a completion's answer is the gold answer, else 0.0; reasoning-gym tasks may score in between.

    Where the gold answer is a number the candidate must be written as one: an expression that merely
    evaluates to it, such as the question repeated, is not an answer.

    Args:
      prompts: B prompts; not used.
      completions: B completions, untrusted.
      answer: B gold answers.
      task: B task names; 'reasoning_gym:NAME' picks that task's own scorer.
      metadata: B dataset entries as JSON; needed by reasoning-gym tasks.
      extraction: where the answer stands: 'answer' (block), 'boxed', 'hashes' or 'last_line', see `extraction.py`;
        or a table by task, such as {'gsm8k': 'hashes', '*': 'boxed'}.
      pool: workers to grade in; without one, a pool is made for this call.
      report: told how many completions were graded, not_parsed (no single answer, or one, or a gold answer, that
        is not read as mathematics), timed_out and crashed.
      budget_s: seconds for all the comparisons together.
      **columns: the examples' other fields; not used.
    """
    entries = metadata if metadata is not None else [None] * len(completions)
    extract = extractor(extraction, "accuracy's extraction")
    candidates = [extract(*row) for row in zip(completions, task, strict=True)]
    verdicts = [_verdict(*row) for row in zip(candidates, answer, task, entries, strict=True)]
    open_ones = list(dict.fromkeys(v for v in verdicts if isinstance(v, Comparison)))
    outcomes = _in_workers(open_ones, pool, budget_s)
    counts = Counter(dict.fromkeys(COUNTS, 0))
    scores = []
    for verdict in verdicts:
        score, count = _settle(outcomes[verdict]) if isinstance(verdict, Comparison) else _settled(verdict)
        scores.append(score)
        counts[count] += 1
    if report is not None:
        for name in COUNTS:
            report(name, float(counts[name]))
    return scores


def check_accuracy(
    answer: Sequence[str],
    task: Sequence[str],
    extraction: str | Mapping[str, str] = "answer",
    pool: WorkerPool | None = None,
) -> list[str]:
    """Before a run: warns of gold answers that cannot be read, and refuses a form of answer that is not known."""
    extract = extractor(extraction, "accuracy's extraction")
    for name in dict.fromkeys(task):
        extract("", name)
    unread = check_gold(answer, task, pool)
    if not unread:
        return []
    first = answer[unread[0]][:MAX_SHOWN]
    return [
        f"{len(unread)} of {len(answer)} gold answers cannot be read, so that no completion of theirs can score; the "
        f"first is record {unread[0]}, {first!r}: mend or drop them, or give their task another reward"
    ]


def check_gold(answers: Sequence[str], tasks: Sequence[str], pool: WorkerPool | None = None) -> list[int]:
    """Indices of the gold answers that cannot be read, or are not equal to themselves.

    Answers of reasoning-gym tasks are their own scorers' affair, and pass.
    """
    kinds = [_gold_kind(a) if not t.startswith(PROCEDURAL) else "number" for a, t in zip(answers, tasks, strict=True)]
    doubtful = {i: Comparison(SAME, (canonical(answers[i]),) * 2) for i, kind in enumerate(kinds) if kind == "symbolic"}
    outcomes = _in_workers(list(dict.fromkeys(doubtful.values())), pool, math.inf)
    return [
        i
        for i, kind in enumerate(kinds)
        if kind == "unreadable" or (kind == "symbolic" and outcomes[doubtful[i]].value is not True)
    ]


def _verdict(candidate: str | None, gold: str, task: str, entry: str | None) -> bool | Comparison | None:
    """Right, wrong, not parsed (None), or a comparison for a worker to make."""
    if candidate is None:
        return None
    if task.startswith(PROCEDURAL):
        return _procedural(candidate, task.removeprefix(PROCEDURAL), entry)
    if len(candidate) > MAX_ANSWER or "\0" in candidate:
        return None
    if "\n" in candidate and "\\begin" not in candidate:  # several lines, not of one table: several answers
        return None
    return _compare(gold, candidate)


def _procedural(candidate: str, name: str, entry: str | None) -> Comparison | None:
    if entry is None:
        raise ValueError(
            f"task {PROCEDURAL}{name} needs the column 'metadata', the dataset entry as JSON, for its scorer; "
            "got none; add it to the task's records"
        )
    if len(candidate) > MAX_PROCEDURAL_ANSWER:
        return None
    return Comparison(SCORE, (name, candidate, entry if isinstance(entry, str) else json.dumps(entry)))


def _compare(gold: str, candidate: str) -> bool | Comparison | None:
    kind = _gold_kind(gold)
    left, right = canonical(gold), canonical(candidate, drop_name="=" not in gold)
    if kind == "unreadable" or not left or not right:
        return None
    if left == right and kind != "symbolic":  # those may be spelled alike and mean nothing
        return True
    if kind == "number":
        value = number(right)
        return None if value is None else same_number(_number(left), value)
    if kind == "words":
        return words(left) == words(right)
    return Comparison(SAME, (left, right)) if _presentable(left, right) else None


def _presentable(gold: str, candidate: str) -> bool:
    """Whether the candidate may be handed to the symbolic parser: shallow, and no equation or task for a value."""
    depth = deepest = 0
    for char in candidate:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    if depth != 0 or deepest > MAX_NESTING:
        return False
    if "=" in candidate and "=" not in gold:
        return False
    return _UNEVALUATED.search(candidate) is None or _UNEVALUATED.search(gold) is not None


def _gold_kind(gold: str) -> str:
    text = canonical(gold) if len(gold) <= MAX_ANSWER and "\0" not in gold else ""
    if not text:
        return "unreadable"
    if number(text) is not None:
        return "number"
    return "words" if words(text) is not None else "symbolic"


def _number(text: str) -> Number:
    value = number(text)
    assert value is not None, f"{text!r} was read as a number before"
    return value


def _in_workers(comparisons: list[Comparison], pool: WorkerPool | None, budget_s: float) -> dict[Comparison, Outcome]:
    if not comparisons:
        return {}
    if pool is None:
        with WorkerPool(1, COMPARISON_TIMEOUT_S, COMPARISON_MEMORY_MIB) as own:
            return _in_workers(comparisons, own, budget_s)
    outcomes: dict[Comparison, Outcome] = {}
    for function in dict.fromkeys(c.function for c in comparisons):
        mine = [c for c in comparisons if c.function == function]
        outcomes.update(zip(mine, pool.map(function, [c.args for c in mine], budget_s), strict=True))
    return outcomes


def _settle(outcome: Outcome) -> tuple[float, str]:
    if outcome.status == "timeout":
        return 0.0, "timed_out"
    if outcome.status != "ok":
        return 0.0, "crashed"
    return _settled(outcome.value)


def _settled(verdict: float | None) -> tuple[float, str]:
    return (0.0, "not_parsed") if verdict is None else (float(verdict), "graded")
