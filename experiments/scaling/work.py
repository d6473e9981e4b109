"""What a step has to compute, keep, read and send, from the shapes of a policy and its mesh. No time in here.

Parameters are those of the policy itself, by name, split as r1jax/mesh.py splits them; so tokens are split over every
axis but `tensor`. Counted for each chip, balanced; what imbalance costs is not.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh

from r1jax import mesh as mesh_rules
from r1jax.config import PolicyConfig
from r1jax.models.policy import abstract_variables, parameter_count
from r1jax.training.flops import forward_flops
from r1jax.types import Packed

COMPUTE_BYTES = 2  # bfloat16: activations, and parameters as they are gathered
MOMENT_BYTES = 4
MASTER_BYTES = 4
GATHERED = ("fsdp", "context")  # mesh axes over which parameters are gathered for use; over the others they stay apart
Sizes = dict[str, int]  # mesh axis -> chips


@dataclasses.dataclass(frozen=True)
class Weights:
    """Parameters that are split alike: over `spread` they are gathered before use, over `kept` they stay apart."""

    spread: tuple[str, ...]
    kept: tuple[str, ...]
    routed: bool  # of experts, of which a token passes some
    size: int  # numbers
    traffic: int  # numbers in and out of the matmuls of one token, all layers
    inner: int  # the same of one layer
    layer: int  # numbers of the largest matrix, of one layer


@functools.cache
def weights(policy: PolicyConfig) -> tuple[Weights, ...]:
    """The policy's parameters without the layer of multi-token prediction, by the way `state_shardings` splits them."""
    abstract = abstract_variables(policy)["params"]
    one = AbstractMesh((1,) * len(mesh_rules.AXES), mesh_rules.AXES)
    shardings = jax.tree.leaves(mesh_rules.state_shardings(one, abstract))
    found: dict[tuple, list[int]] = collections.defaultdict(lambda: [0, 0, 0, 0])
    for (path, leaf), sharding in zip(jax.tree_util.tree_leaves_with_path(abstract), shardings, strict=True):
        names = [str(getattr(key, "key", "")) for key in path]
        if names[0] == "mtp":
            continue
        letters = names[-1].rsplit("_", 1)[1]
        routed = "E" in letters and len(letters) == 3
        scanned = len(leaf.shape) > len(letters)
        axes = tuple(axis for part in sharding.spec for axis in _axes(part))
        spread = tuple(axis for axis in axes if axis in GATHERED)
        kept = tuple(axis for axis in axes if axis not in GATHERED)
        layers = leaf.shape[0] if scanned else 1
        looked_up = names[-1] == "embed_VD" and not policy.tied
        moved = 0 if looked_up else _in_and_out(policy, leaf.shape[-len(letters) :], routed)
        group = found[spread, kept, routed]
        group[0] += leaf.size
        group[1] += layers * moved
        group[2] += moved if scanned else 0
        group[3] = max(group[3], leaf.size // layers)
    return tuple(Weights(*kind, *numbers) for kind, numbers in found.items())


def _axes(part: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Of one dimension's entry in a PartitionSpec."""
    return (part,) if isinstance(part, str) else tuple(part or ())


def _in_and_out(policy: PolicyConfig, shape: tuple[int, ...], routed: bool) -> int:
    """Numbers that one token's matmuls with a matrix read and write."""
    if routed:
        return policy.active_experts * (shape[1] + shape[2])
    if len(shape) == 3:  # heads: the side with the head and its channels is one
        return min(shape[0] + shape[1] * shape[2], shape[0] * shape[1] + shape[2])
    return sum(shape) if len(shape) == 2 else 0


def ways(sizes: Sizes, axes: Iterable[str]) -> int:
    return math.prod(sizes[axis] for axis in axes)


def token_ways(sizes: Sizes) -> int:
    """Over how many chips tokens are split."""
    return ways(sizes, (*mesh_rules.ACTIVATIONS["R"], *mesh_rules.ACTIVATIONS["T"]))


@functools.cache
def row_flops(policy: PolicyConfig, tokens: int) -> float:
    """Model FLOPs of a forward pass over one sequence of so many tokens."""
    ones = np.ones((1, tokens), np.int32)
    packed = Packed(ones, ones, 0 * ones, np.arange(tokens, dtype=np.int32)[None], ones, ones.astype(np.float32))
    return forward_flops(policy, packed)


def latent_width(policy: PolicyConfig) -> int:
    """Numbers that a token leaves in a layer's cache, and that a row's chips have to tell each other."""
    if policy.attention == "mla":
        return policy.kv_lora_rank + policy.rope_head_dim
    return 2 * policy.kv_heads * policy.head_dim


def state_bytes(policy: PolicyConfig, sizes: Sizes) -> float:
    """Of training, a chip: parameters, two moments, gradients, a float32 master copy of bfloat16 ones, a reference."""
    own = jnp.dtype(policy.param_dtype).itemsize
    each = own + 2 * MOMENT_BYTES + 4 + own + (MASTER_BYTES if own < MASTER_BYTES else 0)
    return sum(each * w.size / ways(sizes, (*w.spread, *w.kept)) for w in weights(policy))


def gathered_bytes(policy: PolicyConfig, sizes: Sizes) -> dict[tuple[str, ...], float]:
    """Bytes a chip receives when each parameter is gathered once, by the axes that it is gathered over."""
    received: dict[tuple[str, ...], float] = collections.defaultdict(float)
    for w in weights(policy):
        group = ways(sizes, w.spread)
        received[w.spread] += COMPUTE_BYTES * w.size / ways(sizes, w.kept) * (group - 1) / group
    return {axes: n for axes, n in received.items() if n}


def reduced_bytes(policy: PolicyConfig, sizes: Sizes) -> dict[tuple[str, ...], float]:
    """Bytes a chip receives when gradients are summed over the axes that split tokens and not the parameter."""
    received: dict[tuple[str, ...], float] = collections.defaultdict(float)
    split = (*mesh_rules.ACTIVATIONS["R"], *mesh_rules.ACTIVATIONS["T"])
    own = jnp.dtype(policy.param_dtype).itemsize
    for w in weights(policy):
        over = tuple(axis for axis in split if axis not in (*w.spread, *w.kept))
        group = ways(sizes, over)
        received[over] += 2 * own * w.size / ways(sizes, (*w.spread, *w.kept)) * (group - 1) / group
    return {axes: n for axes, n in received.items() if n}


def held_bytes(policy: PolicyConfig, sizes: Sizes) -> float:
    """Of a chip's parameters when they are gathered: what its matmuls read."""
    return sum(COMPUTE_BYTES * w.size / ways(sizes, w.kept) for w in weights(policy))


def mixture_layers(policy: PolicyConfig) -> int:
    return policy.layers - policy.dense_layers


def routed_bytes(policy: PolicyConfig, sizes: Sizes, tokens: float) -> float:
    """Bytes that leave a chip when `tokens` of them go to their experts, all layers; as many come back."""
    group = sizes["expert"]
    each = policy.active_experts * policy.width * COMPUTE_BYTES * (group - 1) / group
    return tokens * each * mixture_layers(policy)


def activation_bytes(policy: PolicyConfig, sizes: Sizes, tokens: float) -> float:
    """Kept for the backward pass under remat 'full': each layer's input, and one layer's inner values."""
    inner = sum(w.inner / ways(sizes, set(w.kept) & {"tensor"}) for w in weights(policy))
    return COMPUTE_BYTES * tokens * (policy.layers * policy.width + 2 * inner)


def working_bytes(policy: PolicyConfig, sizes: Sizes) -> float:
    """Of gathered matrices, twice: those of one kind at work, the next on their way."""
    return 2 * sum(COMPUTE_BYTES * w.layer / ways(sizes, w.kept) for w in weights(policy))


def active_parameters(policy: PolicyConfig) -> int:
    """That multiply a token: without the embedding, which is looked up, unless it is the head, too."""
    embedding = 0 if policy.tied else policy.vocab_size * policy.width
    return parameter_count(policy)[1] - embedding
