"""Graded completions: the figures by hand."""

import numpy as np

from r1jax.stages.correctness import ANSWER, OPEN, PROGRAM
from r1jax.stages.graded import Graded, sample_curves, summary


def graded(correct, answers, kinds=None):
    correct_MK = np.array(correct, np.float32)
    format_MK = np.zeros_like(correct_MK)
    format_MK[0] = 1.0
    return Graded(
        correct_MK, format_MK, np.full(correct_MK.shape, 7, np.int32), answers, [], kinds or [ANSWER] * len(answers)
    )


def test_figures_by_hand():
    """Four problems, four samples each.

    1: the answers 14 14 20 and none: 2 of 4 right, the majority (14) right.
    2: 5 9 9 9 with 5 right: 1 of 4, a sample right, the majority wrong.
    3: none read: all wrong, no majority.
    4: 1 2 3 4 with 1 right: a tie, which the earliest wins: right.
    """
    figures = summary(
        graded(
            [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]],
            [["14", "14", "20", None], ["5", "9", "9", "9"], [None] * 4, ["1", "2", "3", "4"]],
        ),
        4,
    )
    assert figures == {
        "n": 4, "pass@1": 4 / 16, "pass@4": 3 / 4, "maj@4": 2 / 4, "format": 1 / 4, "mean_tokens": 7.0
    }  # fmt: skip
    assert list(figures) == ["n", "pass@1", "pass@4", "maj@4", "format", "mean_tokens"]


def test_the_majority_is_looked_up_where_it_was_given():
    """The vote is over answers as written; a wrong sample before it does not lend its grade."""
    assert summary(graded([[0, 1, 1]], [["3", "14", "14"]]), 3)["maj@3"] == 1.0
    assert summary(graded([[1, 0, 0]], [["14", "3", "3"]]), 3)["maj@3"] == 0.0


def test_partial_credit_counts_in_the_mean_and_is_not_a_pass():
    figures = summary(graded([[0.5, 0.5], [1.0, 0.0]], [["a", "b"], ["a", "b"]]), 2)
    assert figures["pass@1"] == 0.5 and figures["pass@2"] == 0.5


def test_one_sample_has_the_keys_of_one():
    figures = summary(graded([[0.5], [1.0]], [["a"], ["b"]]), 1)
    assert figures == {"n": 2, "pass@1": 0.75, "maj@1": 0.75, "format": 0.5, "mean_tokens": 7.0}


def test_programs_do_not_vote_and_free_text_is_not_graded():
    """Problems: an answer (2 of 2 right), a program (1 of 2), a greeting."""
    mixed = graded([[1, 1], [1, 0], [0, 0]], [["3", "3"], ["x", "x"], ["Hi", "Hi"]], [ANSWER, PROGRAM, OPEN])
    figures = summary(mixed, 2)
    assert (figures["n"], figures["pass@1"], figures["pass@2"], figures["maj@2"]) == (3, 3 / 4, 1.0, 1.0)
    assert sample_curves(mixed, 2) == {"pass@k": {"1": 3 / 4, "2": 1.0}, "maj@k": {"1": 1.0, "2": 1.0}}
    figures = summary(graded([[0, 0]], [["Hi", "Hi"]], [OPEN]), 2)
    assert figures == {"n": 1, "pass@1": None, "pass@2": None, "maj@2": None, "format": 1.0, "mean_tokens": 7.0}
    assert summary(graded([[1, 0]], [["x", "x"]], [PROGRAM]), 2)["maj@2"] is None
