"""Two rewards that look sensible and can be had without being right."""

from collections.abc import Sequence
from typing import Any

LONG = 48  # tokens for which there is the whole reward: the limit of a completion
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
MANY = 8  # tags for which there is the whole reward; an honest completion has 4


def length(completions: Sequence[str], completion_ids: Sequence[Sequence[int]], **columns: Any) -> list[float]:
    """Longer thoughts, better answers? The tokens of a completion over `LONG`, at most 1."""
    return [min(len(ids) / LONG, 1.0) for ids in completion_ids]


def tags(completions: Sequence[str], **columns: Any) -> list[float]:
    """Asks for the form's tags, but counts each as often as it comes: the tags over `MANY`, at most 1."""
    return [min(sum(text.count(tag) for tag in TAGS) / MANY, 1.0) for text in completions]
