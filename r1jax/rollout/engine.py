"""The rollout engine: prompts are read, sequences decode together, and slots of those that end are filled again.

Prompts are padded to a bucket of tokens and the batch to what the mesh divides, so that a run compiles a handful of
programs. Where there is a slot for every sequence, the samples of a prompt share its cache; where there are more
sequences than slots, each slot has a prompt's cache of its own, and when an eighth of the slots are free, sequences
that wait take them over. Decoding is cut where its shapes change: the cache of sampled tokens doubles when it is full,
and the batch is halved when none waits and half of its sequences have ended. None of it changes what a sequence
samples.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from r1jax import processes
from r1jax.config import PolicyConfig
from r1jax.mesh import activation_sharding, batch_multiple, replicated
from r1jax.rollout.decoding import Decoding, Prompts, Sampling, advance, going, grow, step
from r1jax.rollout.filling import Read, begin, keep, read, refill, rollout, vacant
from r1jax.rollout.slots import FREE, Queue, Slots
from r1jax.types import PyTree, Rollouts

SMALLEST_BUCKET = 32  # tokens of a prompt
SMALLEST_CACHE = 64  # sampled tokens that a sequence has slots for at first
SMALLEST_BATCH = 16  # sequences; below twice as many a batch is not halved
STEPS = 256  # after which decoding returns to the host, at the latest
FREE_SHARE = 8  # slots are filled again when one in so many is free


class Batch(NamedTuple):
    """What is being decoded."""

    prompts: Prompts
    state: Decoding
    slots: Slots


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
        self._read = jax.jit(functools.partial(read, config), static_argnums=3, in_shardings=(None, *inputs[1:3]))
        self._vacant = jax.jit(functools.partial(vacant, config), static_argnums=(4, 5, 6, 7))
        self._refill = jax.jit(functools.partial(refill, config), static_argnums=(5, 6, 7), donate_argnums=(1, 2))
        self._advance = jax.jit(functools.partial(advance, config), static_argnums=(4, 5, 6), donate_argnums=2)
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
        slots: int = 0,
    ) -> Rollouts:
        """Samples `len(seed_B) // len(prompts)` completions of each prompt.

        Args:
          variables: the policy's, on the mesh. Where that spans several processes, each gives the same arguments.
          prompts: token ids; at least one each.
          seed_B: uint32, one a sequence, in prompt order.
          slots: sequences decoded at once; 0 is all. What a sequence samples does not depend on it.

        Raises:
          ValueError: an empty batch or prompt, a prompt that leaves no room for `max_tokens` in the context, or slots
            that the mesh does not divide.
        """
        sampling = Sampling(temperature, top_k, top_p, max_tokens)
        self._check(prompts, seed_B, sampling)
        check_slots(slots, self._mesh)
        few = 0 < slots < len(seed_B)
        with jax.set_mesh(self._mesh):
            start = functools.partial(self._some, slots) if few else self._all
            done = self._decode(variables, *start(variables, prompts, seed_B, sampling), sampling=_program(sampling))
        prompt_PL, length_P = self._padded(prompts, range(len(prompts)))
        return Rollouts(prompt_PL, length_P, *(x[: len(seed_B)] for x in done))

    def _all(self, variables: PyTree, prompts: Sequence, seed_B: np.ndarray, sampling: Sampling) -> tuple[Batch, None]:
        """All sequences at once."""
        arrays = self._arrays(prompts, seed_B, sampling)
        placed = map(processes.place, self._places, arrays)
        cache, count = min(SMALLEST_CACHE, sampling.max_tokens), arrays[2].shape[0]
        read, state = self._begin(variables, *placed, _program(sampling), self._pad_id, cache, self._with_layers)
        return Batch(read, state, Slots(np.arange(count), count, sampling.max_tokens, self._pad_id)), None

    def _some(
        self, slots: int, variables: PyTree, prompts: Sequence, seed_N: np.ndarray, sampling: Sampling
    ) -> tuple[Batch, Queue]:
        """No sequence yet in any of `slots`, and all in the queue."""
        group, ways = len(seed_N) // len(prompts), batch_multiple(self._mesh)
        some = -(-max(1, slots // group) // ways) * ways
        arrays = [self._padded(prompts, range(i, i + some)) for i in range(0, len(prompts), some)]

        def read(part: int) -> Read:
            return self._read(variables, *map(processes.place, self._places, arrays[part]), self._with_layers)

        queue = Queue(read, some, group, np.asarray(seed_N, np.uint32))
        given = (self._stop_ids, np.float32(sampling.temperature))
        cache = min(SMALLEST_CACHE, sampling.max_tokens)
        room, state = self._vacant(variables, queue.source, *given, slots, self._pad_id, cache, self._with_layers)
        free = Slots(np.full(slots, FREE), len(seed_N), sampling.max_tokens, self._pad_id)
        return Batch(room, state, free), queue

    def _decode(
        self, variables: PyTree, batch: Batch, queue: Queue | None, *, sampling: Sampling
    ) -> tuple[np.ndarray, ...]:
        """(tokens_NL, length_N, logp_NL, stopped_N): `rollout`, cut where its shapes change, and slots filled again."""
        steps, cache = min(sampling.max_tokens - 1, STEPS), min(SMALLEST_CACHE, sampling.max_tokens)
        while True:
            if queue:
                batch = self._filled(variables, batch, queue, sampling)
            prompts, state, slots = batch
            size = len(slots.sequence_B)
            enough = size - _turn(size) if queue else self._halved(size)
            state, *sampled = self._advance(variables, prompts, state, np.int32(enough), sampling, self._pad_id, steps)
            slots.note(*processes.fetch((*sampled, state.length_B, state.stopped_B)))
            batch, going = batch._replace(state=state), int(slots.going().sum())
            if not going and not queue:
                return slots.tokens_NL, slots.length_N, slots.logp_NL, slots.stopped_N
            if enough and going <= enough and not queue:
                batch = self._half(batch, enough)
            if slots.longest() > cache:
                cache = min(2 * cache, sampling.max_tokens)
                batch = batch._replace(state=self._grow(batch.state, cache, self._with_layers))

    def _filled(self, variables: PyTree, batch: Batch, queue: Queue, sampling: Sampling) -> Batch:
        """The batch with sequences from the queue in all of its free slots, as long as there are any."""
        prompts, state, slots = batch
        layers, own, kept = prompts.layers, state.own, state.kept  # these stay where they are
        prompts, state = prompts._replace(layers=None), state._replace(own=[], kept=[])
        free_B, size = np.flatnonzero(~slots.going()), len(slots.sequence_B)
        while len(free_B) and queue:
            taken = queue.take(min(len(free_B), _turn(size)))
            slots.sequence_B[free_B[: len(taken.number_R)]] = taken.number_R
            turn = taken.turn(free_B, _turn(size), size)
            prompts, state = self._refill(
                variables, prompts, state, taken.source, turn, sampling, self._pad_id, self._with_layers
            )
            free_B = free_B[len(taken.number_R) :]
        return Batch(prompts._replace(layers=layers), state._replace(own=own, kept=kept), slots)

    def _half(self, batch: Batch, half: int) -> Batch:
        """Half of the batch, with all sequences that go on."""
        prompts, state, slots = batch
        going_B = slots.going()
        row_B = np.argsort(~going_B, kind="stable")[:half].astype(np.int32)
        layers = prompts.layers  # these stay where they are
        prompts, state = self._keep(prompts._replace(layers=None), state, row_B, self._with_layers)
        slots.sequence_B = slots.sequence_B[row_B]
        return Batch(prompts._replace(layers=layers), state, slots)

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
        seed_B, program = np.asarray([seed], np.uint32), _program(sampling)
        self._check([prompt], seed_B, sampling)
        arrays = self._arrays([prompt], seed_B, sampling)
        with jax.set_mesh(self._mesh):
            read, state = self._begin(variables, *arrays, program, self._pad_id, max_tokens, False)
            yield int(state.token_B[0])
            while bool(going(state, sampling)[0]):
                state = self._step(variables, read, state, program, self._pad_id)
                yield int(state.token_B[0])

    def _check(self, prompts: Sequence[Sequence[int]], seed_B: np.ndarray, sampling: Sampling) -> None:
        """Raises ValueError for what `generate` cannot sample."""
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

    def _padded(self, prompts: Sequence[Sequence[int]], those: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
        """(prompt_PL, length_P) of `those` prompts, in the bucket of the longest of all; what is none is one token."""
        some = [prompts[i] if i < len(prompts) else [self._pad_id] for i in those]
        prompt_PL = np.full((len(some), bucket(max(map(len, prompts)))), self._pad_id, np.int32)
        for row, prompt in zip(prompt_PL, some, strict=True):
            row[: len(prompt)] = prompt
        return prompt_PL, np.array([len(prompt) for prompt in some], np.int32)

    def _arrays(self, prompts: Sequence[Sequence[int]], seed_B: np.ndarray, sampling: Sampling) -> tuple:
        """Inputs of the programs: prompts padded to a bucket, the batch to what the mesh divides."""
        ways, group = batch_multiple(self._mesh), len(seed_B) // len(prompts)
        copies = readings(len(prompts), group, ways)
        missing = -len(prompts) * copies % ways
        those = [i // copies for i in range(len(prompts) * copies + missing)]
        extra = missing * group // copies
        seeds = np.concatenate([np.asarray(seed_B, np.uint32), np.zeros(extra, np.uint32)])
        return *self._padded(prompts, those), seeds, self._stop_ids, np.float32(sampling.temperature)


def check_slots(slots: int, mesh: Mesh) -> None:
    """Raises ValueError for slots that the mesh does not divide."""
    ways = batch_multiple(mesh)
    if slots < 0 or slots % ways:
        raise ValueError(
            f"rollout.slots is {slots}; expected 0 (all at once) or a multiple of the {ways} devices along the mesh's "
            "data, fsdp and expert: change it, or the mesh"
        )


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


def _turn(slots: int) -> int:
    """How many slots are filled at a time."""
    return max(1, slots // FREE_SHARE)


def _program(sampling: Sampling) -> Sampling:
    """The static part: the temperature is an input, so that changing it compiles nothing."""
    return sampling._replace(temperature=0.0)
