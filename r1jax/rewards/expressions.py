"""Expression tasks (Countdown and its kin): integers, + - * / and brackets, computed exactly, never evaluated.

Countdown asks for an expression of given numbers that has a given value. A parser over a whitelist reads it, in one
pass over at most `MAX_CHARACTERS` characters; what is not on the list (floor division, powers, names, decimals,
digits of other scripts) is no expression.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from r1jax.rewards.extraction import extractor

MAX_CHARACTERS = 1024
MAX_DIGITS = 18  # of one integer
MAX_NESTING = 32  # brackets within brackets
SIGNS = {"×": "*", "÷": "/", "−": "-"}
USES = ("each_once", "at_most_once", "any")
COUNTS = ("graded", "not_parsed")

_BINDS = {"+": 1, "-": 1, "*": 2, "/": 2}
_DIGITS = frozenset("0123456789")  # str.isdigit would let in those of other scripts


class Expression(NamedTuple):
    value: Fraction
    numbers: tuple[int, ...]  # as written, from left to right


def countdown(
    prompts: Sequence[str],
    completions: Sequence[str],
    task: Sequence[str],
    numbers: Sequence[Any] | None = None,
    target: Sequence[Any] | int | None = None,
    metadata: Sequence[str] | None = None,
    use: str = "each_once",
    extraction: str | Mapping[str, str] = "answer",
    report: Callable[[str, float], None] | None = None,
    **columns: Any,
) -> list[float]:
    """1.0 where the answer is an expression of the given numbers that has the target's value, else 0.0.

    Args:
      prompts: B prompts; not used.
      completions: B completions, untrusted.
      task: B task names.
      numbers: B lists of integers, or their text, as in '[3, 5, 7]' or '3 5 7'.
      target: B integers or fractions, or their text; or one integer for all, such as 24.
      metadata: B entries of reasoning-gym as JSON; what the other two do not give is taken from them.
      use: 'each_once', every number exactly once; 'at_most_once', some of them, each at most once; 'any', some of
        them, as often as one likes.
      extraction: where the answer stands, as in `answers.accuracy`.
      report: told how many answers were graded, and not_parsed (no single answer, or no expression).
      **columns: the examples' other fields; not used.

    Raises:
      ValueError: `use` or `extraction` is not known, or an example has no numbers or target.
    """
    if use not in USES:
        raise ValueError(f"countdown's use is {use!r}; expected one of {', '.join(map(repr, USES))}")
    extract = extractor(extraction, "countdown's extraction")
    problems = _problems(numbers, target, metadata)
    scores = []
    counts = Counter(dict.fromkeys(COUNTS, 0))
    for completion, name, (given, wanted) in zip(completions, task, problems, strict=True):
        answer = extract(completion, name)
        expression = None if answer is None else parse(answer)
        counts["not_parsed" if expression is None else "graded"] += 1
        right = expression is not None and expression.value == wanted and uses(expression.numbers, given, use)
        scores.append(float(right))
    if report is not None:
        for key in COUNTS:
            report(key, float(counts[key]))
    return scores


def check_countdown(
    task: Sequence[str],
    numbers: Sequence[Any] | None = None,
    target: Sequence[Any] | int | None = None,
    metadata: Sequence[str] | None = None,
    extraction: str | Mapping[str, str] = "answer",
) -> list[str]:
    """Before a run: refuses records without numbers and target."""
    extract = extractor(extraction, "countdown's extraction")
    for name in dict.fromkeys(task):
        extract("", name)
    _problems(numbers, target, metadata)
    return []


def uses(written: Sequence[int], given: Sequence[int], use: str) -> bool:
    """Whether an expression's numbers are the given ones, used as `use` says."""
    if use == "any":
        return set(written) <= set(given)
    return Counter(written) == Counter(given) if use == "each_once" else Counter(written) <= Counter(given)


def parse(text: str) -> Expression | None:
    """The value of an expression of integers, + - * / (× ÷ −) and brackets; None for anything else.

    A minus before a number, where no operator can stand, is its sign: it makes another number of it.
    Division by zero is None.
    """
    tokens = _tokens(text)
    return None if tokens is None else _evaluate(tokens)


def _tokens(text: str) -> list[str | int] | None:
    """Operators, brackets and integers; None where the text holds anything else."""
    if len(text) > MAX_CHARACTERS:
        return None
    tokens: list[str | int] = []
    i = 0
    while i < len(text):
        char = SIGNS.get(text[i], text[i])
        end = i + 1
        if char in _DIGITS:
            while end < len(text) and text[end] in _DIGITS:
                end += 1
            if end - i > MAX_DIGITS:
                return None
            tokens.append(int(text[i:end]))
        elif char in _BINDS or char in "()":
            tokens.append(char)
        elif char not in " \t\n":
            return None
        i = end
    return tokens


def _evaluate(tokens: list[str | int]) -> Expression | None:
    """By two stacks, of values and of operators: each token is pushed and popped once."""
    values: list[Fraction] = []
    operators: list[str] = []
    numbers: list[int] = []
    depth, sign, wants_value = 0, 1, True
    for i, token in enumerate(tokens):
        if isinstance(token, int):
            if not wants_value:
                return None
            numbers.append(sign * token)
            values.append(Fraction(numbers[-1]))
            sign, wants_value = 1, False
        elif token == "(":
            depth += 1
            if not wants_value or depth > MAX_NESTING:
                return None
            operators.append(token)
        elif token == ")":
            depth -= 1
            if wants_value or depth < 0 or not _apply_until(values, operators, 0):
                return None
            operators.pop()
        elif not wants_value:
            if not _apply_until(values, operators, _BINDS[token]):
                return None
            operators.append(token)
            wants_value = True
        elif token == "-" and sign == 1 and i + 1 < len(tokens) and isinstance(tokens[i + 1], int):
            sign = -1
        else:
            return None
    if wants_value or depth or not _apply_until(values, operators, 0):
        return None
    return Expression(values[0], tuple(numbers))


def _apply_until(values: list[Fraction], operators: list[str], binds: int) -> bool:
    """Applies the operators on top that bind as strongly or more, down to a bracket; False at a division by zero."""
    while operators and operators[-1] != "(" and _BINDS[operators[-1]] >= binds:
        operator, right = operators.pop(), values.pop()
        if operator == "/":
            if right == 0:
                return False
            values[-1] /= right
        elif operator == "*":
            values[-1] *= right
        else:
            values[-1] += right if operator == "+" else -right
    return True


def _problems(
    numbers: Sequence[Any] | None, target: Sequence[Any] | int | None, metadata: Sequence[str] | None
) -> list[tuple[tuple[int, ...], Fraction]]:
    """The numbers and the target of each example."""
    entries = [] if metadata is None else [json.loads(entry)["metadata"] for entry in metadata]
    if numbers is None:
        numbers = [entry.get("numbers") for entry in entries]
    if target is None:
        target = [entry.get("target") for entry in entries]
    elif isinstance(target, int):
        target = [target] * len(numbers)
    if not numbers or not target:
        raise ValueError(
            "countdown needs the columns 'numbers' and 'target', or 'metadata' with both; add them to the records"
        )
    return [_problem(i, *row) for i, row in enumerate(zip(numbers, target, strict=True))]


def _problem(index: int, numbers: Any, target: Any) -> tuple[tuple[int, ...], Fraction]:
    try:
        listed = numbers.replace(",", " ").strip(" []()").split() if isinstance(numbers, str) else numbers
        given = tuple(int(number) for number in listed)
        wanted = Fraction(str(target))
    except (TypeError, ValueError, ZeroDivisionError):
        given, wanted = (), Fraction(0)
    if not given:
        raise ValueError(
            f"countdown: example {index} has numbers {numbers!r} and target {target!r}; expected integers, as in "
            "'[3, 5, 7]', and a number, as in '24'; mend the record"
        )
    return given, wanted
