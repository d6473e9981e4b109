"""Reasons to turn a completion down, for rejection sampling; and the same as a reward.

A filter is a function of one completion and, by name, of its example's columns and its own arguments. It returns
None, or what is wrong with it in a few words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r1jax.rewards.language import LANGUAGES, shares, thought
from r1jax.rewards.style import repeated

FENCES = ("```", "~~~")


def mixed_language(completion: str, language: str, minimum: float = 0.9, **columns: Any) -> str | None:
    """Fewer than `minimum` of the thought's words are of the language that was asked for."""
    if language not in LANGUAGES:
        raise ValueError(f"filter mixed_language got the language {language!r}; expected one of {', '.join(LANGUAGES)}")
    (share,) = shares([thought(completion)], [language])
    if share is None or share[language] >= minimum:
        return None
    return f"mixed language: {share[language]:.2f} of the words are {language}"


def long_paragraphs(completion: str, maximum: int = 300, **columns: Any) -> str | None:
    """A paragraph of more than `maximum` words stands in it. Empty lines divide paragraphs."""
    longest, length = 0, 0
    for line in completion.split("\n"):
        length = length + len(line.split()) if line.strip() else 0
        longest = max(longest, length)
    return f"over-long paragraph: {longest} words" if longest > maximum else None


def code_blocks(completion: str, **columns: Any) -> str | None:
    """A fenced block of code stands in it."""
    fenced = any(line.lstrip().startswith(FENCES) for line in completion.split("\n"))
    return "code block" if fenced else None


def repetitive(completion: str, ngram: int = 20, maximum: float = 0.2, **columns: Any) -> str | None:
    """More than `maximum` of its n-grams of words are repeated."""
    share = repeated(completion, ngram)
    return f"repetition: {share:.2f} of the {ngram}-grams" if share > maximum else None


def too_long(completion: str, completion_ids: Sequence[int], max_length: int, **columns: Any) -> str | None:
    """It has `max_length` tokens or more, and so was cut off."""
    return f"too long: {len(completion_ids)} tokens" if len(completion_ids) >= max_length else None


FILTERS: dict[str, Callable[..., str | None]] = {
    function.__name__: function for function in (mixed_language, long_paragraphs, code_blocks, repetitive, too_long)
}


def objection(completion: str, filters: Mapping[str, Mapping[str, Any]], columns: Mapping[str, Any]) -> str | None:
    """The first reason that a filter finds, or None.

    Args:
      completion: the text.
      filters: name of `FILTERS` -> its own arguments; asked in this order.
      columns: the example's fields, and `completion_ids` where a filter wants them.

    Raises:
      ValueError: there is no filter of that name.
    """
    check_clean(filters)
    for name, arguments in filters.items():
        reason = FILTERS[name](completion, **{**columns, **arguments})
        if reason is not None:
            return reason
    return None


def clean(completions: Sequence[str], filters: Mapping[str, Mapping[str, Any]], **columns: Any) -> list[float]:
    """1.0 where no filter objects, else 0.0: filters as a reward.

    Args:
      completions: B completions.
      filters: as `objection`; in a config, `kwargs={"filters": {"code_blocks": {}}}`.
      **columns: B values each.
    """
    rows = [{key: values[i] for key, values in columns.items()} for i in range(len(completions))]
    return [float(objection(c, filters, row) is None) for c, row in zip(completions, rows, strict=True)]


def check_clean(filters: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Before the run: raises ValueError where there is no filter of a name."""
    for name in filters:
        if name not in FILTERS:
            raise ValueError(f"there is no filter {name!r}; expected some of {', '.join(FILTERS)}")
    return []
