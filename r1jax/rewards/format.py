"""The forms a completion may have, and how well it keeps to one.

Two forms. R1-Zero's: a think block, then an answer block. R1's readable one: the reasoning between special tokens,
then a summary for the reader. All of it reads untrusted text of any length in linear time: plain string searches,
no regular expressions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

THINK, END_THINK = "<think>", "</think>"
ANSWER, END_ANSWER = "<answer>", "</answer>"
TAGS = (THINK, END_THINK, ANSWER, END_ANSWER)


def think_answer(completions: Sequence[str], partial: float = 0.0, **columns: Any) -> list[float]:
    """1.0 where a completion is one think block, then one answer block, and nothing else.

    Whitespace may stand around the blocks; each tag occurs exactly once; both blocks hold some text.

    Args:
      completions: B completions as sampled, without the prompt.
      partial: what a completion out of form earns, times the share of the four tags that occur exactly once; 0.0
        is all or nothing. Of use where a policy never happens on the whole form.
      **columns: the examples' other fields; not used.
    """
    return [1.0 if _in_form(c) else partial * _tag_share(c) for c in completions]


def tag_count(completions: Sequence[str], **columns: Any) -> list[float]:
    """The share of the four tags that occur exactly once: 0, 1/4, 1/2, 3/4 or 1; where they stand does not matter.

    Args:
      completions: B completions.
      **columns: the examples' other fields; not used.
    """
    return [_tag_share(completion) for completion in completions]


def readable(
    completions: Sequence[str], opening: str = THINK, closing: str = END_THINK, partial: float = 0.0, **columns: Any
) -> list[float]:
    """1.0 where a completion is reasoning between two special tokens, then a summary: R1's readable form.

    Either token occurs once (twice, where both are the same), the first opens the completion, and both the
    reasoning and the summary hold some text.

    Args:
      completions: B completions.
      opening, closing: the special tokens. The paper writes |special_token| for both; the released R1 has <think>
        and </think> in their place, and so has r1jax: a tokenizer then holds one set of tags for both forms.
      partial: what a completion out of form earns if it has the closing token once and a summary after it.
      **columns: the examples' other fields; not used.

    Source: DeepSeek-R1 (arXiv 2501.12948), section 2.3.1: |special_token|<reasoning_process>|special_token|<summary>.
    """
    if not opening.strip() or not closing.strip():
        raise ValueError(f"opening is {opening!r} and closing {closing!r}; expected two special tokens, such as {TAGS}")
    return [_readable(completion, opening, closing, partial) for completion in completions]


def _readable(completion: str, opening: str, closing: str, partial: float) -> float:
    head, mark, summary = completion.rpartition(closing)
    same = opening == closing
    if not mark or not summary.strip() or head.count(closing) != same or (not same and opening in summary):
        return 0.0
    head = head.strip()
    whole = head.startswith(opening) and head.count(opening) == 1 and bool(head.removeprefix(opening).strip())
    return 1.0 if whole else partial


def _tag_share(completion: str) -> float:
    return sum(completion.count(tag) == 1 for tag in TAGS) / len(TAGS)


def _in_form(completion: str) -> bool:
    text = completion.strip()
    if not text.startswith(THINK) or not text.endswith(END_ANSWER):
        return False
    if any(text.count(tag) != 1 for tag in TAGS):
        return False
    end_think, answer = text.find(END_THINK), text.find(ANSWER)
    if answer < end_think or text[end_think + len(END_THINK) : answer].strip():
        return False
    thought = text[len(THINK) : end_think]
    content = text[answer + len(ANSWER) : -len(END_ANSWER)]
    return bool(thought.strip()) and bool(content.strip())
