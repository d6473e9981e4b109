"""The models that rewards call: a config names a folder or an endpoint, the stage opens it.

A reward function that names the parameter `scorer` has in its kwargs

    {"checkpoint": FOLDER}                       a reward model: scorer(questions, replies) -> scores

and one that names `generate` has

    {"judge": {"checkpoint": FOLDER, ...}}       a policy, with the other fields of `PolicyJudge`
    {"judge": {"url": ADDRESS, "model": ...}}    an OpenAI-compatible server, with the fields of `Endpoint`

A folder is a stage's workdir or a converted checkpoint; in a pipeline it may be the name of an earlier stage.

Rewards run in threads, beside the trainer's own device work. Two threads that launch programs over several devices may
have them wait for each other for ever, so these models live on one device of their host, the first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from r1jax.config import RewardSpec
from r1jax.data import templates
from r1jax.data.records import build_parameters
from r1jax.data.tokenizer import Tokenizer
from r1jax.mesh import make_mesh
from r1jax.rewards.endpoint import Endpoint
from r1jax.stages.inference import ONE_DEVICE, completion_text, encode_prompt, load_params, make_engine, read_writer
from r1jax.stages.scoring import open_scorer, read_reward_model

Makers = Mapping[str, Callable[[Mapping[str, Any]], Any]]  # a parameter's name -> what makes it from the kwargs


@dataclasses.dataclass(frozen=True)
class PolicyJudge:
    """A policy as a judge."""

    checkpoint: str
    max_tokens: int = 256
    temperature: float = 0.7
    batch: int = 32  # prompts decoded together

    def __post_init__(self):
        for name in ("max_tokens", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"judge.{name} is {getattr(self, name)}; expected at least 1")


class PolicyGenerator:
    """A policy that answers prompts, in its own template: `generator(prompts, seeds) -> replies`."""

    def __init__(self, judge: PolicyJudge, folder: str, mesh: Mesh):
        self._judge, self._mesh = judge, mesh
        self._stage = read_writer(folder)
        self._tokenizer = Tokenizer.load(folder)
        self._params = load_params(folder, self._stage.policy, mesh)
        self._engine = make_engine(self._stage.policy, mesh, self._tokenizer, self._stage.template)

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[str | None]:
        """A reply to each prompt; None where the prompt leaves no room for one."""
        rendered = [templates.render(self._stage.template, prompt, self._tokenizer) for prompt in prompts]
        tokens = [encode_prompt(self._tokenizer, text) for text in rendered]
        room = self._stage.policy.context - self._judge.max_tokens
        fitting = [i for i, ids in enumerate(tokens) if len(ids) <= room]
        replies: list[str | None] = [None] * len(prompts)
        size = self._judge.batch
        for first in range(0, len(fitting), size):
            some = fitting[first : first + size]
            padded = some + some[:1] * (size - len(some))  # the last batch keeps the shape of the others
            with jax.set_mesh(self._mesh):
                out = self._engine.generate(
                    self._params,
                    [tokens[i] for i in padded],
                    np.array([seeds[i] for i in padded], np.uint32),
                    temperature=self._judge.temperature,
                    top_k=0,
                    top_p=1.0,
                    max_tokens=self._judge.max_tokens,
                )
            for i, row, length in zip(some, out.completion_BL, out.length_B, strict=False):
                replies[i] = completion_text(self._tokenizer, row[:length])
        return replies


def makers(folders: Mapping[str, str]) -> Makers:
    """What opens the models of rewards, for `load_rewards`.

    Args:
      folders: of a pipeline's stages, by name.
    """
    mesh = make_mesh(ONE_DEVICE, jax.local_devices()[:1])

    def scorer(kwargs: Mapping[str, Any]) -> Any:
        return open_scorer(_folder(kwargs, folders), mesh)

    def generate(kwargs: Mapping[str, Any]) -> Any:
        judge = _judge(kwargs)
        if isinstance(judge, Endpoint):
            return judge
        return PolicyGenerator(judge, folders.get(judge.checkpoint, judge.checkpoint), mesh)

    return {"scorer": scorer, "generate": generate}


def checkers(folders: Mapping[str, str]) -> Makers:
    """As `makers`, but opens nothing: it refuses what can be told wrong before an earlier stage has run."""

    def scorer(kwargs: Mapping[str, Any]) -> Any:
        if _checkpoint(kwargs) not in folders:
            read_reward_model(_checkpoint(kwargs))

    def generate(kwargs: Mapping[str, Any]) -> Any:
        judge = _judge(kwargs)
        if isinstance(judge, PolicyJudge) and judge.checkpoint not in folders:
            read_writer(judge.checkpoint)

    return {"scorer": scorer, "generate": generate}


def checkpoints(specs: Mapping[str, RewardSpec]) -> dict[str, str]:
    """The folders, or stages' names, that rewards mention, by the reward's name."""
    named = {}
    for name, spec in specs.items():
        judge = spec.kwargs.get("judge")
        folder = (judge if isinstance(judge, Mapping) else spec.kwargs).get("checkpoint")
        if isinstance(folder, str):
            named[name] = folder
    return named


def _folder(kwargs: Mapping[str, Any], folders: Mapping[str, str]) -> str:
    checkpoint = _checkpoint(kwargs)
    return folders.get(checkpoint, checkpoint)


def _checkpoint(kwargs: Mapping[str, Any]) -> str:
    checkpoint = kwargs.get("checkpoint")
    if not isinstance(checkpoint, str) or not checkpoint:
        raise ValueError(f"a reward's kwargs.checkpoint is {checkpoint!r}; expected the folder of a reward model")
    return checkpoint


def _judge(kwargs: Mapping[str, Any]) -> PolicyJudge | Endpoint:
    given = kwargs.get("judge")
    if not isinstance(given, Mapping) or ("checkpoint" in given) == ("url" in given):
        raise ValueError(
            f"a reward's kwargs.judge is {given!r}; expected a section with either checkpoint (a policy's folder) or "
            "url and model (a server)"
        )
    kind = PolicyJudge if "checkpoint" in given else Endpoint
    if kind is Endpoint and "model" not in given:
        raise ValueError(f"a reward's kwargs.judge is {given!r}; a server wants a model: add judge.model")
    return build_parameters(kind, given, "kwargs.judge")
