"""Which grader tells whether a completion is right: tests for programs, accuracy for answers, none for free text."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from r1jax.config import RewardSpec
from r1jax.data.tasks import FREE_TEXT
from r1jax.rewards.answers import PROCEDURAL
from r1jax.rewards.code import extract_program
from r1jax.rewards.compose import RewardBatch
from r1jax.rewards.extraction import extractor

ANSWER, PROGRAM, OPEN = "answer", "program", "open"  # kinds of a problem
PROGRAMS = {"cases": "r1jax.rewards.code:stdin_stdout", "tests": "r1jax.rewards.code:unit_tests"}  # column -> grader
# Where a completion's answer stands, and which form is counted: by template, else R1-Zero's. Chat models box theirs.
FORMS = {"r1": ("last_line", "readable"), "chat": ("boxed", "readable")}
ZERO_FORMS = ("answer", "think_answer")


def kind_of(record: Mapping[str, str]) -> str:
    """What a problem asks for; OPEN where no rule can tell a right completion."""
    if any(record.get(column) for column in PROGRAMS):
        return PROGRAM
    task = record["task"]
    own_scorer = task.startswith(PROCEDURAL)  # which needs no gold answer
    return OPEN if task in FREE_TEXT or not (record["answer"] or own_scorer) else ANSWER


def graders(template: str, records: Iterable[Mapping[str, str]], workers: int) -> dict[str, RewardSpec]:
    """The reward functions that grade completions of `records` in a template's form, each for its own tasks.

    Args:
      workers: programs run at a time.
    """
    extraction, form = FORMS.get(template, ZERO_FORMS)
    answered: set[str] = set()
    judged: dict[str, set[str]] = {column: set() for column in PROGRAMS}
    for record in records:
        if kind_of(record) == ANSWER:
            answered.add(record["task"])
        for column in PROGRAMS:
            if record.get(column):
                judged[column].add(record["task"])
    specs = {"format": RewardSpec(f"r1jax.rewards.format:{form}", 1.0)}
    if answered:
        kwargs = {"extraction": extraction}
        specs["accuracy"] = RewardSpec("r1jax.rewards.answers:accuracy", 1.0, kwargs, _patterns(answered))
    for column, tasks in judged.items():
        if tasks:
            specs[column] = RewardSpec(PROGRAMS[column], 1.0, {"workers": workers}, _patterns(tasks))
    return specs


def correct(graded: RewardBatch) -> np.ndarray:
    """correct_B, float32: a program's verdict where there is one, else accuracy's; 0 for free text."""
    correct_B = graded.by_name.get("accuracy", np.zeros_like(graded.total_B))
    for column in PROGRAMS:
        if column in graded.by_name:
            correct_B = np.where(graded.mine[column], graded.by_name[column], correct_B)
    return correct_B


def reader(template: str) -> Callable[[str, Mapping[str, Any]], str | None]:
    """A function (completion, record) -> what of it is graded: its answer, or its program."""
    extraction, _ = FORMS.get(template, ZERO_FORMS)
    answer_of = extractor(extraction, "evaluation's extraction")

    def read(completion: str, record: Mapping[str, Any]) -> str | None:
        return extract_program(completion) if kind_of(record) == PROGRAM else answer_of(completion, record["task"])

    return read


def _patterns(tasks: Iterable[str]) -> list[str]:
    """As patterns that fit these very names."""
    return sorted(map(glob.escape, tasks))
