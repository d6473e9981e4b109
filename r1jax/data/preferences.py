"""Preferences by name: pairs of replies of which one is better, or replies labelled safe and unsafe."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1jax.data.records import Source, build_parameters, read_jsonl
from r1jax.data.replies import Replies, RepliesTask

FIELDS = {"bradley_terry": ("question", "chosen", "rejected"), "pointwise": ("question", "reply", "label")}
PROCEDURAL = {"replies:helpful": "bradley_terry", "replies:harmless": "pointwise"}
HELD_OUT = 20  # of a JSONL file, one question in so many is of the test split
LABELS = ("0", "1")


def load(name: str, split: str, *, objective: str, kwargs: Mapping[str, Any]) -> Source:
    """The records of one split.

    Args:
      name: 'replies:helpful' (pairs), 'replies:harmless' (labelled), or 'jsonl:PATH' of either. A record has the
        fields that `FIELDS` names for its objective, all strings; a label is '1' for safe, '0' for unsafe.
      split: 'train' or 'test'; no question is in both.
      objective: what is to be learnt, bradley_terry or pointwise.
      kwargs: `replies.RepliesTask`'s; none for a file.

    Raises:
      ValueError: the name, a parameter, the file or a record is bad, the records are of the other objective, or
        a split has none.
    """
    if name.startswith("jsonl:"):
        return _jsonl(Path(name.removeprefix("jsonl:")), split, objective, kwargs)
    if name not in PROCEDURAL:
        known = (*PROCEDURAL, "jsonl:PATH")
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise ValueError(f"config.sources names {name!r}, which is not known; {hint}")
    if PROCEDURAL[name] != objective:
        raise ValueError(
            f"config.objective is {objective!r}, and {name!r} is for {PROCEDURAL[name]!r}; change the one or the other"
        )
    task = build_parameters(RepliesTask, kwargs, f"config.sources[{name!r}].kwargs")
    return Replies(task, split, name.removeprefix("replies:"))


def _jsonl(path: Path, split: str, objective: str, kwargs: Mapping[str, Any]) -> list[dict[str, str]]:
    if kwargs:
        raise ValueError(f"config.sources['jsonl:{path}'].kwargs is {dict(kwargs)!r}; a JSONL file takes no parameters")
    if not path.is_file():
        raise ValueError(f"config.sources names 'jsonl:{path}', but there is no such file; give the path of a file")
    rows = []
    for line, row in read_jsonl(path, FIELDS[objective]):
        if objective == "pointwise" and row["label"] not in LABELS:
            raise ValueError(f"{path} line {line}: field 'label' is {row['label']!r}; expected 1 (safe) or 0 (unsafe)")
        if _is_held_out(row["question"]) == (split == "test"):
            rows.append(row)
    if not rows:
        raise ValueError(
            f"{path} gives the split {split!r} no record: one question in {HELD_OUT} is held out; give more questions"
        )
    return rows


def _is_held_out(question: str) -> bool:
    digest = hashlib.blake2b(question.encode(errors="surrogatepass"), digest_size=4).digest()
    return int.from_bytes(digest, "big") % HELD_OUT == 0
