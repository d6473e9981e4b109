"""The rollout engine: each prompt is read once, its cache shared by its samples, and all sequences decode together.

One jitted program a shape: prompts are padded to a bucket of tokens and the batch to what the mesh divides, so that
a run compiles a handful of programs. The loop ends when every sequence has stopped.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from r1jax import processes
from r1jax.config import PolicyConfig
from r1jax.mesh import activation_sharding, batch_multiple, constrain, replicated
from r1jax.models.attention import DecodeStep, LayerCache
from r1jax.models.policy import PolicyModel
from r1jax.rollout.sampling import sample
from r1jax.types import PyTree, Rollouts

SMALLEST_BUCKET = 32  # tokens of a prompt


class Decoding(NamedTuple):
    """The state of the decode loop."""

    generated: jax.Array  # int32 scalar: tokens sampled by each sequence that is still going
    token_B: jax.Array  # the newest
    done_B: jax.Array
    tokens_BL: jax.Array
    logp_BL: jax.Array
    length_B: jax.Array
    own: list[jax.Array]  # latents of the sampled tokens, one [N, B, S, W] a stack


class Sampling(NamedTuple):
    """How tokens are picked. `top_k`, `top_p` and `max_tokens` are part of the compiled program."""

    temperature: float
    top_k: int
    top_p: float
    max_tokens: int


class Prompts(NamedTuple):
    """What all steps read: the prompts' latents, one [N, P, S, W] a stack, and each sequence's key."""

    latents: list[jax.Array]
    length_P: jax.Array
    seed_B: jax.Array
    stop_ids: jax.Array
    temperature: jax.Array


def begin(
    config: PolicyConfig,
    variables: PyTree,
    prompt_PL: jax.Array,
    prompt_length_P: jax.Array,
    seed_B: jax.Array,
    stop_ids: jax.Array,
    temperature: jax.Array,
    sampling: Sampling,
    pad_id: int,
) -> tuple[Prompts, Decoding]:
    """Reads the prompts and samples the first token of each of B = P * G sequences."""
    model: Any = PolicyModel(config)
    batch, group = seed_B.shape[0], seed_B.shape[0] // prompt_PL.shape[0]
    hidden_PD, latents = model.apply(variables, prompt_PL, prompt_length_P, method="prefill")
    latents = [constrain(latent, "NPSW") for latent in latents]
    prompts = Prompts(latents, prompt_length_P, seed_B, stop_ids, temperature)
    slots = sampling.max_tokens
    empty = Decoding(
        generated=jnp.zeros((), jnp.int32),
        token_B=jnp.full((batch,), pad_id, jnp.int32),
        done_B=jnp.zeros((batch,), bool),
        tokens_BL=constrain(jnp.full((batch, slots), pad_id, jnp.int32), "BL"),
        logp_BL=constrain(jnp.zeros((batch, slots), jnp.float32), "BL"),
        length_B=jnp.zeros((batch,), jnp.int32),
        own=[
            constrain(jnp.zeros((latent.shape[0], batch, slots, latent.shape[-1]), latent.dtype), "NBSW")
            for latent in latents
        ],
    )
    logits_BV = jnp.repeat(model.apply(variables, hidden_PD, method="logits"), group, axis=0)
    return prompts, _record(empty, logits_BV, prompts, sampling, pad_id)


def step(
    config: PolicyConfig, variables: PyTree, prompts: Prompts, state: Decoding, sampling: Sampling, pad_id: int
) -> Decoding:
    """Feeds each sequence's newest token and samples the next."""
    model: Any = PolicyModel(config)
    group = prompts.seed_B.shape[0] // prompts.length_P.shape[0]
    fed = state.generated - 1  # the newest token's number; its latent goes to that slot
    where = DecodeStep(jnp.repeat(prompts.length_P, group) + fed, prompts.length_P, fed)
    caches = [LayerCache(prompt, own) for prompt, own in zip(prompts.latents, state.own, strict=True)]
    hidden_BD, new = model.apply(variables, state.token_B, where, caches, method="decode")
    own = [
        jax.lax.dynamic_update_slice_in_dim(cache, latent[:, :, None], fed, axis=2)
        for cache, latent in zip(state.own, new, strict=True)
    ]
    logits_BV = model.apply(variables, hidden_BD, method="logits")
    return _record(state._replace(own=own), logits_BV, prompts, sampling, pad_id)


def _record(state: Decoding, logits_BV: jax.Array, prompts: Prompts, sampling: Sampling, pad_id: int) -> Decoding:
    """Draws the next token of every sequence and writes it down; those that are done stay as they are."""
    t = state.generated
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), t))(prompts.seed_B)
    token_B, logp_B = sample(
        constrain(logits_BV, "BV"), keys, temperature=prompts.temperature, top_k=sampling.top_k, top_p=sampling.top_p
    )
    token_B = jnp.where(state.done_B, pad_id, token_B)
    write = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=t, axis=1)
    return state._replace(
        generated=t + 1,
        token_B=token_B,
        tokens_BL=write(state.tokens_BL, token_B[:, None]),
        logp_BL=write(state.logp_BL, jnp.where(state.done_B, 0.0, logp_B)[:, None]),
        length_B=state.length_B + ~state.done_B,
        done_B=state.done_B | (token_B[:, None] == prompts.stop_ids[None]).any(-1),
    )


def rollout(
    config: PolicyConfig,
    variables: PyTree,
    prompt_PL: jax.Array,
    prompt_length_P: jax.Array,
    seed_B: jax.Array,
    stop_ids: jax.Array,
    temperature: jax.Array,
    sampling: Sampling,
    pad_id: int,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Samples B = P * G completions of at most `max_tokens` tokens. Pure; `Engine` jits it.

    Args:
      prompt_PL: int32, padded on the right.
      seed_B: uint32, one a sequence; the token at position t is drawn with fold_in(key(seed), t).
      stop_ids: int32; a sequence ends with the first of these it samples, which is kept.

    Returns:
      (tokens_BL, logp_BL, length_B, finished_B); L = max_tokens, padded on the right.
    """
    prompts, state = begin(
        config, variables, prompt_PL, prompt_length_P, seed_B, stop_ids, temperature, sampling, pad_id
    )
    state = jax.lax.while_loop(
        lambda s: (s.generated < sampling.max_tokens) & ~s.done_B.all(),
        lambda s: step(config, variables, prompts, s, sampling, pad_id),
        state,
    )
    return state.tokens_BL, state.logp_BL, state.length_B, state.done_B


class Engine:
    """Samples completions from one policy shape on one mesh. Holds compiled programs, no parameters."""

    def __init__(self, config: PolicyConfig, mesh: Mesh, *, stop_ids: Sequence[int], pad_id: int):
        self._config, self._mesh = config, mesh
        self._stop_ids, self._pad_id = np.asarray(sorted(stop_ids), np.int32), pad_id
        by_prompt, by_sequence = activation_sharding(mesh, "P"), activation_sharding(mesh, "B")
        whole = replicated(mesh)
        self._places = (by_prompt, by_prompt, by_sequence, whole, whole)
        inputs = (None, *self._places)
        static = (6, 7)  # sampling, pad_id
        self._rollout = jax.jit(
            functools.partial(rollout, config), static_argnums=static, in_shardings=inputs, out_shardings=by_sequence
        )
        self._begin = jax.jit(functools.partial(begin, config), static_argnums=static, in_shardings=inputs)
        self._step = jax.jit(functools.partial(step, config), static_argnums=(3, 4), donate_argnums=2)

    def generate(
        self,
        variables: PyTree,
        prompts: Sequence[Sequence[int]],
        seed_B: np.ndarray,
        *,
        temperature: float,
        top_k: int,
        top_p: float,
        max_tokens: int,
    ) -> Rollouts:
        """Samples `len(seed_B) // len(prompts)` completions of each prompt.

        Args:
          variables: the policy's, on the mesh. Where that spans several processes, each gives the same arguments.
          prompts: token ids; at least one each.
          seed_B: uint32, one a sequence, in prompt order.

        Raises:
          ValueError: an empty batch or prompt, or a prompt that leaves no room for `max_tokens` in the context.
        """
        sampling = Sampling(temperature, top_k, top_p, max_tokens)
        arrays = self._arrays(prompts, seed_B, sampling)
        placed = map(processes.place, self._places, arrays)
        with jax.set_mesh(self._mesh):
            out = self._rollout(variables, *placed, _program(sampling), self._pad_id)
        tokens, logp, length, finished = (x[: len(seed_B)] for x in processes.fetch(out))
        copies = readings(len(prompts), len(seed_B) // len(prompts), batch_multiple(self._mesh))
        prompt_PL, length_P = (x[: len(prompts) * copies : copies] for x in arrays[:2])
        return Rollouts(prompt_PL, length_P, tokens, length, logp, finished)

    def lower(
        self, variables: PyTree, prompts: int, slots: int, samples: int, *, top_k: int, top_p: float, max_tokens: int
    ) -> jax.stages.Lowered:
        """The program of `generate` for so many prompts, padded to `slots` tokens, from shapes: nothing is computed."""
        ways = batch_multiple(self._mesh)
        copies = readings(prompts, samples, ways)
        rows = -(-prompts * copies // ways) * ways
        shapes = (((rows, slots), np.int32), ((rows,), np.int32), ((rows * samples // copies,), np.uint32))
        arrays = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
        program = Sampling(0.0, top_k, top_p, max_tokens)
        with jax.set_mesh(self._mesh):
            return self._rollout.lower(variables, *arrays, self._stop_ids, np.float32(1.0), program, self._pad_id)

    def stream(
        self,
        variables: PyTree,
        prompt: Sequence[int],
        seed: int,
        *,
        temperature: float,
        top_k: int,
        top_p: float,
        max_tokens: int,
    ) -> Iterator[int]:
        """One completion, token by token as it is sampled: the tokens that `generate` gives with that seed.

        For people who watch; it returns to the host at every token.
        """
        sampling = Sampling(temperature, top_k, top_p, max_tokens)
        arrays = self._arrays([prompt], np.asarray([seed], np.uint32), sampling)
        program = _program(sampling)
        with jax.set_mesh(self._mesh):
            read, state = self._begin(variables, *arrays, program, self._pad_id)
            yield int(state.token_B[0])
            while not bool(state.done_B[0]) and int(state.generated) < max_tokens:
                state = self._step(variables, read, state, program, self._pad_id)
                yield int(state.token_B[0])

    def _arrays(self, prompts: Sequence[Sequence[int]], seed_B: np.ndarray, sampling: Sampling) -> tuple:
        """Checked inputs of the programs: prompts padded to a bucket, the batch to what the mesh divides."""
        if not len(prompts) or not len(seed_B) or len(seed_B) % len(prompts):
            raise ValueError(f"{len(prompts)} prompts and {len(seed_B)} seeds; expected a positive multiple of prompts")
        if sampling.max_tokens < 1:
            raise ValueError(f"max_tokens is {sampling.max_tokens}; expected at least 1")
        if not 0.0 < sampling.top_p <= 1.0 or sampling.top_k < 0 or sampling.temperature < 0:
            raise ValueError(
                f"temperature is {sampling.temperature}, top_k {sampling.top_k}, top_p {sampling.top_p}; "
                "expected temperature >= 0, top_k >= 0 and 0 < top_p <= 1"
            )
        lengths = [len(prompt) for prompt in prompts]
        if min(lengths) < 1:
            raise ValueError(f"prompt {lengths.index(0)} is empty; expected at least one token")
        longest = max(lengths)
        if longest + sampling.max_tokens > self._config.context:
            raise ValueError(
                f"prompt {lengths.index(longest)} has {longest} tokens and max_tokens is {sampling.max_tokens}; "
                f"together they exceed policy.context ({self._config.context}): shorten the prompt or lower max_tokens"
            )
        ways, group = batch_multiple(self._mesh), len(seed_B) // len(prompts)
        copies = readings(len(prompts), group, ways)
        missing = -len(prompts) * copies % ways
        prompt_PL = np.full((len(prompts) * copies + missing, bucket(longest)), self._pad_id, np.int32)
        for i, prompt in enumerate(prompts):
            prompt_PL[i * copies : (i + 1) * copies, : len(prompt)] = prompt
        length_P = np.asarray([n for n in lengths for _ in range(copies)] + [1] * missing, np.int32)
        extra = missing * group // copies
        seeds = np.concatenate([np.asarray(seed_B, np.uint32), np.zeros(extra, np.uint32)])
        return prompt_PL, length_P, seeds, self._stop_ids, np.float32(sampling.temperature)


def readings(prompts: int, samples: int, ways: int) -> int:
    """How often a prompt is read, each time for an equal part of its samples.

    Once, unless the sequences are split over more devices than there are prompts: then as often as leaves the fewest
    sequences that only fill up the batch.
    """

    def decoded(copies: int) -> int:
        return -(-prompts * copies // ways) * ways * (samples // copies)

    return min((n for n in range(1, samples + 1) if samples % n == 0), key=decoded)


def bucket(length: int) -> int:
    """The slots of a prompt of `length` tokens: 32, 48, 64, 96, 128, ... so that ragged prompts compile few programs.

    Powers of two and their halves between: at most a third of the slots are padding, beyond the smallest.
    """
    power = max(SMALLEST_BUCKET, 1 << (length - 1).bit_length())
    return power * 3 // 4 if length <= power * 3 // 4 and power > SMALLEST_BUCKET else power


def _program(sampling: Sampling) -> Sampling:
    """The static part: the temperature is an input, so that changing it compiles nothing."""
    return sampling._replace(temperature=0.0)
