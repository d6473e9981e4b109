"""The sections of stages that make datasets: what is kept, what is joined, how it is asked for and rewritten."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from r1jax.config.checks import at_least, one_of
from r1jax.config.sections import SourceSpec, TaskSpec


@dataclasses.dataclass(frozen=True)
class SelectionConfig:
    """Which samples a dataset keeps."""

    threshold: float  # least reward of a sample that counts as right
    keep: str  # of a prompt's right samples: best | all
    filters: dict[str, dict[str, Any]]  # of rewards/filters.py, with their arguments; the first to object counts
    held_out: dict[str, TaskSpec]  # no question of theirs may be learnt
    held_out_ngram: int  # words in a row that betray one
    similar_ngram: int  # words of the n-grams by which samples are compared
    similarity: float  # Jaccard index from which two samples are one; 1: only where all n-grams are the same

    def __post_init__(self):
        one_of("selection.keep", self.keep, ("best", "all"))
        at_least(1, "selection", self, "held_out_ngram", "similar_ngram")
        if not math.isfinite(self.threshold):
            raise ValueError(f"selection.threshold is {self.threshold!r}; expected a finite number, such as 1.0")
        if not 0 < self.similarity <= 1:
            raise ValueError(f"selection.similarity is {self.similarity!r}; expected above 0 and at most 1")


@dataclasses.dataclass(frozen=True)
class JoinConfig:
    """Records that go into a dataset as they stand, such as general requests with their replies."""

    sources: dict[str, SourceSpec]
    ratio: float  # records joined to each sample that was kept

    def __post_init__(self):
        at_least(0, "join", self, "ratio")
        if bool(self.sources) != bool(self.ratio):
            raise ValueError(f"join.ratio is {self.ratio} with {len(self.sources)} sources; give both, or neither")


@dataclasses.dataclass(frozen=True)
class WayConfig:
    """One way to long chains of thought: whom to ask, and how."""

    init_from: str
    weight: float  # share of the prompts
    template: str  # a template's name; "" where `prompt` is the text
    prompt: str  # with {question}: after worked examples, or with the wish to reflect and verify; "" for `template`
    stop: str  # where a completion that goes on is cut; "" nowhere

    def __post_init__(self):
        if bool(self.template) == bool(self.prompt):
            raise ValueError(
                f"ways.template is {self.template!r} and ways.prompt {self.prompt!r}; give one, and '' for the other"
            )
        if self.prompt and "{question}" not in self.prompt:
            raise ValueError(f"ways.prompt is {self.prompt!r}; expected a text that says where the {{question}} goes")
        if not 0 < self.weight < math.inf:
            raise ValueError(f"ways.weight is {self.weight!r}; expected a number above 0")


@dataclasses.dataclass(frozen=True)
class RewriterConfig:
    """A model that makes thoughts readable."""

    model: dict[str, Any]  # as a judge's, see stages/graders.py; {}: rules alone
    prompt: str  # with {question} and {thought}

    def __post_init__(self):
        if self.model and not ("{question}" in self.prompt and "{thought}" in self.prompt):
            raise ValueError(f"rewriter.prompt is {self.prompt!r}; expected a text with {{question}} and {{thought}}")
