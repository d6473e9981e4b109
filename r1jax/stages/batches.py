"""The rollout batches of an RL stage, in order: each sampled in its own step, or one step before it is learnt from.

Sampled a step ahead, a batch is one update behind the policy that learns from it, and its graders may take as long as
an update and the next batch's sampling without being waited for.
"""

from __future__ import annotations

import functools
import io
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from r1jax.config import RlStage
from r1jax.data.loader import Loader
from r1jax.data.tokenizer import Tokenizer
from r1jax.rewards.compose import Rewards
from r1jax.rollout.engine import Engine
from r1jax.rollout.precision import RoundedPlacement
from r1jax.rollout.resharding import Placement
from r1jax.stages import groups
from r1jax.types import PyTree, Rollouts

Score = Callable[[PyTree, groups.Drawn], np.ndarray | None]  # logp_BL under the policy that sampled


class Sampler(NamedTuple):
    engine: Engine
    placement: Placement | RoundedPlacement  # lends it what it samples from


class Batches:
    """What each step learns from. `take` is to be called with steps in order, by all processes."""

    def __init__(
        self, config: RlStage, tokenizer: Tokenizer, sampler: Sampler, rewards: Rewards, loader: Loader, score: Score
    ):
        self._config, self._tokenizer, self._sampler = config, tokenizer, sampler
        self._rewards, self._loader, self._score = rewards, loader, score
        self._next: groups.Drawn | None = None  # the next step's
        self._graded: groups.Sampled | None = None  # the same, its graders at work
        self._before = b""  # where the loader stood before it

    def restore(self, host: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave, whose batch is graded anew."""
        self._loader.set_state(host["loader"])
        if "ahead" in host:
            step, self._before = host["ahead"]["step"], host["loader"]
            asked = groups.ask(self._config, self._tokenizer, next(self._loader))
            self._next = _drawn(asked, host, self._tokenizer.pad_id)
            self._graded = self._grade(self._next, step)

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint after `step` holds of them: a batch that is sampled already is part of it."""
        if self._next is None:
            return {"loader": self._loader.state()}
        what = {"step": step + 1, "slots": self._next.rollouts.completion_BL.shape[1], "seconds": self._next.seconds}
        return {"loader": self._before, "ahead": what, "ahead_arrays": _saved(self._next)}

    def take(self, step: int, params: PyTree) -> tuple[groups.Sampled, PyTree, dict[str, float]]:
        """The batch of a step; with `rollout.ahead` the next one is sampled here, before the step's update.

        Args:
          params: the policy's, before the update of this step.

        Returns:
          (the batch, the parameters as they were: those given may be donated, figures).
        """
        batch, figures = self._graded, dict[str, float]()
        self._next = self._graded = None
        if batch is None:
            drawn, params, figures = self._draw(step, params)
            batch = self._grade(drawn, step)
        if not self._config.rollout.ahead or step == self._config.steps:
            return batch, params, figures
        self._before = self._loader.state()
        self._next, params, figures = self._draw(step + 1, params)
        # A reward function is called with one batch at a time: the next one's turn comes when this one is through.
        began = time.perf_counter()
        batch = batch._replace(grading=groups.Settled(batch.grading.result()))
        figures["time/reward_wait_s"] = time.perf_counter() - began
        self._graded = self._grade(self._next, step + 1)
        return batch, params, figures

    def _draw(self, step: int, params: PyTree) -> tuple[groups.Drawn, PyTree, dict[str, float]]:
        asked = groups.ask(self._config, self._tokenizer, next(self._loader))
        draw = functools.partial(groups.draw, self._config, self._sampler.engine, asked=asked, step=step)
        drawn, params, figures = self._sampler.placement.lend(params, draw)
        if self._config.rollout.ahead:
            drawn = drawn._replace(logp_old_BL=self._score(params, drawn))
        return drawn, params, figures

    def _grade(self, drawn: groups.Drawn, step: int) -> groups.Sampled:
        return groups.grade(self._config, self._tokenizer, self._rewards, drawn, step)


def _saved(drawn: groups.Drawn) -> bytes:
    """A batch's arrays without their padding, as bytes; prompts and records are drawn anew."""
    rollouts = drawn.rollouts
    real_BL = _real(rollouts.length_B, rollouts.completion_BL.shape[1])
    arrays = rollouts._asdict() | {
        "completion_BL": rollouts.completion_BL[real_BL],
        "logp_sampler_BL": rollouts.logp_sampler_BL[real_BL],
    }
    if drawn.logp_old_BL is not None:
        arrays["logp_old_BL"] = drawn.logp_old_BL[real_BL]
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _drawn(asked: groups.Asked, host: Mapping[str, Any], pad_id: int) -> groups.Drawn:
    """The batch that a checkpoint's host values hold."""
    with np.load(io.BytesIO(host["ahead_arrays"])) as file:
        arrays = dict(file)
    real_BL = _real(arrays["length_B"], host["ahead"]["slots"])
    for name, fill in (("completion_BL", pad_id), ("logp_sampler_BL", 0.0), ("logp_old_BL", 0.0)):
        if name in arrays:
            whole_BL = np.full(real_BL.shape, fill, arrays[name].dtype)
            whole_BL[real_BL] = arrays[name]
            arrays[name] = whole_BL
    logp_old_BL = arrays.pop("logp_old_BL", None)
    return groups.Drawn(asked, Rollouts(**arrays), host["ahead"]["seconds"], logp_old_BL)


def _real(length_B: np.ndarray, slots: int) -> np.ndarray:
    return np.arange(slots)[None] < length_B[:, None]
