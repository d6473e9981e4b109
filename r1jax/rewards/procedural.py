"""reasoning-gym's own scorers. Runs in grading workers only.

Several of them evaluate the model's text as Python (`eval`, or sympy's `parse_expr`, which is `eval` too), so
that an answer could run code, or pass floor division off as division. Those tasks get only text that a
whitelist admits.
"""

from __future__ import annotations

import json
import re

import reasoning_gym

MAX_EXPRESSION = 256  # characters

_ARITHMETIC = re.compile(r"[0-9+\-*/() ]+")
_WORD = r"(?<![A-Za-z])(?:[A-Za-z]|exp|log|sqrt|sin|cos|tan|asin|acos|atan)(?![A-Za-z])"
_SYMBOLIC = re.compile(rf"(?:[0-9+\-*/^(). ]|{_WORD})+")
_LITERAL = re.compile(r"[A-Za-z0-9 ,.\-'\"\[\]\n]+")  # no call, no attribute of use, no operator
_SMALL_POWERS = re.compile(r"\*\*\s*\(?\s*-?\s*[0-9]{1,2}(?![0-9])")

ADMITTED = {
    "countdown": _ARITHMETIC,
    "puzzle24": _ARITHMETIC,
    "simple_integration": _SYMBOLIC,
    "intermediate_integration": _SYMBOLIC,
    "polynomial_multiplication": _SYMBOLIC,
    "string_insertion": _LITERAL,
    "spiral_matrix": _LITERAL,
    "binary_matrix": _LITERAL,
}


def score(name: str, answer: str, entry: str) -> float | None:
    """The task's own score of an answer, in [0, 1]; None where the answer is not admitted.

    Args:
      name: the task's name in reasoning-gym.
      answer: content of the answer block.
      entry: the dataset entry as JSON, with `question`, `answer` and `metadata`.
    """
    if not admitted(name, answer):
        return None
    value = float(reasoning_gym.get_score_answer_fn(name)(answer, json.loads(entry)))
    return min(max(value, 0.0), 1.0) if value == value else 0.0


def admitted(name: str, answer: str) -> bool:
    """Whether the answer is of the kind that the task's scorer may be handed."""
    pattern = ADMITTED.get(name)
    if pattern is None:
        return True
    if pattern is _LITERAL:
        return pattern.fullmatch(answer) is not None
    if len(answer) > MAX_EXPRESSION or pattern.fullmatch(answer) is None or "//" in answer:
        return False
    powers = answer.count("**")
    if pattern is _ARITHMETIC:
        return powers == 0
    return powers == len(_SMALL_POWERS.findall(answer)) and answer.count("^") == 0
