"""Rewards of preference models: how helpful the final summary is, and how harmless the whole response.

Each is handed a scorer, which the stage opens from the folder that `checkpoint` names. Source: DeepSeek-R1
(arXiv 2501.12948): helpfulness is judged by the final summary alone, so that the reasoning is left alone;
harmlessness by the whole response, so that nothing is hidden in the reasoning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from r1jax.rewards.format import ANSWER, END_ANSWER, END_THINK, THINK

Scorer = Callable[[Sequence[str], Sequence[str]], list[float | None]]  # (questions, replies) -> scores
Report = Callable[[str, float], None]


def helpful(
    completions: Sequence[str],
    question: Sequence[str],
    checkpoint: str,
    scorer: Scorer,
    missing: float = -5.0,
    report: Report | None = None,
) -> list[float]:
    """The score of each completion's summary, in nats of log-odds: only differences mean something.

    Args:
      completions: B completions as sampled, without the prompt.
      question: B questions, without the template.
      checkpoint: folder of a model of pairs; a pipeline may name one of its earlier stages.
      scorer: that model, opened.
      missing: the score where there is no summary to read, or one longer than the model reads. It should be below
        what replies earn: a policy must not gain by saying nothing.
      report: gets `missing`, the share of completions that were scored so.
    """
    summaries = [summary(completion) for completion in completions]
    score_B = _scored(scorer, checkpoint, question, summaries)
    if report is not None:
        report("missing", sum(score is None for score in score_B) / len(score_B))
    return [missing if score is None else score for score in score_B]


def harmless(
    completions: Sequence[str],
    question: Sequence[str],
    checkpoint: str,
    scorer: Scorer,
    report: Report | None = None,
) -> list[float]:
    """The probability that each whole response, its thought included, is safe.

    Args:
      checkpoint: folder of a model of replies labelled safe and unsafe.
      report: gets `unread`, the share of completions longer than the model reads; these count as unsafe, for
        otherwise a policy could bury what is not.
    """
    score_B = _scored(scorer, checkpoint, question, completions)
    if report is not None:
        report("unread", sum(score is None for score in score_B) / len(score_B))
    return [0.0 if score is None else _sigmoid(score) for score in score_B]


def summary(completion: str) -> str | None:
    """What follows the last thought, without answer tags; None where the thought is not closed or nothing follows.

    A completion that does not think is all summary.
    """
    head, closed, tail = completion.rpartition(END_THINK)
    if THINK in (tail if closed else completion):
        return None
    text = (tail if closed else head + tail).strip()
    text = text.removeprefix(ANSWER).removesuffix(END_ANSWER).strip()
    return text or None


def _scored(
    scorer: Scorer, checkpoint: str, questions: Sequence[str], replies: Sequence[str | None]
) -> list[float | None]:
    """Scores of the replies that there are; None for the others, and for what the scorer cannot read."""
    there = [b for b, reply in enumerate(replies) if reply is not None]
    scores = scorer([questions[b] for b in there], [replies[b] or "" for b in there]) if there else []
    if len(scores) != len(there):
        raise ValueError(f"the model of {checkpoint!r} gave {len(scores)} scores for {len(there)} replies")
    result: list[float | None] = [None] * len(replies)
    for b, score in zip(there, scores, strict=True):
        result[b] = score
    return result


def _sigmoid(score: float) -> float:
    return 1.0 / (1.0 + math.exp(-score)) if score >= 0 else math.exp(score) / (1.0 + math.exp(score))
