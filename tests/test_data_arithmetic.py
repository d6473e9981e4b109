"""Expressions: solved by hand-worked cases and Python's own arithmetic; drawn within bounds; held out by hash."""

import collections

import numpy as np
import pytest

from r1jax.data import arithmetic
from r1jax.data.arithmetic import Arithmetic


def steps(found):
    return [str(step) for step in found]


@pytest.mark.parametrize(
    ("expression", "right", "careless"),
    [
        ("2 + 3 * 4", ["3 * 4 = 12", "2 + 12 = 14"], ["2 + 3 = 5", "5 * 4 = 20"]),
        ("(2 + 3) * 4", ["2 + 3 = 5", "5 * 4 = 20"], ["2 + 3 = 5", "5 * 4 = 20"]),
        ("3 - 7 + 2", ["3 - 7 = -4", "-4 + 2 = -2"], ["3 - 7 = -4", "-4 + 2 = -2"]),
        ("4 - (2 - 5)", ["2 - 5 = -3", "4 - -3 = 7"], ["4 - 2 = 2", "2 - 5 = -3"]),
        ("4 * (2 - 5)", ["2 - 5 = -3", "4 * -3 = -12"], ["4 * 2 = 8", "8 - 5 = 3"]),
        ("2 * 3 + 4 * 5", ["2 * 3 = 6", "4 * 5 = 20", "6 + 20 = 26"], ["2 * 3 = 6", "6 + 4 = 10", "10 * 5 = 50"]),
        ("9 - (1 + 3 * 2)", ["3 * 2 = 6", "1 + 6 = 7", "9 - 7 = 2"], ["9 - 1 = 8", "8 + 3 = 11", "11 * 2 = 22"]),
        ("7 + 5", ["7 + 5 = 12"], ["7 + 5 = 12"]),
    ],
)
def test_steps(expression, right, careless):
    assert steps(arithmetic.solve(expression)) == right
    assert steps(arithmetic.solve_left_to_right(expression)) == careless
    assert arithmetic.value(expression) == int(right[-1].split(" = ")[1])


def test_states_are_what_is_left():
    assert arithmetic.states("2 + 3 * 4") == ["2 + 12", "14"]
    assert arithmetic.states("8 - (2 - 5) * 2") == ["8 - -3 * 2", "8 - -6", "14"]
    assert arithmetic.states("2 * (9 - (4 + 1))") == ["2 * (9 - 5)", "2 * 4", "8"]


@pytest.mark.parametrize(
    "text", ["", "2 +", "(2 + 3", "2 + 3)", "2 3", "2 / 3", "--2", "-(2)", "()", "2 ** 3", "x + 1"]
)
def test_what_is_no_expression_is_refused(text):
    with pytest.raises(ValueError, match="expected integers joined by"):
        arithmetic.parse(text)


def test_long_text_is_refused_unread():
    with pytest.raises(ValueError, match="201 characters; expected at most 200"):
        arithmetic.value("(" * 201)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(2+3)*4", "(2 + 3) * 4"),
        ("2 + (3 * 4)", "2 + 3 * 4"),
        ("((2)) + 3", "2 + 3"),
        ("(2 + 3) - 4", "2 + 3 - 4"),
        ("2 - (3 - 4)", "2 - (3 - 4)"),
        ("4 - -3", "4 - -3"),
        ("((7))", "7"),
    ],
)
def test_canonical(text, expected):
    assert arithmetic.canonical(text) == expected
    assert arithmetic.canonical(expected) == expected
    assert arithmetic.value(text) == arithmetic.value(expected)


def test_drawn_expressions_keep_their_bounds_and_agree_with_python():
    rng, problems = np.random.default_rng(0), Arithmetic(operand_shares=(0.2, 0.5, 0.3), max_abs=60)
    drawn = [arithmetic.draw(rng, problems) for _ in range(4000)]
    counts = collections.Counter()
    for expression in drawn:
        found, numbers = arithmetic.solve(expression), [t for t in arithmetic.parse(expression) if isinstance(t, int)]
        assert found[-1].result == arithmetic.value(expression) == eval(expression)  # our own text
        assert max(abs(step.result) for step in found) <= 60
        assert min(numbers) >= 1 and max(numbers) <= (20 if len(numbers) == 2 else 9)
        assert arithmetic.canonical(expression) == expression  # no brackets that say nothing
        counts[len(numbers)] += 1
    # Those that leave the bounds are drawn again, so the shares shift a little.
    assert set(counts) == {2, 3, 4} and counts[3] > counts[4] > 0.15 * 4000
    assert 0.05 < sum("(" in e for e in drawn) / 4000 < 0.3
    assert any(step.left < 0 for e in drawn for step in arithmetic.solve(e))


def test_draws_depend_on_the_generator_alone():
    first, again, other = (
        [arithmetic.draw(rng, Arithmetic()) for _ in range(50)] for rng in map(np.random.default_rng, (3, 3, 4))
    )
    assert first == again != other


def test_held_out_share_and_exceptions():
    sums = [f"{a} {op} {b}" for a in range(1, 60) for op in "+-" for b in range(1, 60)]
    threes = [f"{a} + {b} * {c}" for a in range(1, 20) for b in range(1, 20) for c in range(1, 20)]
    for family in (sums, threes):
        assert np.mean([arithmetic.is_test(e) for e in family]) == pytest.approx(0.05, abs=0.01)
    assert not any(arithmetic.is_test(f"{a} * {b}") for a in range(60) for b in range(60))
    assert not any(arithmetic.is_test(f"-{a} + {b}") for a in range(1, 60) for b in range(60))
    assert not arithmetic.is_test("7")


def test_held_out_is_a_fixed_function_of_the_canonical_form():
    # Changing the split would leak problems that a stored model has seen: these are pinned.
    pinned = [e for e in (f"{a} + {b}" for a in range(1, 21) for b in range(1, 21)) if arithmetic.is_test(e)]
    assert pinned == [
        "3 + 14",
        "5 + 9",
        "6 + 12",
        "7 + 20",
        "8 + 15",
        "9 + 19",
        "10 + 15",
        "11 + 4",
        "11 + 10",
        "13 + 9",
        "13 + 18",
        "14 + 10",
        "15 + 2",
        "19 + 10",
    ]
    assert all(arithmetic.is_test(f"(({e}))") for e in pinned)


@pytest.mark.parametrize(
    ("field", "value"),
    [("operand_shares", (0.5, 0.6)), ("operand_shares", ()), ("bracket_share", 1.5), ("max_operand", 100)],
)
def test_bad_parameters_are_named(field, value):
    with pytest.raises(ValueError, match=f"problems.{field} is .*expected"):
        Arithmetic(**{field: value})
