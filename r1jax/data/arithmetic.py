"""Integer expressions: drawing, solving, holding out.

An expression is text with spaces around its operators, such as '(2 + 3) * 4'. Operators are + - *; an operand is
an integer, negative ones only where a step made them ('4 - -3').
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from typing import NamedTuple

import numpy as np

TEST_SHARE = 0.05  # of all expressions, by hash
MAX_CHARACTERS = 200  # of an expression; longer text is refused unread

_TOKEN = re.compile(r"\s*(\d{1,12}|[-+*()])")
_RANK = {"+": 1, "-": 1, "*": 2}
_OPERATORS = ("+", "-", "*")

Token = int | str


class Step(NamedTuple):
    """One operation and its result."""

    left: int
    op: str
    right: int
    result: int

    @property
    def expression(self) -> str:
        return f"{self.left} {self.op} {self.right}"

    def __str__(self) -> str:
        return f"{self.left} {self.op} {self.right} = {self.result}"


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """Which problems are drawn. All results on the way stay within -max_abs..max_abs."""

    operand_shares: tuple[float, ...] = (0.3, 0.5, 0.2)  # problems of 2, 3, 4, .. operands
    max_operand: int = 9  # operands are 1..max_operand
    max_operand_pair: int = 20  # .. of two-operand problems
    max_abs: int = 99
    bracket_share: float = 0.3  # problems of 3 or more operands with brackets that change the tree

    def __post_init__(self):
        object.__setattr__(self, "operand_shares", tuple(float(s) for s in self.operand_shares))
        shares = self.operand_shares
        if not shares or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(
                f"problems.operand_shares is {shares}; expected shares of problems with 2, 3, .. operands that sum to 1"
            )
        if not 0 <= self.bracket_share <= 1:
            raise ValueError(f"problems.bracket_share is {self.bracket_share}; expected a share in 0..1")
        for name in ("max_operand", "max_operand_pair"):
            if not 1 <= getattr(self, name) <= self.max_abs:
                raise ValueError(
                    f"problems.{name} is {getattr(self, name)}; expected 1..max_abs ({self.max_abs}), "
                    "as an operand is a value too"
                )


def draw(rng: np.random.Generator, problems: Arithmetic) -> str:
    """An expression of the kind `problems` describes, in either split."""
    while True:
        expression = render(_draw_tokens(rng, problems))
        if all(abs(step.result) <= problems.max_abs for step, _ in _walk(expression)):
            return expression


def solve(expression: str) -> list[Step]:
    """Its steps in the right order: brackets, then products, then sums, each from the left."""
    return [step for step, _ in _walk(expression)]


def solve_left_to_right(expression: str) -> list[Step]:
    """The steps of who ignores both precedence and brackets."""
    tokens = [token for token in parse(expression) if token not in ("(", ")")]
    return [_apply(tokens, 0) for _ in range(len(tokens) // 2)]


def states(expression: str) -> list[str]:
    """What is left of the expression after each step of `solve`: ['2 + 12', '14'] for '2 + 3 * 4'."""
    return [state for _, state in _walk(expression)]


def value(expression: str) -> int:
    """What the expression is worth."""
    steps = solve(expression)
    return steps[-1].result if steps else _number(unwrapped(parse(expression))[0])


def parse(expression: str) -> list[Token]:
    """Its tokens, numbers as ints (a sign belongs to its number), brackets and operators as strings.

    Raises:
      ValueError: the text is no expression, or longer than `MAX_CHARACTERS`.
    """
    if len(expression) > MAX_CHARACTERS:
        raise ValueError(f"expression has {len(expression)} characters; expected at most {MAX_CHARACTERS}")
    tokens: list[Token] = []
    position, depth, operand_next, sign = 0, 0, True, 1
    while match := _TOKEN.match(expression, position):
        position, text = match.end(), match[1]
        if operand_next and text.isdigit():
            tokens.append(sign * int(text))
            operand_next, sign = False, 1
        elif operand_next and text == "-" and sign == 1:
            sign = -1
        elif operand_next and text == "(" and sign == 1:
            tokens.append(text)
            depth += 1
        elif not operand_next and text == ")" and depth:
            tokens.append(text)
            depth -= 1
        elif not operand_next and text in _RANK:
            tokens.append(text)
            operand_next = True
        else:
            break
    else:
        if not operand_next and not depth and not expression[position:].strip():
            return tokens
    raise ValueError(f"expression is {expression!r}; expected integers joined by + - * with optional brackets")


def render(tokens: list[Token]) -> str:
    """Tokens as text, in the one spacing."""
    return " ".join(map(str, tokens)).replace("( ", "(").replace(" )", ")")


def canonical(expression: str) -> str:
    """The expression in the one spacing and without brackets that say nothing."""
    operands: list[tuple[str, int]] = []  # text and rank of its outermost operator
    pending: list[str] = []

    def combine() -> None:
        op = pending.pop()
        (right, right_rank), (left, left_rank) = operands.pop(), operands.pop()
        left = f"({left})" if left_rank < _RANK[op] else left
        right = f"({right})" if right_rank <= _RANK[op] else right
        operands.append((f"{left} {op} {right}", _RANK[op]))

    for token in parse(expression):
        if isinstance(token, int):
            operands.append((str(token), 3))
        elif token == "(":
            pending.append(token)
        elif token == ")":
            while pending[-1] != "(":
                combine()
            pending.pop()
        else:
            while pending and pending[-1] != "(" and _RANK[pending[-1]] >= _RANK[token]:
                combine()
            pending.append(token)
    while pending:
        combine()
    return operands[0][0]


@functools.lru_cache(maxsize=1 << 17)
def is_test(expression: str) -> bool:
    """Whether the expression is held out: by a hash of its canonical form, for about `TEST_SHARE` of them.

    Two-operand products never are (they are the multiplication table), nor is what can only be a step of a
    problem and not a problem: expressions with a negative operand, and bare numbers.
    """
    tokens = parse(expression)
    numbers = [token for token in tokens if isinstance(token, int)]
    if len(numbers) == 1 or min(numbers) < 0 or (len(numbers) == 2 and "*" in tokens):
        return False
    digest = hashlib.blake2b(canonical(expression).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < TEST_SHARE * 2**64


def below(rng: np.random.Generator, n: int) -> int:
    """A uniform integer in 0..n-1 (`rng.integers` costs ten times as much for one number)."""
    return int(rng.random() * n)


def _draw_tokens(rng: np.random.Generator, problems: Arithmetic) -> list[Token]:
    count, rest = 2, rng.random()
    for share in problems.operand_shares[:-1]:
        rest -= share
        count += rest >= 0
    largest = problems.max_operand_pair if count == 2 else problems.max_operand
    tokens: list[Token] = []
    for _ in range(count):
        tokens += [1 + below(rng, largest), _OPERATORS[below(rng, 3)]]
    tokens.pop()
    if count > 2 and rng.random() < problems.bracket_share:
        return _bracketed(rng, tokens)
    return tokens


def _bracketed(rng: np.random.Generator, tokens: list[Token]) -> list[Token]:
    """`tokens` with one pair of brackets where brackets can change the value, if there is such a place."""
    spans = []
    for first in range(0, len(tokens) - 2, 2):
        for last in range(first + 2, len(tokens), 2):
            sums = any(token in ("+", "-") for token in tokens[first + 1 : last : 2])
            before = tokens[first - 1] if first else None
            after = tokens[last + 1] if last + 1 < len(tokens) else None
            if sums and (before in ("-", "*") or after == "*"):
                spans.append((first, last))
    if not spans:
        return tokens
    first, last = spans[below(rng, len(spans))]
    return [*tokens[:first], "(", *tokens[first : last + 1], ")", *tokens[last + 1 :]]


@functools.lru_cache(maxsize=1 << 16)
def _walk(expression: str) -> tuple[tuple[Step, str], ...]:
    """Every step by precedence, with what is left of the expression after it."""
    tokens, walked = unwrapped(parse(expression)), []
    while len(tokens) > 1:
        step, tokens = reduce_once(tokens)
        walked.append((step, render(tokens)))
    return tuple(walked)


def unwrapped(tokens: list[Token]) -> list[Token]:
    """`tokens` without brackets around a single number."""
    tokens, at = list(tokens), 0
    while at < len(tokens) - 2:
        if tokens[at] == "(" and tokens[at + 2] == ")":
            tokens[at : at + 3] = [tokens[at + 1]]
            at = max(at - 1, 0)
        else:
            at += 1
    return tokens


def reduce_once(tokens: list[Token], slip: int = 0) -> tuple[Step, list[Token]]:
    """The next step by precedence of an unwrapped expression, and what is left; `slip` is added to the result."""
    tokens, start, end = list(tokens), 0, len(tokens)
    if ")" in tokens:
        end = tokens.index(")")
        start = end - tokens[end - 1 :: -1].index("(")
    inside = tokens[start:end]
    step = _apply(tokens, start + (inside.index("*") - 1 if "*" in inside else 0), slip)
    return step, unwrapped(tokens) if start else tokens


def _apply(tokens: list[Token], at: int, slip: int = 0) -> Step:
    """Replaces the operand at `at`, its operator and the next operand by their result."""
    left, op, right = _number(tokens[at]), str(tokens[at + 1]), _number(tokens[at + 2])
    result = left + right if op == "+" else left - right if op == "-" else left * right
    tokens[at : at + 3] = [result + slip]
    return Step(left, op, right, result + slip)


def _number(token: Token) -> int:
    assert isinstance(token, int), f"{token!r} stands where a number should"
    return token
