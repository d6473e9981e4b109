"""A reward model in use: replies to packed rows, rows to scores, and a checkpoint opened as a scorer of text."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from r1jax import processes
from r1jax.config import PolicyConfig, RewardModelStage
from r1jax.data import templates
from r1jax.data.packing import fit, places, split_group, write_rows
from r1jax.data.tokenizer import Tokenizer
from r1jax.mesh import batch_multiple
from r1jax.models.scalar import abstract_scalar, scores
from r1jax.stages.inference import encode_prompt
from r1jax.stages.workdir import read_config
from r1jax.training.checkpoint import Checkpoints
from r1jax.training.state import with_shardings
from r1jax.types import Array, Packed, PyTree


def encode_reply(tokenizer: Tokenizer, reply: str) -> list[int]:
    """The reply's tokens and the end of text, at which it is scored.

    The last token is a target, never an input, hence a second end of text: `split_group` reads all but the last.
    """
    readable = reply.encode(errors="replace").decode()  # a lone surrogate is a question mark
    return [*tokenizer.encode(f" {readable.strip()}"), tokenizer.eos_id, tokenizer.eos_id]


def question_tokens(tokenizer: Tokenizer, template: str, question: str) -> list[int]:
    readable = question.encode(errors="replace").decode()
    return encode_prompt(tokenizer, templates.render(template, readable, tokenizer))


def pack_replies(
    groups: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], *, row_length: int, row_multiple: int, pad_id: int
) -> tuple[Packed, np.ndarray]:
    """Questions with their replies as rows whose number is a multiple of `row_multiple`; a question stands once.

    Args:
      groups: tokens of each question, and of each of its replies as `encode_reply` gives them.

    Returns:
      (Packed, place_B: the flat place r * T + t where each reply ends, in the order given).
    """
    numbers = itertools.count()
    numbered = [(prompt, [(next(numbers), reply) for reply in replies]) for prompt, replies in groups]
    lengths_B = [len(reply) for _, replies in numbered for _, reply in replies]
    pieces = [piece for prompt, replies in numbered for piece in split_group(prompt, replies, row_length)]
    rows = [[pieces[i] for i in row] for row in fit([piece.length for piece in pieces], row_length)]
    rows += [[] for _ in range(-len(rows) % row_multiple)]
    index_BL = places(rows, row_length, len(lengths_B), max(lengths_B))
    return write_rows(rows, row_length, pad_id), index_BL[np.arange(len(lengths_B)), np.asarray(lengths_B) - 1]


def room_needed(prompt: Sequence[int], replies: Sequence[Sequence[int]]) -> int:
    """Places that a question takes in a row with all of its replies beside it."""
    return len(prompt) - 1 + sum(len(reply) for reply in replies)


@functools.partial(jax.jit, static_argnums=0)
def _scores(config: PolicyConfig, variables: PyTree, packed: Packed, place_B: Array) -> jax.Array:
    return scores(config, variables, packed, place_B)[0]


def score_rows(policy: PolicyConfig, variables: PyTree, packed: Packed, place_B: np.ndarray, micro: int) -> np.ndarray:
    """score_B of the replies in packed rows, `micro` rows at a time, so that one program serves any number of rows."""
    score_B = np.zeros(len(place_B), np.float32)
    size = micro * packed.tokens_RT.shape[1]
    for first in range(0, packed.tokens_RT.shape[0], micro):
        rows = jax.tree.map(lambda x: x[first : first + micro], packed)  # noqa: B023
        local_B = place_B - first * packed.tokens_RT.shape[1]
        here = np.flatnonzero((local_B >= 0) & (local_B < size))
        at = np.full(_rounded(len(here)), -1, np.int32)
        at[: len(here)] = local_B[here]
        score_B[here] = processes.fetch(_scores(policy, variables, rows, at))[: len(here)]
    return score_B


def _rounded(count: int) -> int:
    """The power of two at or above, so that few shapes are compiled."""
    return 1 << max(count - 1, 0).bit_length()


class Scorer:
    """A reward model that scores text: `scorer(questions, replies) -> scores`. Opened by `open_scorer`."""

    def __init__(self, stage: RewardModelStage, variables: PyTree, tokenizer: Tokenizer, mesh: Mesh):
        self.objective = stage.objective
        self._stage, self._variables, self._tokenizer, self._mesh = stage, variables, tokenizer, mesh

    def __call__(self, questions: Sequence[str], replies: Sequence[str]) -> list[float | None]:
        """The score of each reply to its question; None where the two together exceed what the model can read.

        Neighbours with the same question share it. Deterministic, but for rounding: rows hold what fits.
        """
        batch, policy = self._stage.batch, self._stage.policy
        room = min(batch.row_length, policy.context)
        encoded = [encode_reply(self._tokenizer, reply) for reply in replies]
        result: list[float | None] = [None] * len(encoded)
        groups, order = [], []
        for question, run in itertools.groupby(range(len(encoded)), key=lambda b: questions[b]):
            prompt = question_tokens(self._tokenizer, self._stage.template, question)
            fitting = [b for b in run if room_needed(prompt, [encoded[b]]) <= room]
            if fitting:
                groups.append((prompt, [encoded[b] for b in fitting]))
                order += fitting
        if not groups:
            return result
        micro = batch.micro_rows * batch_multiple(self._mesh)
        packed, place_B = pack_replies(
            groups, row_length=batch.row_length, row_multiple=micro, pad_id=self._tokenizer.pad_id
        )
        with jax.set_mesh(self._mesh):
            score_B = score_rows(policy, self._variables, packed, place_B, micro)
        for b, score in zip(order, score_B, strict=True):
            result[b] = float(score)
        return result


def open_scorer(path: str, mesh: Mesh) -> Scorer:
    """The reward model in a folder, on `mesh`.

    Raises:
      ValueError: the folder is no checkpoint, not one of a reward model, damaged, or holds no saved step.
    """
    stage = read_reward_model(path)
    checkpoints = Checkpoints(path, keep=None)
    try:
        if checkpoints.latest() is None:
            raise ValueError(f"{path} holds no saved step yet; finish that stage, or use another")
        variables = checkpoints.restore_params(None, with_shardings(abstract_scalar(stage.policy), mesh))
    finally:
        checkpoints.close()
    return Scorer(stage, variables, Tokenizer.load(path), mesh)


def read_reward_model(path: str) -> RewardModelStage:
    """The config that trained the reward model in a folder. Raises ValueError where it holds none."""
    stage = read_config(path)
    if not isinstance(stage, RewardModelStage):
        raise ValueError(f"{path} is a policy ({stage.stage}), not a reward model; give the folder of a reward_model")
    return stage
