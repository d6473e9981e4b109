"""Length and style rewards, by the papers' formulas worked by hand."""

import math
import time

import pytest

from r1jax.rewards.style import cosine, overlong, repeated, repetition

RIGHT, WRONG = "<answer>14</answer>", "<answer>15</answer>"


@pytest.mark.parametrize(
    ("length", "expected"), [(0, 0.0), (12, 0.0), (13, -0.25), (14, -0.5), (16, -1.0), (17, -1.0), (500, -1.0)]
)
def test_overlong(length, expected):
    """L_max 16 and L_cache 4: punished from 12 on."""
    assert overlong(completion_ids=[[7] * length], max_length=16, buffer=4, prompts=[""]) == [expected]


@pytest.mark.parametrize(("max_length", "buffer"), [(16, 0), (16, 17), (0, 0)])
def test_overlong_wants_room(max_length, buffer):
    with pytest.raises(ValueError, match="0 < buffer <= max_length"):
        overlong(completion_ids=[[1]], max_length=max_length, buffer=buffer)


def cosines(completions, lengths, **kwargs):
    n = len(completions)
    ids = [[1] * length for length in lengths]
    columns = {"answer": ["14"] * n, "task": ["arithmetic"] * n, "language": ["en"] * n}
    return cosine(prompts=[""] * n, completions=completions, completion_ids=ids, max_length=100, **columns, **kwargs)


def test_cosine_at_its_ends_and_middle():
    """Right from 2 to 1, wrong from -10 to 0, -10 where cut off; half-way in the middle, cos(pi/4) at a quarter."""
    quarter = (1 + math.sqrt(0.5)) / 2
    measured = cosines([RIGHT] * 4 + [WRONG] * 4, [0, 50, 25, 100] * 2)
    assert measured == pytest.approx([2.0, 1.5, 1 + quarter, -10.0, -10.0, -5.0, -10 * quarter, -10.0])


def test_cosine_orders():
    """Shorter is better where right, longer where wrong, and right beats wrong at every length."""
    lengths = list(range(0, 100, 7))
    right, wrong = cosines([RIGHT] * len(lengths), lengths), cosines([WRONG] * len(lengths), lengths)
    assert right == sorted(right, reverse=True) and wrong == sorted(wrong)
    assert min(right) > max(wrong)


def test_cosine_with_other_ends():
    assert cosines([RIGHT, WRONG, RIGHT], [0, 0, 100], right=(1.0, 0.5), wrong=(-1.0, -0.5), exceeded=-2.0) == [
        1,
        -1,
        -2,
    ]
    with pytest.raises(ValueError, match="max_length=0"):
        cosine([""], [RIGHT], [[1]], ["14"], ["arithmetic"], max_length=0)


@pytest.mark.parametrize(
    ("text", "ngram", "expected"),
    [
        ("a b c d e f", 2, 0.0),
        ("a b a b a b", 2, 3 / 5),  # ab ba ab ba ab: two kinds of five
        ("a A, a! a", 1, 3 / 4),
        ("a b", 3, 0.0),
        ("", 1, 0.0),
        ("我们我们我们", 2, 3 / 5),
    ],
)
def test_repetition(text, ngram, expected):
    assert repeated(text, ngram) == pytest.approx(expected)
    assert repetition(completions=[text], ngram=ngram, prompts=[""]) == pytest.approx([-expected])


def test_repetition_is_linear_and_wants_words():
    start = time.monotonic()
    assert repeated("so on " * 200_000, 20) > 0.99
    assert time.monotonic() - start < 3
    with pytest.raises(ValueError, match="ngram=0"):
        repeated("a", 0)
