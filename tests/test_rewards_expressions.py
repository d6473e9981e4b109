"""Expressions: cases by hand, Python's own arithmetic as the oracle, Countdown's rules, what is no expression."""

import json
import random
import time
from fractions import Fraction

import pytest

from r1jax.rewards.expressions import MAX_CHARACTERS, MAX_NESTING, check_countdown, countdown, parse

VALUES = {
    "7": 7, "2+3*4": 14, "(2+3)*4": 20, "2 - 3 - 4": -5, "24/3/2": 4, "2 × 3 ÷ 4": Fraction(3, 2), "5 − 7": -2,
    "-3+5": 2, "5+-3": 2, "5--3": 8, "2*(-3)": -6, "((7))": 7, "1/3+1/6": Fraction(1, 2), "7\n+\t1": 8, "007": 7,
    "(1+2)/(3-1)*4": 6,
}  # fmt: skip

NOT_EXPRESSIONS = [
    "", " ", "()", "2+", "+2", "*2", "2 3", "2(3)", "(2)(3)", "(2)3", "2)", "(2", "2**3", "7//2", "2^3", "2%3", "1.5",
    "1e3", "2=2", "1,000", "x", "2+x", "abs(2)", "__import__('os')", "१४", "２+3", "²", "2\0", "2;3", "--3",
    "-(3)", "2-+3", "1/0", "1/(2-2)", "0/0", "\ud800", "½", "2\u00a0+3", "2·3", "9" * 19, "(" * 33 + "1" + ")" * 33,
    "1+" * 600 + "1",
]  # fmt: skip


def grade(answers, numbers="[3, 5, 7]", target="26", **kwargs):
    n = len(answers)
    texts = [f"<think> x </think> <answer> {answer} </answer>" for answer in answers]
    columns = {"numbers": [numbers] * n, "target": [target] * n}
    return countdown(prompts=["?"] * n, completions=texts, task=["countdown"] * n, **columns, **kwargs)


@pytest.mark.parametrize("text", VALUES)
def test_values(text):
    assert parse(text).value == VALUES[text]


@pytest.mark.parametrize("text", NOT_EXPRESSIONS, ids=lambda text: ascii(text[:20]))
def test_not_expressions(text):
    assert parse(text) is None


def expression(rng: random.Random, depth: int) -> str:
    if depth == 0 or rng.random() < 0.2:
        return str(rng.randrange(20))
    text = rng.choice([" ", ""]).join([expression(rng, depth - 1), rng.choice("+-*/"), expression(rng, depth - 1)])
    return f"({text})" if rng.random() < 0.5 else text


def test_agrees_with_python_on_random_expressions():
    rng = random.Random(0)
    undefined = 0
    for _ in range(2000):
        text = expression(rng, rng.randrange(5))
        exact = "".join(f"Fraction({part})" if part.isdigit() else part for part in _split(text))
        try:
            want = eval(exact, {"Fraction": Fraction})  # generated above, of digits and operators alone
        except ZeroDivisionError:
            want = None
        got = parse(text)
        undefined += want is None
        assert (got and got.value) == want, text
        assert got is None or list(got.numbers) == [int(part) for part in _split(text) if part.isdigit()]
    assert 20 < undefined < 1000


def _split(text: str) -> list[str]:
    for sign in "+-*/()":
        text = text.replace(sign, f" {sign} ")
    return text.split()


def test_each_number_is_used_as_the_task_says():
    assert grade(["3*7+5", "5+7*3", "(7×3)+5"]) == [1.0, 1.0, 1.0]
    assert grade(["26", "3*7+6", "3+7*5", "21+5", "3*7+5+0", "-3*-7+5", "3*7+5/1", "13*2", "37-11"]) == [0.0] * 9
    ways = ["3*7+5", "21+5", "7*3", "7+7+7", "3+3"]
    assert grade(ways[2:], target="21", use="each_once") == [0.0] * 3
    assert grade(ways[2:], target="21", use="at_most_once") == [1.0, 0.0, 0.0]
    assert grade(ways[2:], target="21", use="any") == [1.0, 1.0, 0.0]
    assert grade(["5+5+3", "5+3+5", "5+3"], numbers="5 3 5", target=13) == [1.0, 1.0, 0.0]
    assert grade(["-2+3"], numbers=[-2, 3], target="1") == [1.0]
    assert grade(["3/7"], numbers=(3, 7), target="3/7") == [1.0]


def test_floor_division_and_towers_score_nothing():
    assert grade(["7//2", "7/2"], numbers="[7, 2]", target="3") == [0.0, 0.0]
    start = time.monotonic()
    assert grade(["9**9**9", "9" * 1_000_000, "(" * 1_000_000, "1*" * 1_000_000 + "1"]) == [0.0] * 4
    assert time.monotonic() - start < 0.5


def test_the_longest_that_is_read_takes_no_time():
    worst = ["(" * MAX_NESTING + "1" + ")" * MAX_NESTING, "1/999999999999999989+" * 48 + "1", "9*" * 511 + "9"]
    start = time.monotonic()
    assert all(parse(text) is not None and len(text) <= MAX_CHARACTERS for text in worst)
    assert time.monotonic() - start < 0.2


def test_reasoning_gym_entries_and_one_target_for_all():
    entry = json.dumps({"answer": "", "metadata": {"numbers": [6, 61, 94, 4], "target": 309}})
    texts = ["<answer>94*4 - 61 - 6</answer>", "<answer>94*4-61</answer>"]
    assert countdown(["?"] * 2, texts, ["t"] * 2, metadata=[entry] * 2) == [1.0, 0.0]
    puzzle = json.dumps({"metadata": {"numbers": [4, 4, 10, 10]}})
    assert countdown(["?"], ["so \\boxed{(10*10-4)/4}"], ["t"], metadata=[puzzle], target=24, extraction="boxed") == [1]


def test_counts():
    counts: dict[str, float] = {}
    grade(["3*7+5", "26", "x", "7//2", ""], report=counts.__setitem__)
    assert counts == {"graded": 2, "not_parsed": 3}


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"use is 'once'; expected one of 'each_once'"):
        grade(["1"], use="once")
    with pytest.raises(ValueError, match=r"needs the columns 'numbers' and 'target'"):
        check_countdown(task=["t"], numbers=["[1]"])
    with pytest.raises(ValueError, match=r"example 1 has numbers 'none' and target '3'"):
        check_countdown(task=["t"] * 2, numbers=["[1]", "none"], target=["1", "3"])
    with pytest.raises(ValueError, match=r"extraction is 'block'"):
        check_countdown(task=["t"], numbers=["[1]"], target=["1"], extraction="block")
    assert check_countdown(task=["t"], numbers=["[1]"], target=["1"]) == []
