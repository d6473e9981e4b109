"""The report's sample answers: what every stage said to the same held-out questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from r1jax.report_html import clipped, escaped, mark, number
from r1jax.report_runs import Stage

QUESTIONS = 4  # of each task
ANSWER_CHARACTERS = 1500

Asked = tuple[str, str]  # task, question


def same_questions(stages: Sequence[Stage]) -> str:
    """A few questions of each task, with the first completion of each stage."""
    said: dict[Asked, dict[int, dict[str, Any]]] = {}
    for i, stage in enumerate(stages):
        for row in stage.problems:
            if row.get("completions"):
                said.setdefault((str(row.get("task")), str(row.get("question"))), {}).setdefault(i, row)
    parts = []
    for task in dict.fromkeys(task for task, _ in said):
        asked = chosen([key for key in said if key[0] == task], said)
        parts.append(f"<h4>{escaped(task)}</h4>")
        parts += [_block(stages, key[1], said[key], shown=n == 0) for n, key in enumerate(asked)]
    return f"<h3>The same questions, stage by stage</h3>{''.join(parts)}" if parts else ""


def chosen(asked: Sequence[Asked], said: dict[Asked, dict[int, dict[str, Any]]]) -> list[Asked]:
    """Questions spread evenly over those that most stages answered."""
    most = max(len(said[key]) for key in asked)
    common = [key for key in asked if len(said[key]) == most]
    count = min(QUESTIONS, len(common))
    return [common[i * len(common) // count] for i in range(count)]


def _block(stages: Sequence[Stage], question: str, rows: dict[int, dict[str, Any]], *, shown: bool) -> str:
    gold = str(next(iter(rows.values())).get("answer", ""))
    answers = "".join(_answer(stages[i].label, row) for i, row in sorted(rows.items()))
    expected = f" <span class=soft>→ {escaped(clipped(gold, 200))}</span>" if gold else ""
    return (
        f"<details{' open' if shown else ''}><summary>{escaped(clipped(question, 600))}{expected}</summary>"
        f"<table class=answers>{answers}</table></details>"
    )


def _answer(name: str, row: dict[str, Any]) -> str:
    """A stage's first completion: the thought told from the answer, and whether it was right."""
    right, tokens = (next(iter(row.get(key) or ()), None) for key in ("correct", "tokens"))
    verdict = "" if right is None else "<b class=good>✓</b>" if right >= 1 else "<b class=bad>✗</b>"
    text = mark(clipped(row["completions"][0], ANSWER_CHARACTERS))
    length = "" if tokens is None else f"{number(tokens)} tokens"
    return (
        f"<tr><td>{escaped(name)}</td><td>{verdict}</td><td><span class=out>{text}</span></td>"
        f"<td class='n soft'>{length}</td></tr>"
    )
