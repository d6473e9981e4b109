"""Which samples a dataset keeps, and why the others are dropped. Text alone; no device is asked.

A sample is judged by itself first (`judge`), then beside the others (`select`): the best of its prompt, or all, and of
samples that say nearly the same the first.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from r1jax.config import SelectionConfig
from r1jax.data.dataset import Sample
from r1jax.rewards.filters import objection

FORM, TRUNCATED, REWARD, HELD_OUT, NOT_BEST, SIMILAR = "form", "truncated", "reward", "held_out", "not_best", "similar"
_WORD = re.compile(r"\w+|[^\w\s]")  # signs count: 3 + 4 is not 3 - 4
_ROUNDING = 1e-9

Ngrams = set[tuple[str, ...]]


def words(text: str) -> tuple[str, ...]:
    """Words and signs, whatever their case, width and spacing."""
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def ngrams(words: Sequence[str], n: int) -> Ngrams:
    """All runs of `n` words; a shorter text is one run."""
    return {tuple(words[i : i + n]) for i in range(max(len(words) - n + 1, 1))}


class HeldOut:
    """Questions that must not be learnt.

    A text overlaps where it holds `n` words in a row of one of them. One shorter than that overlaps with a question
    that is the same: as a part of longer texts it would be met everywhere.

    Source: decontamination by 10-grams, as of DeepSeek-R1's data (arXiv 2501.12948, appendix).
    """

    def __init__(self, questions: Iterable[str], n: int):
        self._n = n
        self._runs: Ngrams = set()
        for question in questions:
            self._runs |= ngrams(words(question), n)

    def overlaps(self, sample: Sample) -> bool:
        asked, told = words(sample["question"]), words(sample["completion"])
        if not self._runs.isdisjoint(ngrams(asked, self._n)):
            return True
        return len(told) >= self._n and not self._runs.isdisjoint(ngrams(told, self._n))


def judge(
    sample: Sample, finished: bool, columns: Mapping[str, Any], config: SelectionConfig, held_out: HeldOut
) -> str:
    """What drops a sample by itself, or ''.

    Args:
      finished: it ended of its own accord, not at the limit of tokens.
      columns: the example's fields and `completion_ids`, for the filters.
    """
    if not finished:
        return TRUNCATED
    if not sample["completion"]:
        return FORM
    if float(sample["reward"]) < config.threshold:
        return REWARD
    for name, arguments in config.filters.items():
        if objection(sample["completion"], {name: arguments}, columns) is not None:
            return name
    return HELD_OUT if held_out.overlaps(sample) else ""


def select(samples: Sequence[Sample], config: SelectionConfig) -> list[str]:
    """What drops each of some samples that are fit by themselves, beside the others; '' where nothing does.

    Of a prompt the best is the one with the highest reward, of equals the earliest. Of similar samples the first stays.
    """
    drops = [""] * len(samples)
    if config.keep == "best":
        best: dict[tuple[str, str], int] = {}
        for i, sample in enumerate(samples):
            prompt = (sample["source"], sample["index"])
            if prompt not in best or float(sample["reward"]) > float(samples[best[prompt]]["reward"]):
                best[prompt] = i
        kept = set(best.values())
        drops = ["" if i in kept else NOT_BEST for i in range(len(samples))]
    left = [i for i, drop in enumerate(drops) if not drop]
    texts = [f"{samples[i]['question']}\n{samples[i]['completion']}" for i in left]
    for i, repeats in zip(left, similar(texts, config.similar_ngram, config.similarity), strict=True):
        drops[i] = SIMILAR if repeats else ""
    return drops


def similar(texts: Sequence[str], n: int, least: float) -> list[bool]:
    """Whether each text is nearly one before it that is not itself such a repetition.

    Two texts are alike where the Jaccard index of their n-grams is `least` or more. None is missed: texts that alike
    share one of their rarest few n-grams, so only these are looked up.

    Source: prefix filtering (Bayardo, Ma and Srikant, WWW 2007).
    """
    runs = [ngrams(words(text), n) for text in texts]
    frequency = Counter(run for own in runs for run in own)
    holders: dict[tuple[str, ...], list[int]] = {}
    repeats = []
    for i, own in enumerate(runs):
        rarest = sorted(own, key=lambda run: (frequency[run], run))
        prefix = rarest[: len(own) - math.ceil(least * len(own) - _ROUNDING) + 1]
        near = {j for run in prefix for j in holders.get(run, ())}
        repeats.append(any(jaccard(own, runs[j]) >= least - _ROUNDING for j in near))
        if not repeats[-1]:
            for run in prefix:
                holders.setdefault(run, []).append(i)
    return repeats


def jaccard(one: Ngrams, other: Ngrams) -> float:
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)
