"""Bounds on the time of a step: what it has to do, over what the chips can do. Training and decoding, and their meshes.

A bound assumes that arithmetic, memory and every mesh axis' links work at their peak and all at once, so the longest of
them is the least time a step can take; their sum is what it takes if none overlaps. Neither knows latency, imbalance of
experts, kernels below peak, or the host: a measured step lies above the first, and may lie above the second.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator

from experiments.scaling import work
from experiments.scaling.chips import Chip
from experiments.scaling.network import AXES, Links, links
from experiments.scaling.work import COMPUTE_BYTES, Sizes
from r1jax import mesh as mesh_rules
from r1jax.config import PolicyConfig

FORWARDS = 4  # of a step under remat 'full': forward, again, and a backward pass, which is two
MEMORY_SHARE = 0.9  # of a chip's memory that a step may take; the rest is the compiler's and the runtime's


@dataclasses.dataclass(frozen=True)
class Bound:
    """Of one step on one mesh. Seconds by what takes them; `tokens` of the whole step."""

    sizes: tuple[tuple[str, int], ...]
    seconds: tuple[tuple[str, float], ...]  # compute, memory, and each mesh axis' links
    tokens: float
    model_flops: float  # of a step, all chips
    peak: float  # FLOPs a second, all chips
    memory: float  # bytes a chip
    moved: tuple[tuple[str, float], ...]  # bytes a chip, by collective
    micro: int  # micro-batches, or 1

    @property
    def least(self) -> float:
        return max(seconds for _, seconds in self.seconds)

    @property
    def binding(self) -> str:
        return max(self.seconds, key=lambda item: item[1])[0]

    @property
    def summed(self) -> float:
        return sum(seconds for _, seconds in self.seconds)

    @property
    def chips(self) -> int:
        return work.ways(dict(self.sizes), AXES)

    @property
    def mfu(self) -> float:
        return self.model_flops / self.peak / self.least


def training(
    policy: PolicyConfig,
    chip: Chip,
    sizes: Sizes,
    *,
    rows: int,
    row_tokens: int,
    micro: int = 1,
    forwards: int = FORWARDS,
) -> Bound:
    """One update over `rows` packed rows, in `micro` parts, each of which gathers the parameters anew."""
    split = work.token_ways(sizes)
    tokens = rows * row_tokens / split / micro  # of a chip, at a time
    net = links(chip, sizes)
    flops = rows * work.row_flops(policy, row_tokens)
    taken, moved = _train_network(policy, sizes, net, tokens, micro)
    chips = work.ways(sizes, AXES)
    state = work.state_bytes(policy, sizes)
    memory = state + work.activation_bytes(policy, sizes, tokens) + work.working_bytes(policy, sizes)
    traffic = sum(w.traffic / work.ways(sizes, set(w.kept) & {"tensor"}) for w in work.weights(policy))
    # Parameters are written when gathered, twice, and read by each pass; the state is read and written once a step.
    read = micro * (6 * work.held_bytes(policy, sizes) + FORWARDS * COMPUTE_BYTES * tokens * traffic) + 2 * state
    seconds = {"compute": forwards * flops / chips / chip.flops, "memory": read / chip.memory_rate} | taken
    return Bound(
        tuple(sizes.items()), tuple(seconds.items()), rows * row_tokens, 3 * flops, chips * chip.flops, memory,
        tuple(moved.items()), micro,
    )  # fmt: skip


def _train_network(
    policy: PolicyConfig, sizes: Sizes, net: Links, tokens: float, micro: int
) -> tuple[dict[str, float], dict[str, float]]:
    """(seconds by mesh axis, bytes a chip by collective) of one update."""
    seconds: dict[str, float] = {}
    moved: dict[str, float] = {}
    gathered = work.gathered_bytes(policy, sizes)
    gradient = 2 if policy.param_dtype == "float32" else 1  # gradients are reduced in the parameters' own precision
    for axes, received in gathered.items():
        used = tuple(axis for axis in axes if sizes[axis] > 1)
        _add(seconds, "+".join(used), micro * net.gather_seconds(used, (2 + gradient) * received))
        _add(moved, "all-gather of parameters", 2 * micro * received)
        _add(moved, "reduce-scatter of gradients", gradient * micro * received)
    if sizes["expert"] > 1 and policy.experts:
        sent = 6 * micro * work.routed_bytes(policy, sizes, tokens)  # there and back: forward, again, backward
        _add(seconds, "expert", net.exchange_seconds("expert", sent))
        _add(moved, "all-to-all of tokens", sent)
    if sizes["context"] > 1:
        share = (sizes["context"] - 1) * tokens  # the other chips' part of the rows
        received = 3 * micro * share * work.latent_width(policy) * COMPUTE_BYTES * policy.layers
        _add(seconds, "context", net.gather_seconds(("context",), received))
        _add(moved, "all-gather of latents", received)
    if sizes["tensor"] > 1:
        # Two sums a layer, in each of three passes; a sum is a reduce-scatter and an all-gather.
        part = (sizes["tensor"] - 1) / sizes["tensor"]
        received = 6 * micro * 2 * part * tokens * policy.width * COMPUTE_BYTES * policy.layers
        _add(seconds, "tensor", net.gather_seconds(("tensor",), received))
        _add(moved, "all-reduce of activations", received)
    for axes, received in work.reduced_bytes(policy, sizes).items():
        used = tuple(axis for axis in axes if sizes[axis] > 1)
        _add(seconds, "+".join(used), net.gather_seconds(used, received))
        _add(moved, "all-reduce of gradients", received)
    return seconds, moved


def _add(to: dict[str, float], name: str, number: float) -> None:
    to[name] = to.get(name, 0) + number


def decoding(policy: PolicyConfig, chip: Chip, sizes: Sizes, *, sequences: int, cache: int, longest: int) -> Bound:
    """One token for each of `sequences`, whose caches hold `cache` tokens on average and have room for `longest`.

    Nothing is gathered: experts stay on their chips, other parameters are whole on each but for `tensor`
    (configs/meshes, `decoding`); sequences are split over every axis but `tensor`, along which each has the cache.
    """
    split, tensor = work.ways(sizes, mesh_rules.ACTIVATIONS["B"]), sizes["tensor"]
    own = sequences / split
    net = links(chip, sizes)
    chips = work.ways(sizes, AXES)
    slot = work.latent_width(policy) * COMPUTE_BYTES * policy.layers
    held = read = 0.0
    for w in work.weights(policy):
        here = COMPUTE_BYTES * w.size / work.ways(sizes, w.kept)
        held += here
        # An expert that no token of its group asks for is not read.
        group = own * sizes["expert"]
        read += here * (1 - (1 - policy.active_experts / policy.experts) ** group if w.routed else 1)
    if not policy.tied:
        read -= COMPUTE_BYTES * policy.vocab_size * policy.width / tensor  # the embedding is looked up
    flops = sequences * decode_flops(policy, cache)
    seconds = {
        "compute": flops / chips / chip.flops,
        "memory": (read + own * cache * slot) / chip.memory_rate,
    }
    moved: dict[str, float] = {}
    if sizes["expert"] > 1 and policy.experts:
        sent = 2 * work.routed_bytes(policy, sizes, own)
        seconds["expert"] = net.exchange_seconds("expert", sent)
        moved["all-to-all of tokens"] = sent
    if tensor > 1:
        received = 2 * 2 * (tensor - 1) / tensor * own * policy.width * COMPUTE_BYTES * policy.layers
        seconds["tensor"] = net.gather_seconds(("tensor",), received)
        moved["all-reduce of activations"] = received
    memory = held + own * longest * slot
    return Bound(
        tuple(sizes.items()),
        tuple(seconds.items()),
        sequences,
        flops,
        chips * chip.flops,
        memory,
        tuple(moved.items()),
        1,
    )


def decode_flops(policy: PolicyConfig, cache: int) -> float:
    """Of one token against a cache: latents are keys and values of every head (models/attention_mla.py)."""
    if policy.attention == "mla":
        channels = 2 * policy.kv_lora_rank + policy.rope_head_dim
    else:
        channels = 2 * policy.head_dim
    return 2.0 * work.active_parameters(policy) + 2.0 * policy.layers * policy.heads * channels * cache


def _powers(limit: int) -> list[int]:
    return [2**i for i in range(limit.bit_length()) if 2**i <= limit]


def meshes(policy: PolicyConfig, chip: Chip, chips: int) -> Iterator[Sizes]:
    """Every mesh of so many chips, by powers of two, over which the policy divides; only data crosses slices."""
    slices = chip.slices(chips)
    each = chips // slices
    heads = policy.kv_heads if policy.attention == "gqa" else policy.heads
    for expert, tensor, context in itertools.product(_powers(max(policy.experts, 1)), (1, 2, 4, 8), _powers(64)):
        rest = expert * tensor * context
        if each % rest or (policy.experts or 1) % expert or heads % tensor or policy.vocab_size % tensor:
            continue
        fsdp = each // rest
        sizes = dict(data=slices, fsdp=fsdp, expert=expert, tensor=tensor, context=context)
        if all(policy.width % work.ways(sizes, w.spread) == 0 for w in work.weights(policy)):
            yield sizes


def fits(bound: Bound, chip: Chip) -> bool:
    return bound.memory <= MEMORY_SHARE * chip.memory


@functools.cache
def best_training(policy: PolicyConfig, chip: Chip, chips: int, rows: int, row_tokens: int) -> Bound | None:
    """The mesh and number of micro-batches of the least bound among those that fit; None where none does."""
    found = []
    for sizes in meshes(policy, chip, chips):
        row_ways = work.ways(sizes, mesh_rules.ACTIVATIONS["R"])
        if rows % row_ways or row_tokens % sizes["context"]:
            continue
        for micro in _powers(rows // row_ways):
            bound = training(policy, chip, sizes, rows=rows, row_tokens=row_tokens, micro=micro)
            if fits(bound, chip):
                found.append(bound)
                break  # more parts cost more
    return min(found, key=lambda bound: (bound.least, bound.summed), default=None)


@functools.cache
def best_decoding(
    policy: PolicyConfig, chip: Chip, chips: int, sequences: int, cache: int, longest: int
) -> Bound | None:
    """The mesh of the least bound among those that fit, whatever mesh trains; None where none does."""
    found = []
    slices = chip.slices(chips)
    heads = policy.kv_heads if policy.attention == "gqa" else policy.heads
    for expert, tensor in itertools.product(_powers(max(policy.experts, 1)), (1, 2, 4, 8)):
        data, over = divmod(chips, expert * tensor)
        if over or data % slices or sequences % (data * expert) or heads % tensor or policy.vocab_size % tensor:
            continue
        sizes = dict(data=data, fsdp=1, expert=expert, tensor=tensor, context=1)
        bound = decoding(policy, chip, sizes, sequences=sequences, cache=cache, longest=longest)
        if fits(bound, chip):
            found.append(bound)
    return min(found, key=lambda bound: (bound.least, bound.summed), default=None)
