"""Length and style: rewards that keep completions from growing past the limit, from padding, and from repeating."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from r1jax.rewards.answers import accuracy

# Characters of scripts that are written without spaces are words of their own.
_WORD = re.compile(
    "[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0eff]|[^\\W\u3041-\u30ff\u3400-\u9fff\u0e00-\u0eff]+"
)


def overlong(completion_ids: Sequence[Sequence[int]], max_length: int, buffer: int, **columns: Any) -> list[float]:
    """0 up to `max_length - buffer` tokens, from there down in a straight line to -1 at `max_length`, -1 past it.

    Args:
      completion_ids: B lists of tokens.
      max_length: tokens; as a rule the stage's limit on a completion.
      buffer: tokens in which the punishment grows.
      **columns: the examples' other fields; not used.

    Source: DAPO (arXiv 2503.14476), equation 13, 'soft overlong punishment'; added to the accuracy with weight 1.
    """
    if not 0 < buffer <= max_length:
        raise ValueError(
            f"overlong got max_length={max_length} and buffer={buffer}; expected 0 < buffer <= max_length, in tokens"
        )
    free = max_length - buffer
    return [-min(1.0, max(0.0, (len(ids) - free) / buffer)) for ids in completion_ids]


def cosine(
    prompts: Sequence[str],
    completions: Sequence[str],
    completion_ids: Sequence[Sequence[int]],
    answer: Sequence[str],
    task: Sequence[str],
    max_length: int,
    right: tuple[float, float] = (2.0, 1.0),
    wrong: tuple[float, float] = (-10.0, 0.0),
    exceeded: float = -10.0,
    metadata: Sequence[str | None] | None = None,
    extraction: Any = "answer",
    pool: Any = None,
    report: Callable[[str, float], None] | None = None,
    budget_s: float = math.inf,
    **columns: Any,
) -> list[float]:
    """Accuracy scaled by length, in its place: right answers better the shorter, wrong ones worse the shorter.

    A completion of n < L tokens, L = max_length, earns b + (a - b) (1 + cos(pi n / L)) / 2, where (a, b) are the
    values at lengths 0 and L, of `right` or of `wrong`; `exceeded` from L on. An answer that is partly right, which
    some procedural tasks have, lies between the two.

    Args:
      prompts, completions, answer, task, metadata, extraction, pool, report, budget_s: as `answers.accuracy`.
      completion_ids: B lists of tokens.
      max_length: tokens at which a completion is cut off.
      right, wrong, exceeded: rewards; the defaults are the source's.
      **columns: the examples' other fields; not used.

    Source: Demystifying Long Chain-of-Thought Reasoning in LLMs (arXiv 2502.03373), the 'cosine reward'.
    """
    if max_length < 1:
        raise ValueError(f"cosine got max_length={max_length}; expected at least one token")
    scores = accuracy(
        prompts=prompts,
        completions=completions,
        answer=answer,
        task=task,
        metadata=metadata,
        extraction=extraction,
        pool=pool,
        report=report,
        budget_s=budget_s,
    )
    rewards = []
    for score, ids in zip(scores, completion_ids, strict=True):
        if len(ids) >= max_length:
            rewards.append(exceeded)
            continue
        near_start = (1 + math.cos(math.pi * len(ids) / max_length)) / 2
        if_right, if_wrong = (end + (start - end) * near_start for start, end in (right, wrong))
        rewards.append(score * if_right + (1 - score) * if_wrong)
    return rewards


def repetition(completions: Sequence[str], ngram: int = 20, **columns: Any) -> list[float]:
    """Minus the share of a completion's n-grams of words that it has had before: 0 where all differ, towards -1.

    Args:
      completions: B completions.
      ngram: words; in Chinese, Japanese and Thai characters are counted.
      **columns: the examples' other fields; not used.

    Source: the n-gram repetition penalty of arXiv 2502.03373, here by sequence rather than by token.
    """
    return [-repeated(completion, ngram) for completion in completions]


def repeated(text: str, ngram: int) -> float:
    """The share of the n-grams of words of a text that stood in it before; 0.0 where it is too short to have two."""
    if ngram < 1:
        raise ValueError(f"repetition got ngram={ngram}; expected at least one word")
    words = _WORD.findall(text.lower())
    total = len(words) - ngram + 1
    if total < 1:
        return 0.0
    return 1 - len({hash(tuple(words[i : i + ngram])) for i in range(total)}) / total
