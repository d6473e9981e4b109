"""The think/answer form of R1-Zero: the format reward and the answer's extraction.

Both read untrusted text of any length in linear time: plain string searches, no regular expressions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

THINK, END_THINK = "<think>", "</think>"
ANSWER, END_ANSWER = "<answer>", "</answer>"
TAGS = (THINK, END_THINK, ANSWER, END_ANSWER)


def think_answer(completions: Sequence[str], **columns: Any) -> list[float]:
    """1.0 where a completion is one think block, then one answer block, and nothing else; 0.0 elsewhere.

    Whitespace may stand around the blocks; each tag occurs exactly once; both blocks hold some text.

    Args:
      completions: B completions as sampled, without the prompt.
      **columns: the examples' other fields; not used.
    """
    return [float(_in_form(completion)) for completion in completions]


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


def extract_answer(completion: str) -> str | None:
    """What stands in the answer block, stripped, or None where there is no single final answer.

    The completion must end with its only answer block. Thinking before it is optional, since accuracy is
    judged apart from format, but a block inside an unclosed thought is not an answer, and neither is one
    that holds tags or nothing.
    """
    text = completion.rstrip()
    if not text.endswith(END_ANSWER) or text.count(END_ANSWER) != 1 or text.count(ANSWER) != 1:
        return None
    start = text.find(ANSWER)
    before, content = text[:start], text[start + len(ANSWER) : -len(END_ANSWER)]
    if before.rfind(THINK) > before.rfind(END_THINK):
        return None
    if THINK in content or END_THINK in content:
        return None
    return content.strip() or None
