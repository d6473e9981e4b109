"""Preference pairs from a policy and a judge: two responses to each question, judged, kept where the judge is clear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from r1jax.rewards.judge import Generate
from r1jax.rewards.pairs import Candidate, Pair, balance_lengths, clear_pairs, judge_candidates
from r1jax.rewards.preference import summary
from r1jax.stages.inference import seeds

WRITER_SEEDS = 5  # purpose of these seeds, beside those of rollouts and evaluation


def build(
    questions: Sequence[str], writer: Generate, judge: Generate, *, votes: int, margin: float, seed: int
) -> tuple[list[Pair], dict[str, Any]]:
    """Pairs of summaries, with what became of the questions.

    Args:
      writer: the policy whose responses are compared; it is asked each question twice.
      judge: compares them, `votes` times, their places drawn at random.
      margin: the mean mark, of at most 2, that a pair must exceed.

    Returns:
      (pairs, {"questions", "compared": with two different summaries, "unparsed", "failed": votes, "clear": above the
      margin, "pairs": left once lengths are balanced}).

    Source: as `rewards/pairs.py`.
    """
    twice = [question for question in questions for _ in range(2)]
    written = writer(twice, [int(s) for s in seeds(seed, len(twice), WRITER_SEEDS)])
    texts = [None if response is None else summary(response) for response in written]
    candidates = [
        Candidate(question, first, second)
        for question, first, second in zip(questions, texts[0::2], texts[1::2], strict=True)
        if first is not None and second is not None and first != second
    ]
    marks, said = judge_candidates(candidates, judge, votes=votes, seed=seed)
    clear = clear_pairs(candidates, marks, margin=margin)
    pairs = balance_lengths(clear)
    figures = {
        "questions": len(questions),
        "compared": len(candidates),
        "unparsed": said.unparsed,
        "failed": said.failed,
        "clear": len(clear),
        "pairs": len(pairs),
    }
    return pairs, figures
