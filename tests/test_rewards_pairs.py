"""Pair building: four judgements in random order, a margin above 1, balanced lengths."""

import random

import pytest
from test_rewards_judge import fenced

from r1jax.rewards.pairs import Candidate, Pair, balance_lengths, clear_pairs, judge_candidates


def by_score(prompts, seeds):
    """Marks by the number that each answer ends in; a small lead is a small mark. It leans to A by a level."""
    levels = ["B>>A", "B>A", "A=B", "A>B", "A>>B"]
    replies = []
    for prompt in prompts:
        a, b = (int(fenced(prompt)[f"answer {name}"].split()[-1]) for name in "AB")
        replies.append(f"verdict: {levels[min(max(a - b + 1, -2), 2) + 2]}")
    return replies


def test_marks_are_means_of_votes_in_random_order():
    candidates = [Candidate("q", "good 9", "bad 1"), Candidate("q", "bad 1", "good 9"), Candidate("q", "so 5", "so 5")]
    marks, said = judge_candidates(candidates, by_score, votes=400)
    assert said.asked == 1200 and said.unparsed == 0
    assert marks[0] == 2.0 and marks[1] == pytest.approx(-2.0)
    assert marks[2] == pytest.approx(0.0, abs=0.2)  # the lean to A evens out


def test_four_votes_and_an_unreadable_one_drops_the_pair():
    calls = []

    def some(prompts, seeds):
        calls.append(len(prompts))
        return [reply if n else "?" for n, reply in enumerate(by_score(prompts, seeds))]

    marks, said = judge_candidates([Candidate("q", "a 9", "b 1"), Candidate("r", "a 9", "b 1")], some)
    assert calls == [8] and said.unparsed == 1 and marks[0] is None and marks[1] == 2.0


def test_margin_is_above_one_and_the_better_is_chosen():
    candidates = [Candidate("q", f"f{n}", f"s{n}") for n in range(5)]
    pairs = clear_pairs(candidates, [1.0, 1.25, -2.0, None, -0.5])
    assert pairs == [Pair("q", "f1", "s1", 1.25), Pair("q", "s2", "f2", 2.0)]


def test_lengths_are_balanced_by_dropping_the_most_lopsided():
    draw = random.Random(0)
    pairs = [Pair(f"q{n}", "c" * draw.randint(50, 120), "r" * draw.randint(40, 110), 2.0) for n in range(500)]
    kept = balance_lengths(pairs)
    chosen, rejected = sum(len(p.chosen) for p in kept), sum(len(p.rejected) for p in kept)
    assert abs(chosen - rejected) <= 0.02 * max(chosen, rejected) and len(kept) > 300
    assert kept == [p for p in pairs if p in kept]  # in order
    gone = [len(p.chosen) - len(p.rejected) for p in pairs if p not in kept]
    assert min(gone) >= max(len(p.chosen) - len(p.rejected) for p in kept)
    mirrored = [Pair(p.question, p.rejected, p.chosen, p.margin) for p in pairs]
    assert len(balance_lengths(mirrored)) == len(kept)
    assert balance_lengths([]) == [] and balance_lengths([Pair("q", "long", "x", 2.0)]) == []
