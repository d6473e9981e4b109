"""A checkpoint opened for use: `load(path)` gives a policy that scores and writes text."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import typing
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from r1jax.config import (
    ColdStartStage,
    ConvertedStage,
    MeshConfig,
    PolicyConfig,
    RejectionStage,
    RewardModelStage,
    RlStage,
    SftStage,
)
from r1jax.data import templates
from r1jax.data.tokenizer import Tokenizer
from r1jax.mesh import make_mesh
from r1jax.models.policy import PolicyModel, abstract_variables
from r1jax.rollout.engine import Engine
from r1jax.stages.workdir import read_config
from r1jax.training.checkpoint import Checkpoints
from r1jax.training.state import with_shardings
from r1jax.types import Array, Packed, PyTree

# Rotary positions have no weights, so a policy may be given a longer context than it was trained with.
NOT_IN_WEIGHTS = ("attention_block", "context", "dtype", "init_scale", "remat")
ONE_DEVICE = MeshConfig(data=1, fsdp=1, expert=1, tensor=1, context=1)


@dataclasses.dataclass(frozen=True)
class Completion:
    text: str
    tokens: list[int]
    logprobs: list[float]  # nats, at the sampling temperature
    finish_reason: str  # stop | length


@dataclasses.dataclass(frozen=True)
class Policy:
    """A policy with its tokenizer. Opened by `load`."""

    config: PolicyConfig
    params: PyTree
    tokenizer: Tokenizer
    model: PolicyModel
    stage: SftStage | RlStage | ConvertedStage  # the config that trained it, or came with it
    mesh: Mesh

    def logits(self, tokens_BL: Array) -> np.ndarray:
        """logits_BLV, float32, of the token after each position; every token is read (no padding)."""
        tokens_BL = jnp.asarray(tokens_BL, jnp.int32)
        if tokens_BL.ndim != 2 or 0 in tokens_BL.shape:
            raise ValueError(f"tokens_BL has shape {tokens_BL.shape}; expected [B, L] with at least one token")
        if tokens_BL.shape[1] > self.config.context:
            raise ValueError(f"tokens_BL has {tokens_BL.shape[1]} tokens; policy.context is {self.config.context}")
        return np.asarray(_logits(self.config, self.params, tokens_BL))

    def generate(
        self,
        prompts: Sequence[str],
        samples: int = 1,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        max_tokens: int = 256,
        seed: int = 0,
    ) -> list[list[Completion]]:
        """Samples completions of prompts as they stand (no template is added).

        Args:
          samples: completions of each prompt.
          temperature: 0 is greedy.
          max_tokens: of a completion; with the prompt it must fit the context.

        Returns:
          for each prompt its completions. The same seed gives the same completions.
        """
        if samples < 1:
            raise ValueError(f"samples is {samples}; expected at least 1")
        tokens = [encode_prompt(self.tokenizer, prompt) for prompt in prompts]
        seed_B = seeds(seed, len(tokens) * samples)
        out = self.engine.generate(
            self.params, tokens, seed_B, temperature=temperature, top_k=top_k, top_p=top_p, max_tokens=max_tokens
        )
        done = [
            Completion(
                text=completion_text(self.tokenizer, row[:n]),
                tokens=row[:n].tolist(),
                logprobs=logp[:n].tolist(),
                finish_reason="stop" if finished else "length",
            )
            for row, logp, n, finished in zip(
                out.completion_BL, out.logp_sampler_BL, out.length_B, out.finished_B, strict=True
            )
        ]
        return [done[i : i + samples] for i in range(0, len(done), samples)]

    @functools.cached_property
    def engine(self) -> Engine:
        return make_engine(self.config, self.mesh, self.tokenizer, self.stage.template)


@functools.partial(jax.jit, static_argnums=0)
def _logits(config: PolicyConfig, params: PyTree, tokens_BL: jax.Array) -> jax.Array:
    model = PolicyModel(config)
    ones = jnp.ones_like(tokens_BL)
    position = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1]), tokens_BL.shape)
    hidden, _ = model.apply(params, Packed(tokens_BL, ones, 0 * ones, position, ones, ones.astype(jnp.float32)))
    return typing.cast(jax.Array, model.apply(params, hidden, method="logits"))


def load(path: str) -> Policy:
    """Opens a checkpoint folder: a stage's workdir or a converted one. Needs nothing but that folder.

    Raises:
      ValueError: the folder is not a checkpoint, or is damaged; names what and the remedy.
    """
    mesh = make_mesh(ONE_DEVICE, jax.local_devices()[:1])
    stage = read_writer(path)
    params = load_params(path, stage.policy, mesh)
    return Policy(stage.policy, params, Tokenizer.load(path), PolicyModel(stage.policy), stage, mesh)


def read_writer(path: str) -> SftStage | RlStage | ConvertedStage:
    """The config of the policy in a folder.

    Raises:
      ValueError: the folder is no checkpoint, or one of a reward model, which has lost its token head.
    """
    stage = read_config(path)
    if isinstance(stage, RewardModelStage):
        raise ValueError(f"{path} is a reward model, which scores text and writes none; give the folder of a policy")
    if isinstance(stage, RejectionStage | ColdStartStage):
        raise ValueError(f"{path} holds a dataset ({stage.stage}) and no policy; give the folder of a policy")
    return stage


def check_start(path: str, policy: PolicyConfig) -> None:
    """Refuses a folder that training cannot start from, at no more than a look at it.

    Raises:
      ValueError: it is no checkpoint, holds no saved step, or is of another architecture than `policy`.
    """
    if not path:
        raise ValueError("config.init_from is empty; this stage starts from a checkpoint: give --config.init_from=DIR")
    check_architecture(path, read_writer(path).policy, policy)
    checkpoints = Checkpoints(path, keep=None)
    try:
        if checkpoints.latest() is None:
            raise ValueError(f"{path} holds no saved step yet; finish that stage, or start from another")
    finally:
        checkpoints.close()


def check_architecture(path: str, saved: PolicyConfig, policy: PolicyConfig) -> None:
    """Refuses parameters of another shape or meaning. What they do not depend on may differ (`NOT_IN_WEIGHTS`).

    Raises:
      ValueError: names the keys that differ.
    """
    names = [f.name for f in dataclasses.fields(PolicyConfig) if f.name not in NOT_IN_WEIGHTS]
    changed = [
        f"policy.{name} is {getattr(policy, name)!r} in the config and {getattr(saved, name)!r} in the checkpoint"
        for name in names
        if getattr(saved, name) != getattr(policy, name)
    ]
    if changed:
        raise ValueError(f"{path} is of another architecture: {'; '.join(changed[:5])}; make config.policy the same")


def load_params(path: str, policy: PolicyConfig, mesh: Mesh) -> PyTree:
    """A checkpoint's newest parameters, straight in their shardings on `mesh`.

    Raises:
      ValueError: the checkpoint is of another architecture than `policy`, is damaged, or holds no parameters.
    """
    check_start(path, policy)
    checkpoints = Checkpoints(path, keep=None)
    try:
        return checkpoints.restore_params(None, with_shardings(abstract_variables(policy), mesh))
    finally:
        checkpoints.close()


def make_engine(policy: PolicyConfig, mesh: Mesh, tokenizer: Tokenizer, template: str) -> Engine:
    """An engine that stops at the end of text and at the template's stop symbols."""
    stop_ids = [*tokenizer.end_ids, *tokenizer.stop_ids(templates.STOP[template])]
    return Engine(policy, mesh, stop_ids=stop_ids, pad_id=tokenizer.pad_id)


def seeds(seed: int, count: int, *purpose: int) -> np.ndarray:
    """`count` request seeds, uint32, that depend on the run's seed and on what they are for."""
    return np.random.SeedSequence([seed, *purpose]).generate_state(count)


def encode_prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """A document's start and the prompt's tokens; control tokens where a chat template has written them."""
    return tokenizer.encode_prompt(prompt)


def completion_text(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """A completion as text, without the end-of-text token.

    A policy's vocabulary may be larger than its tokenizer's; a token that means nothing reads as U+FFFD.
    """
    known = [int(t) for t in tokens if t != tokenizer.eos_id]
    if all(t < tokenizer.vocab_size for t in known):
        return tokenizer.decode(known)
    runs = itertools.groupby(known, key=lambda t: t < tokenizer.vocab_size)
    return "".join(tokenizer.decode(list(run)) if means else "\ufffd" * len(list(run)) for means, run in runs)


def check_prompts(
    questions: Sequence[str], tokenizer: Tokenizer, template: str, room: int, field: str, source: str
) -> None:
    """Refuses a source with a prompt that leaves no room for a completion, before any work is done.

    Raises:
      ValueError: names the first such record, its length, the limit and the remedy.
    """
    fixed = len(encode_prompt(tokenizer, templates.render(template, "", tokenizer)))
    for i, question in enumerate(questions):
        try:
            prompt = templates.render(template, question, tokenizer)
        except ValueError as error:
            raise ValueError(f"{source}: record {i}: {error}") from error
        # Encoding is slow on a large source; a token is at least a byte, so most prompts pass by their length.
        if fixed + len(question.encode()) <= room:
            continue
        length = len(encode_prompt(tokenizer, prompt))
        if length > room:
            raise ValueError(
                f"{source}: the prompt of record {i} has {length} tokens; {field} leaves {room} for a prompt. "
                "Raise it, lower max_tokens, or leave the record out"
            )
