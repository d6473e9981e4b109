"""Completions in whatever form, rewritten into R1's readable one: the thought between its tags, then a summary."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from r1jax.config import RewriterConfig
from r1jax.rewards.extraction import answer_block, last_line
from r1jax.rewards.format import ANSWER, END_THINK, TAGS, THINK
from r1jax.rewards.judge import Generate

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
RULES, MODEL = "rules", "model"


class Parts(NamedTuple):
    thought: str
    answer: str


class Readable(NamedTuple):
    text: str  # empty where there is no thought, or no answer, to be found
    by: str  # rules | model; empty with the text


def parts(completion: str) -> Parts | None:
    """The thought and the answer, tidied, of a completion in R1-Zero's form, or of one that ends by naming its answer.

    In plain words the last sentence has to say 'the answer is', or the like of it.
    """
    answer = answer_block(completion)
    if answer is not None:
        thought = completion[: completion.rfind(ANSWER)]
    else:
        body = completion.strip()
        sentences = _SENTENCE_END.split(body)
        said = sentences[-1].strip()
        answer = last_line(said)
        if answer is None or answer == said or any(tag in body for tag in TAGS):
            return None
        thought = body[: len(body) - len(sentences[-1])]
        answer = answer.rstrip(" .")
    thought = tidy(thought)
    return Parts(thought, answer) if thought and answer else None


def tidy(thought: str) -> str:
    """On one line, without tags, and without a sentence twice in a row."""
    for tag in TAGS:
        thought = thought.replace(tag, " ")
    kept: list[str] = []
    for sentence in _SENTENCE_END.split(thought.strip()):
        sentence = " ".join(sentence.split())
        if sentence and (not kept or sentence != kept[-1]):
            kept.append(sentence)
    return " ".join(kept)


def readable(thought: str, answer: str, summary: str) -> str:
    """The completion, with the space that parts it from its prompt.

    Args:
      summary: a text with {answer}.
    """
    return f" {THINK} {thought} {END_THINK} {summary.replace('{answer}', answer)}"


def rewrite(
    completions: Sequence[str],
    questions: Sequence[str],
    languages: Sequence[str],
    seeds: Sequence[int],
    summaries: Mapping[str, str],
    rewriter: RewriterConfig,
    generate: Generate | None,
) -> list[Readable]:
    """Each completion in the readable form, by rules; its thought by a model, where there is one that replies.

    Args:
      summaries: by language.
      generate: the model; None leaves it at the rules.
    """
    found = [parts(completion) for completion in completions]
    thoughts: dict[int, str] = {}
    those = [i for i, part in enumerate(found) if part is not None]
    if generate is not None and those:
        prompts = [
            rewriter.prompt.replace("{question}", questions[i]).replace("{thought}", found[i].thought)  # type: ignore[union-attr]
            for i in those
        ]
        replies = generate(prompts, [seeds[i] for i in those])
        thoughts = {i: tidy(reply or "") for i, reply in zip(those, replies, strict=True)}
    done = []
    for i, part in enumerate(found):
        if part is None:
            done.append(Readable("", ""))
            continue
        thought = thoughts.get(i) or part.thought
        text = readable(thought, part.answer, summaries[languages[i]])
        done.append(Readable(text, MODEL if thoughts.get(i) else RULES))
    return done
