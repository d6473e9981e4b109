"""Assertions as tests that a program cannot forge: it is shown the call, and what comes back is compared out here."""

from __future__ import annotations

import ast
import builtins
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

HUGE = 1e300  # past it an integer may not fit a float


class Check(NamedTuple):
    """An expression, the value that it should have, and how far off a number may be."""

    expression: str
    expected: Any
    tolerance: float | None  # None: equal


def take_apart(test: str) -> Check:
    """An assertion as what the program may see and what it may not. Raises ValueError where it is of another form."""
    try:
        (statement,) = ast.parse(test.strip()).body
        if not isinstance(statement, ast.Assert):
            raise ValueError("not an assertion")
        return _of_condition(statement.test)
    except (SyntaxError, ValueError) as error:
        raise ValueError(
            f"column 'tests' got {test[:200]!r}; expected one assertion whose expected value is written out, such as "
            "'assert f(2) == 4', 'assert not f(2)' or 'assert abs(f(2) - 4.0) < 1e-6'"
        ) from error


def _of_condition(condition: ast.expr) -> Check:
    match condition:
        case ast.UnaryOp(op=ast.Not(), operand=ast.Call() as call) if _is_the_programs(call):
            return Check(f"bool({ast.unparse(call)})", False, None)
        case ast.Call() as call if _is_the_programs(call):
            return Check(f"bool({ast.unparse(call)})", True, None)
        case ast.Compare(
            left=ast.Call(func=ast.Name(id="abs"), args=[ast.BinOp(left=left, op=ast.Sub(), right=right)], keywords=[]),
            ops=[ast.Lt() | ast.LtE()],
            comparators=[most],
        ):
            shown, expected = _parted(left, right)
            return Check(shown, expected, float(ast.literal_eval(most)))
        case ast.Compare(left=left, ops=[ast.Eq() | ast.Is()], comparators=[right]):
            shown, expected = _parted(left, right)
            return Check(shown, expected, None)
    raise ValueError("another kind of condition")


def _is_the_programs(call: ast.Call) -> bool:
    """Whether it calls a function or method of the program itself.

    Of anything else ("isclose(f(2), 4.0)", "all(x > 0 for x in f(2))") the program would see what it is compared
    with, and could return an object that compares as it likes.
    """
    match call.func:
        case ast.Name(id=name):
            return name not in vars(builtins) and name != "isclose"
        case ast.Attribute(value=ast.Call() as made):
            return _is_the_programs(made)
    return False


def _parted(left: ast.expr, right: ast.expr) -> tuple[str, Any]:
    """Which side is shown to the program, and the value of the other, which must be written out."""
    try:
        return ast.unparse(left), ast.literal_eval(right)
    except ValueError:
        return ast.unparse(right), ast.literal_eval(left)


def read_results(output: bytes) -> Mapping[int, Any]:
    """Packed results by index; from untrusted text. Of an index that comes twice neither counts: it was a guess."""
    found: dict[int, Any] = {}
    seen: Counter[int] = Counter()
    for line in output.split(b"\n")[:-1]:
        try:
            index, packed = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            continue
        if type(index) is int:
            seen[index] += 1
            found[index] = packed
    return {index: packed for index, packed in found.items() if seen[index] == 1}


def same(packed: Any, expected: Any, tolerance: float | None) -> bool:
    """Whether an untrusted packed value (see `sandboxed.pack`) equals the expected one, in time bounded by the latter.

    Equality is Python's: 2 == 2.0, but a list is no tuple. A NaN equals nothing.
    """
    if not (isinstance(packed, list) and len(packed) == 2 and isinstance(packed[0], str)):
        return False
    kind, value = packed
    if expected is None or isinstance(expected, str):
        return kind == type(expected).__name__ and value == expected
    if isinstance(expected, (bool, int, float)):
        if kind not in ("bool", "int", "float") or not isinstance(value, (bool, int, float)):
            return False
        return value == expected if tolerance is None else abs(value) < HUGE and abs(value - expected) <= tolerance
    if isinstance(expected, bytes):
        return kind == "bytes" and value == expected.hex()
    if isinstance(expected, complex):
        return kind == "complex" and value == [expected.real, expected.imag]
    if kind != type(expected).__name__ or not isinstance(value, list) or len(value) != len(expected):
        return False
    if isinstance(expected, dict):
        return _matched(value, expected.items(), lambda pair, item: _same_item(pair, item, tolerance))
    if isinstance(expected, set):
        return _matched(value, expected, lambda member, other: same(member, other, None))
    return all(same(v, e, tolerance) for v, e in zip(value, expected, strict=True))


def _same_item(packed: Any, item: tuple[Any, Any], tolerance: float | None) -> bool:
    """Whether a packed key and value are those of a dictionary's item."""
    pair = isinstance(packed, list) and len(packed) == 2
    return pair and same(packed[0], item[0], None) and same(packed[1], item[1], tolerance)


def _matched(values: list[Any], expected: Iterable[Any], equal: Callable[[Any, Any], bool]) -> bool:
    """Whether the values are the expected ones, of which there are as many, in some order.

    Quadratic in the number of the expected: hashing what a program chose could be made slower than that.
    """
    left = list(expected)
    for value in values:
        found = next((i for i, other in enumerate(left) if equal(value, other)), None)
        if found is None:
            return False
        del left[found]
    return True
