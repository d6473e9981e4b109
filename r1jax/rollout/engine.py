"""The rollout engine: each prompt is read once, its cache shared by its samples, and all sequences decode together.

Prompts are padded to a bucket of tokens and the batch to what the mesh divides, so that a run compiles a handful of
programs. Decoding is cut where its shapes change: the cache of sampled tokens doubles when it is full, and the batch
is halved when half of its sequences have stopped. Neither changes what a sequence samples.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from r1jax import processes
from r1jax.config import PolicyConfig
from r1jax.mesh import activation_sharding, batch_multiple, replicated
from r1jax.rollout.decoding import Sampling, advance, begin, grow, keep, rollout, step
from r1jax.types import PyTree, Rollouts

SMALLEST_BUCKET = 32  # tokens of a prompt
SMALLEST_CACHE = 64  # sampled tokens that a sequence has slots for at first
SMALLEST_BATCH = 16  # sequences; below twice as many a batch is not halved


class Engine:
    """Samples completions from one policy shape on one mesh. Holds compiled programs, no parameters."""

    def __init__(self, config: PolicyConfig, mesh: Mesh, *, stop_ids: Sequence[int], pad_id: int):
        self._config, self._mesh = config, mesh
        self._stop_ids, self._pad_id = np.asarray(sorted(stop_ids), np.int32), pad_id
        by_prompt, by_sequence = activation_sharding(mesh, "P"), activation_sharding(mesh, "B")
        whole = replicated(mesh)
        self._places = (by_prompt, by_prompt, by_sequence, whole, whole)
        inputs = (None, *self._places)
        self._rollout = jax.jit(
            functools.partial(rollout, config), static_argnums=(6, 7), in_shardings=inputs, out_shardings=by_sequence
        )
        self._begin = jax.jit(functools.partial(begin, config), static_argnums=(6, 7, 8, 9), in_shardings=inputs)
        self._advance = jax.jit(functools.partial(advance, config), static_argnums=(4, 5), donate_argnums=2)
        self._grow = jax.jit(grow, static_argnums=(1, 2))
        self._keep = jax.jit(keep, static_argnums=3)
        self._step = jax.jit(functools.partial(step, config), static_argnums=(3, 4), donate_argnums=2)
        # A scan over layers copies a layer's weights for each token on CPU; elsewhere their second copy costs more.
        self._with_layers = mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"

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
            out = self._decode(variables, *placed, sampling=_program(sampling))
        tokens, logp, length, finished = (x[: len(seed_B)] for x in out)
        copies = readings(len(prompts), len(seed_B) // len(prompts), batch_multiple(self._mesh))
        prompt_PL, length_P = (x[: len(prompts) * copies : copies] for x in arrays[:2])
        return Rollouts(prompt_PL, length_P, tokens, length, logp, finished)

    def _decode(self, variables: PyTree, *placed: Any, sampling: Sampling) -> list[np.ndarray]:
        """[tokens_BL, logp_BL, length_B, finished_B]: `rollout`, cut where its shapes change."""
        slots, rows = min(SMALLEST_CACHE, sampling.max_tokens), np.arange(placed[2].shape[0])
        prompts, state = self._begin(variables, *placed, sampling, self._pad_id, slots, self._with_layers)
        out: list[np.ndarray] = []
        while True:
            enough = self._halved(len(rows))
            state = self._advance(variables, prompts, state, np.int32(enough), sampling, self._pad_id)
            generated, done_B = processes.fetch((state.generated, state.done_B))
            ended = generated >= sampling.max_tokens or done_B.all()
            live = np.flatnonzero(~done_B)
            halve = not ended and enough and len(live) <= enough
            if ended or halve:
                found = processes.fetch((state.tokens_BL, state.logp_BL, state.length_B, state.done_B))
                out = out or [np.empty_like(x) for x in found]
                for whole, part in zip(out, found, strict=True):
                    whole[rows] = part
            if ended:
                return out
            if halve:
                row_B = np.concatenate([live, np.flatnonzero(done_B)])[:enough].astype(np.int32)
                rows, layers = rows[row_B], prompts.layers  # these stay where they are
                prompts, state = self._keep(prompts._replace(layers=None), state, row_B, self._with_layers)
                prompts = prompts._replace(layers=layers)
            if generated > slots:
                slots = min(2 * slots, sampling.max_tokens)
                state = self._grow(state, slots, self._with_layers)

    def _halved(self, rows: int) -> int:
        """Half as many sequences, or 0 where they are not to be halved."""
        half = rows // 2
        return half if rows % 2 == 0 and half >= SMALLEST_BATCH and half % batch_multiple(self._mesh) == 0 else 0

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
            read, state = self._begin(variables, *arrays, program, self._pad_id, max_tokens, False)
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
