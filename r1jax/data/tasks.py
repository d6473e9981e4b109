"""Task records by name: a question, its answer, and what its grader needs.

Names are 'arithmetic', 'replies', 'general' (or one of its kinds, 'general_KIND'), 'reasoning_gym:NAME', 'jsonl:PATH',
'samples:FOLDER', the dataset that a stage has made, 'gsm8k_solutions', which has completions to learn, and of published
benchmarks 'gsm8k', 'math500', 'aime24', 'gpqa_diamond' and 'livecodebench', which `evaluation.tasks` and `data.sources`
may name alike. A record has at least question, answer, task and language; all its values are strings. One may have a
completion to learn, and the template that it is to be learnt in.
"""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from r1jax.data import builders, general
from r1jax.data.dataset import read_dataset
from r1jax.data.general import KINDS, General, GeneralTask
from r1jax.data.records import Source, build_parameters, read_jsonl
from r1jax.data.replies import Replies, RepliesTask

SPLITS = {
    "arithmetic": ("train", "test"),
    "gsm8k": ("train", "test"),
    "gsm8k_solutions": ("train", "test"),
    "math500": ("test",),
    "aime24": ("test",),
    "gpqa_diamond": ("test",),
    "livecodebench": ("test",),
    "replies": ("train", "test"),
    "general": ("train", "test"),
    **{f"general_{kind}": ("train", "test") for kind in KINDS},
    "reasoning_gym": ("train", "test"),
    "jsonl": ("train", "test"),  # either is the whole file
    "samples": ("train",),
}
FREE_TEXT = ("replies", *(f"general_{kind}" for kind in general.FREE_TEXT))  # `task`s with no answer to compare
_WITH_NAME = ("reasoning_gym", "jsonl", "samples")  # followed by a colon and a name or path
DEFAULT_SPLIT = "test"

# Example i of a reasoning-gym data set is drawn with seed + i, so that splits this far apart never meet.
_TEST_SEED = 2**30
_GYM_DEFAULTS = {"size": 500, "test_size": 500, "seed": 0}


class GymRecords:
    """A `Source` over chosen examples of a reasoning-gym data set, each made when it is asked for."""

    def __init__(self, name: str, dataset: Any, indices: Sequence[int]):
        self._name, self._dataset, self._indices = name, dataset, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> dict[str, str]:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        entry = self._dataset[self._indices[index]]
        return {
            "question": entry["question"],
            "answer": "" if entry["answer"] is None else str(entry["answer"]),
            "task": f"reasoning_gym:{self._name}",
            "language": "en",
            "metadata": json.dumps(entry, default=str),  # the whole entry, as its own grader wants it
        }

    def __iter__(self) -> Iterator[dict[str, str]]:
        return (self[index] for index in range(len(self)))


def parse_name(name: str) -> tuple[str, str]:
    """Task and split of 'TASK[:SPLIT]': ('gsm8k', 'test') for 'gsm8k:test'; the split is 'test' unless given."""
    kind, _, rest = name.partition(":")
    if kind not in _WITH_NAME:
        return kind, rest or DEFAULT_SPLIT
    head, _, tail = rest.rpartition(":")
    if head and tail and not any(mark in tail for mark in "/\\."):  # otherwise the colon belongs to a path
        return f"{kind}:{head}", tail
    return f"{kind}:{rest}", DEFAULT_SPLIT


def load(name: str, split: str, *, data_dir: str, source_dir: str, kwargs: Mapping[str, Any]) -> Source:
    """The records of one split of a task.

    Args:
      name: of the task, without split.
      split: 'train' or 'test', where the task has it.
      data_dir: folder where prepared records are kept.
      source_dir: folder of raw files (gsm8k/train.jsonl, ..); "" downloads them.
      kwargs: parameters of the task: `builders.ArithmeticTask` for arithmetic, `RepliesTask` for replies,
        `GeneralTask` for general, `benchmarks.CodeContests` for livecodebench, `benchmarks.Solutions` for
        gsm8k_solutions, `benchmarks.Published` for the other benchmarks; size, test_size, seed and its own for a
        reasoning-gym task; none for jsonl and samples.

    Raises:
      ValueError: name, split, parameter or raw file is missing or bad, or there are no records.
    """
    kind, _, rest = name.partition(":")
    if kind not in SPLITS or bool(rest) != (kind in _WITH_NAME):
        given = {"reasoning_gym": "reasoning_gym:NAME", "jsonl": "jsonl:PATH", "samples": "samples:FOLDER"}
        known = tuple(given.get(kind, kind) for kind in SPLITS)
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known tasks: {', '.join(known)}"
        raise ValueError(f"task is {name!r}, which is not known; {hint}")
    if split not in SPLITS[kind]:
        raise ValueError(f"split of task {name!r} is {split!r}; expected one of {', '.join(map(repr, SPLITS[kind]))}")
    source: Source
    if kind == "jsonl":
        source = _jsonl(Path(rest), kwargs)
    elif kind == "samples":
        source = _samples(rest, kwargs)
    elif kind.startswith("general"):
        task = build_parameters(GeneralTask, kwargs, f"data.source[{name!r}].kwargs")
        source = General(task, split, kind.removeprefix("general").removeprefix("_"))
    elif kind == "reasoning_gym":
        source = _gym(rest, split, kwargs)
    elif kind == "replies":
        source = Replies(build_parameters(RepliesTask, kwargs, "data.source['replies'].kwargs"), split, "task")
    else:
        builder = builders.prepare(kind, data_dir=data_dir, source_dir=source_dir, kwargs=kwargs, where=name)
        source = builders.read(builder, split)
    if not len(source):
        raise ValueError(f"task {name!r} has no records in split {split!r}; expected at least one")
    return source


def _jsonl(path: Path, kwargs: Mapping[str, Any]) -> list[dict[str, str]]:
    if kwargs:
        raise ValueError(f"data.source['jsonl:{path}'].kwargs is {dict(kwargs)!r}; a JSONL file takes no parameters")
    if not path.is_file():
        raise ValueError(f"task is 'jsonl:{path}', but there is no such file; give the path of a JSONL file")
    defaults = {"task": path.stem, "language": "en"}
    return [defaults | row for _, row in read_jsonl(path, ("question", "answer"))]


def _samples(folder: str, kwargs: Mapping[str, Any]) -> Source:
    if kwargs:
        raise ValueError(f"data.source['samples:{folder}'].kwargs is {dict(kwargs)!r}; a dataset takes no parameters")
    return read_dataset(folder)


def _gym(name: str, split: str, kwargs: Mapping[str, Any]) -> GymRecords:
    """A reasoning-gym task; its test split holds no question of its train split."""
    own = {key: value for key, value in kwargs.items() if key not in _GYM_DEFAULTS}
    shape = {key: kwargs.get(key, default) for key, default in _GYM_DEFAULTS.items()}
    for key, value in shape.items():
        least = 0 if key == "seed" else 1
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < _TEST_SEED:
            raise ValueError(
                f"data.source['reasoning_gym:{name}'].kwargs.{key} is {value!r}; expected an integer in "
                f"{least}..{_TEST_SEED - 1}"
            )
    train = _gym_dataset(name, shape["size"], shape["seed"], own)
    if split == "train":
        return GymRecords(name, train, range(shape["size"]))
    test = _gym_dataset(name, shape["test_size"], shape["seed"] + _TEST_SEED, own)
    seen = {train[index]["question"] for index in range(shape["size"])}
    kept = [index for index in range(shape["test_size"]) if test[index]["question"] not in seen]
    return GymRecords(name, test, kept)


def _gym_dataset(name: str, size: int, seed: int, own: dict[str, Any]) -> Any:
    # Imported here: it takes seconds and pulls in a hundred tasks, which other tasks need not wait for.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of a package it uses
        import reasoning_gym
        from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        near = difflib.get_close_matches(name, list(DATASETS), 1)
        hint = f"did you mean 'reasoning_gym:{near[0]}'?" if near else f"known: {', '.join(sorted(DATASETS))}"
        raise ValueError(f"task is 'reasoning_gym:{name}', which is not known; {hint}")
    try:
        return reasoning_gym.create_dataset(name, size=size, seed=seed, **own)
    except (TypeError, AssertionError, ValueError) as error:
        raise ValueError(
            f"data.source['reasoning_gym:{name}'].kwargs is {own!r}, which the task does not take: "
            f"{error or 'a value is out of its range'}"
        ) from error
