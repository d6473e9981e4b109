"""Builds preference pairs: a policy answers each question twice, a judge compares; a reward model learns from the file.

python -m r1jax.pairs --task=replies --writer=runs/base --judge=runs/judge --out=pairs.jsonl
python -m r1jax.pairs --task=jsonl:questions.jsonl --writer=runs/base --judge=http://127.0.0.1:8000/v1 \
    --judge_model=NAME --out=pairs.jsonl

A config's reward model reads it as the source 'jsonl:pairs.jsonl'.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from absl import flags

from r1jax import command
from r1jax.data import tasks
from r1jax.stages import graders, pairs
from r1jax.training.metrics import append_jsonl

_TASK = flags.DEFINE_string("task", None, "Where the questions come from: NAME[:SPLIT].", required=True)
_TASK_DATA = flags.DEFINE_string("data_dir", "~/.cache/r1jax/data", "Folder of prepared records.")
_TASK_SOURCE = flags.DEFINE_string("source_dir", "", "Folder of raw data files; empty downloads them.")
_WRITER = flags.DEFINE_string("writer", None, "Folder of the policy whose responses are compared.", required=True)
_JUDGE = flags.DEFINE_string("judge", None, "Folder of the policy that judges, or a server's address.", required=True)
_MODEL = flags.DEFINE_string("judge_model", "", "The model to ask for, of a server.")
_KEY = flags.DEFINE_string("judge_key_variable", "", "Environment variable with the server's key; empty sends none.")
_JUDGE_TOKENS = flags.DEFINE_integer("judge_max_tokens", 512, "Of a judgement.", lower_bound=1)
_MAX_TOKENS = flags.DEFINE_integer("max_tokens", 256, "Of a response.", lower_bound=1)
_TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "Of the responses.", lower_bound=0)
_VOTES = flags.DEFINE_integer("votes", 4, "Judgements of each pair.", lower_bound=1)
_MARGIN = flags.DEFINE_float("margin", 1.0, "What the mean mark, of at most 2, must exceed.", lower_bound=0)
_LIMIT = flags.DEFINE_integer("limit", 0, "Questions; 0 is all.", lower_bound=0)
_PAIRS_SEED = flags.DEFINE_integer("seed", 0, "Of the responses and the judge.", lower_bound=0)
_OUT = flags.DEFINE_string("out", None, "The file to write; it must not be there yet.", required=True)


def main(_: list[str]) -> dict[str, Any]:
    path = Path(_OUT.value)
    if path.exists():
        raise ValueError(f"--out is {str(path)!r}, which is there already; delete it, or name another file")
    name, split = tasks.parse_name(_TASK.value)
    source = tasks.load(name, split, data_dir=_TASK_DATA.value, source_dir=_TASK_SOURCE.value, kwargs={})
    count = min(len(source), _LIMIT.value or len(source))
    make = graders.makers({})["generate"]
    writer = {"checkpoint": _WRITER.value, "max_tokens": _MAX_TOKENS.value, "temperature": _TEMPERATURE.value}
    made, figures = pairs.build(
        [source[i]["question"] for i in range(count)],
        make({"judge": writer}),
        make({"judge": _judge()}),
        votes=_VOTES.value,
        margin=_MARGIN.value,
        seed=_PAIRS_SEED.value,
    )
    whole = path.with_name(f".{path.name}.tmp")
    whole.unlink(missing_ok=True)
    append_jsonl(whole, [pair._asdict() for pair in made])
    os.replace(whole, path)
    return figures | {"out": str(path)}


def _judge() -> dict[str, Any]:
    if _JUDGE.value.startswith(("http://", "https://")):
        where = {"url": _JUDGE.value, "key_variable": _KEY.value} | ({"model": _MODEL.value} if _MODEL.value else {})
    else:
        where = {"checkpoint": _JUDGE.value}
    return where | {"max_tokens": _JUDGE_TOKENS.value}


if __name__ == "__main__":
    command.main(main)
