"""Candidates for a dataset: prompts asked of a checkpoint, answers graded and judged, one shard at a time.

A prompt's samples depend on the config and the prompt's number. Batches are cut within a shard, so it makes no
difference how many processes share the shards out among them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from r1jax.config import DatasetStage, PolicyConfig
from r1jax.data.dataset import Sample
from r1jax.data.tokenizer import Tokenizer
from r1jax.rewards.compose import Rewards
from r1jax.rollout.engine import Engine
from r1jax.stages.groups import columns
from r1jax.stages.inference import completion_text, encode_prompt, load_params, make_engine, read_writer, seeds
from r1jax.stages.rewriting import Readable
from r1jax.stages.selection import HeldOut, judge
from r1jax.stages.sharing import grade
from r1jax.training.checkpoint import Checkpoints
from r1jax.types import PyTree

SAMPLE_SEEDS = 5  # purpose of these seeds, beside rollouts' and evaluation's
Finish = Callable[[Sequence[str], Sequence[dict[str, str]], Sequence[int]], list[Readable]]


class Way(NamedTuple):
    """Whom to ask, how, and what is made of an answer."""

    name: str
    folder: str  # of the checkpoint
    weight: float  # share of the prompts
    template: str  # whose stop symbols end a completion
    prompt: Callable[[str, Tokenizer], str]  # a question to a prompt
    stop: str  # where a completion that goes on is cut; "" nowhere
    finish: Finish | None  # (completions, records, seeds) to what is to be learnt; None leaves them as they came


class Asked(NamedTuple):
    """A prompt of the run."""

    number: int  # in the run
    source: str
    row: int  # in its source
    record: dict[str, str]


class Answer(NamedTuple):
    """A sample as it came."""

    asked: Asked
    prompt: str
    text: str
    ids: list[int]
    seed: int
    finished: bool  # of its own accord, not at the limit of tokens


class Opened(NamedTuple):
    """A checkpoint, ready to sample."""

    policy: PolicyConfig
    params: PyTree
    tokenizer: Tokenizer
    engine: Engine
    step: int


def open_checkpoint(folder: str, template: str, mesh: Mesh) -> Opened:
    """Raises ValueError where the folder holds no policy with a saved step."""
    policy = read_writer(folder).policy
    tokenizer = Tokenizer.load(folder)
    params = load_params(folder, policy, mesh)
    checkpoints = Checkpoints(folder, keep=None)
    try:
        step = checkpoints.latest() or 0
    finally:
        checkpoints.close()
    return Opened(policy, params, tokenizer, make_engine(policy, mesh, tokenizer, template), step)


class Asker:
    """Asks prompts in their ways, grades and judges what comes."""

    def __init__(self, config: DatasetStage, ways: Sequence[Way], mesh: Mesh, rewards: Rewards, held_out: HeldOut):
        self._config, self._ways, self._mesh = config, ways, mesh
        self._rewards, self._held_out = rewards, held_out
        self._opened: dict[tuple[str, str], Opened] = {}

    def check(self, prompts: Sequence[Asked]) -> None:
        """Refuses a prompt that leaves no room for an answer, before any work is done.

        Raises:
          ValueError: names the first such record, its length, the limit and the remedy.
        """
        rooms = {
            way.folder: read_writer(way.folder).policy.context - self._config.rollout.max_tokens for way in self._ways
        }
        tokenizers = {folder: Tokenizer.load(folder) for folder in rooms}
        for asked in prompts:
            way = self._way(asked)
            room, tokenizer = rooms[way.folder], tokenizers[way.folder]
            text = way.prompt(asked.record["question"], tokenizer)
            # Encoding is slow on a large source; a token is at least a byte, so most prompts pass by their length.
            if len(tokenizer.start_ids) + len(text.encode()) <= room:
                continue
            length = len(encode_prompt(tokenizer, text))
            if length > room:
                raise ValueError(
                    f"{asked.source}: the prompt of record {asked.row} has {length} tokens; the context of "
                    f"{way.folder} less rollout.max_tokens leaves {room}: lower max_tokens, or leave the record out"
                )

    def __call__(self, prompts: Sequence[Asked]) -> Iterator[Sample]:
        """The samples of some prompts, the whole of a way's at a time."""
        size = self._config.rollout.prompts
        for way in self._ways:
            mine = [asked for asked in prompts if self._way(asked) is way]
            for first in range(0, len(mine), size):
                yield from self._batch(way, mine[first : first + size])

    def _way(self, asked: Asked) -> Way:
        draw = random.Random(f"{self._config.seed}/way/{asked.number}")
        return draw.choices(self._ways, [way.weight for way in self._ways])[0]

    def _open(self, way: Way) -> Opened:
        key = (way.folder, way.template)
        if key not in self._opened:
            self._opened[key] = open_checkpoint(way.folder, way.template, self._mesh)
        return self._opened[key]

    def _batch(self, way: Way, prompts: Sequence[Asked]) -> Iterator[Sample]:
        opened = self._open(way)
        answers = self._answers(way, opened, prompts)
        records = [answer.asked.record for answer in answers]
        raw = [answer.text for answer in answers]
        finish = way.finish or (lambda texts, _, __: [Readable(text, "") for text in texts])
        made = finish(raw, records, [answer.seed for answer in answers])
        texts, ids = [each.text for each in made], [answer.ids for answer in answers]
        graded = grade(self._rewards, [answer.prompt for answer in answers], texts, columns(records), ids)
        for b, (answer, each) in enumerate(zip(answers, made, strict=True)):
            by_name = {name: float(v[b]) for name, v in graded.by_name.items() if graded.mine[name][b]}
            sample = answer.asked.record | {
                "template": self._config.template,
                "completion": each.text,
                "prompt": answer.prompt,
                "raw": answer.text if way.finish else "",
                "rewritten": each.by,
                "source": answer.asked.source,
                "way": way.name,
                "index": str(answer.asked.row),
                "sample": str(b % self._config.rollout.samples),
                "checkpoint": way.folder,
                "step": str(opened.step),
                "seed": str(answer.seed),
                "rewards": json.dumps(by_name),
                "reward": repr(float(graded.total_B[b])),
            }
            fields: dict[str, Any] = {**answer.asked.record, "completion_ids": answer.ids}
            drop = judge(sample, answer.finished, fields, self._config.selection, self._held_out)
            yield sample | {"filter": drop}

    def _answers(self, way: Way, opened: Opened, prompts: Sequence[Asked]) -> list[Answer]:
        how = self._config.rollout
        texts = [way.prompt(asked.record["question"], opened.tokenizer) for asked in prompts]
        missing = how.prompts - len(prompts)  # the last batch keeps the shape of the others
        numbers = [asked.number for asked in prompts] + [prompts[0].number] * missing
        seed_B = np.concatenate([seeds(self._config.seed, how.samples, SAMPLE_SEEDS, number) for number in numbers])
        out = opened.engine.generate(
            opened.params,
            [encode_prompt(opened.tokenizer, text) for text in texts + texts[:1] * missing],
            seed_B,
            temperature=how.temperature,
            top_k=how.top_k,
            top_p=how.top_p,
            max_tokens=how.max_tokens,
            slots=how.slots,
        )
        answers = []
        for b in range(len(prompts) * how.samples):
            ids = out.completion_BL[b, : out.length_B[b]].tolist()
            text, stopped = cut(completion_text(opened.tokenizer, ids), way.stop)
            finished = stopped or bool(out.finished_B[b])
            p = b // how.samples
            answers.append(Answer(prompts[p], texts[p], text, ids, int(seed_B[b]), finished))
        return answers


def cut(text: str, stop: str) -> tuple[str, bool]:
    """The text up to `stop`, and whether that occurs; white space before the text does not count as one."""
    start = len(text) - len(text.lstrip())
    at = text.find(stop, start) if stop else -1
    return (text, False) if at < 0 else (text[:at], True)
