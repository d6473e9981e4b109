"""Decoding, pure: tokens are sampled one after another, each slot a sequence.

`engine.py` jits these and drives them.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from r1jax.config import PolicyConfig
from r1jax.mesh import constrain
from r1jax.models.attention import DecodeStep, LayerCache
from r1jax.models.policy import PolicyModel
from r1jax.rollout.sampling import sample
from r1jax.types import PyTree

BY_SLOT = ("token_B", "logp_B", "stopped_B", "length_B")  # of a `Decoding`, beside its caches


class Decoding(NamedTuple):
    """The state of the decode loop: B slots, each with a sequence, that one clock steps together."""

    clock: jax.Array  # int32 scalar: the steps so far; modulo its length, where each own cache is written next
    token_B: jax.Array  # the newest
    logp_B: jax.Array  # of it
    stopped_B: jax.Array
    length_B: jax.Array  # tokens sampled
    own: list[PyTree]  # caches of the sampled tokens, a `LayerCache.own` a stack, or a layer where they are apart
    kept: list[PyTree]  # what they are to keep of the token that was fed last


class Sampling(NamedTuple):
    """How tokens are picked. `top_k`, `top_p` and `max_tokens` are part of the compiled program."""

    temperature: float
    top_k: int
    top_p: float
    max_tokens: int


class Prompts(NamedTuple):
    """What all steps read: the layers, the prompts' caches and each sequence's key."""

    layers: list[PyTree] | None  # each layer's variables where they are apart
    caches: list[PyTree]  # a `LayerCache.prompt` a stack, or a layer where they are apart
    length_P: jax.Array
    seed_B: jax.Array
    stop_ids: jax.Array
    temperature: jax.Array


def pin(caches: list[PyTree], letter: str, with_layers: bool) -> list[PyTree]:
    """Caches split by prompts or by sequences, whatever else their axes are."""
    return jax.tree.map(lambda x: constrain(x, letter if with_layers else "N" + letter), caches)


def empty(prompts: list[PyTree], batch: int, slots: int, pad_id: int, with_layers: bool) -> Decoding:
    """Nothing sampled yet, by `batch` sequences; their own caches in the form of the prompts'."""
    own = pin(jax.tree.map(lambda x: cache(x, batch, slots, with_layers), prompts), "B", with_layers)
    return Decoding(
        clock=jnp.zeros((), jnp.int32),
        token_B=jnp.full((batch,), pad_id, jnp.int32),
        logp_B=jnp.zeros((batch,), jnp.float32),
        stopped_B=jnp.zeros((batch,), bool),
        length_B=jnp.zeros((batch,), jnp.int32),
        own=own,
        kept=jax.tree.map(lambda x: x[..., 0, :], own),
    )


def cache(like: jax.Array, batch: int, slots: int, with_layers: bool) -> jax.Array:
    first = like.shape[:0] if with_layers else like.shape[:1]
    return jnp.zeros((*first, batch, *like.shape[len(first) + 1 : -2], slots, like.shape[-1]), like.dtype)


def going(state: Decoding, sampling: Sampling) -> jax.Array:
    """going_B: whether a sequence has neither stopped nor reached its limit."""
    return ~state.stopped_B & (state.length_B < sampling.max_tokens)


def step(
    config: PolicyConfig, variables: PyTree, prompts: Prompts, state: Decoding, sampling: Sampling, pad_id: int
) -> Decoding:
    """Feeds each sequence's newest token and samples the next."""
    model: Any = PolicyModel(config)
    group = prompts.seed_B.shape[0] // prompts.length_P.shape[0]
    newest = jax.lax.rem(state.clock, jax.tree.leaves(state.own)[0].shape[-2])
    where = DecodeStep(jnp.repeat(prompts.length_P, group) + state.length_B - 1, prompts.length_P, newest)

    def write(cache: jax.Array, kept: jax.Array) -> jax.Array:
        """Before the caches are read, and so one token late: written after, XLA would copy them whole."""
        return jax.lax.dynamic_update_slice_in_dim(cache, kept[..., None, :], newest, axis=cache.ndim - 2)

    own = jax.tree.map(write, state.own, state.kept)  # of a sequence's first token there is none: not to be seen
    caches = [LayerCache(*pair) for pair in zip(prompts.caches, own, strict=True)]
    hidden_BD, kept = model.apply(variables, state.token_B, where, caches, prompts.layers, method="decode")
    logits_BV = model.apply(variables, hidden_BD, method="logits")
    state = state._replace(own=own, kept=kept, clock=state.clock + 1)
    return draw(state, logits_BV, prompts, sampling, pad_id)


def draw(state: Decoding, logits_BV: jax.Array, prompts: Prompts, sampling: Sampling, pad_id: int) -> Decoding:
    """Draws the next token of every sequence; of one that has ended it is padding."""
    keys = jax.vmap(lambda seed, t: jax.random.fold_in(jax.random.key(seed), t))(prompts.seed_B, state.length_B)
    token_B, logp_B = sample(
        constrain(logits_BV, "BV"), keys, temperature=prompts.temperature, top_k=sampling.top_k, top_p=sampling.top_p
    )
    going_B = going(state, sampling)
    return state._replace(
        token_B=jnp.where(going_B, token_B, pad_id),
        logp_B=jnp.where(going_B, logp_B, 0.0),
        length_B=state.length_B + going_B,
        stopped_B=state.stopped_B | (going_B & (token_B[:, None] == prompts.stop_ids[None]).any(-1)),
    )


def advance(
    config: PolicyConfig,
    variables: PyTree,
    prompts: Prompts,
    state: Decoding,
    enough: jax.Array | int,
    sampling: Sampling,
    pad_id: int,
    steps: int,
) -> tuple[Decoding, jax.Array, jax.Array]:
    """Decodes until `steps` are done, a cache is full, or no more than `enough` sequences go on.

    Returns:
      (state, tokens_BT, logp_BT): T = 1 + steps, the newest token when it began and then what was sampled.
    """
    slots = jax.tree.leaves(state.own)[0].shape[-2]

    def goes_on(loop: tuple) -> jax.Array:
        state, done, _, _ = loop
        going_B = going(state, sampling)
        longest = jnp.max(jnp.where(going_B, state.length_B, 0))
        return (done < steps) & (longest <= slots) & (jnp.sum(going_B) > enough)

    def once(loop: tuple) -> tuple:
        state, done, tokens_BT, logp_BT = loop
        state = step(config, variables, prompts, state, sampling, pad_id)
        write = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=done + 1, axis=1)
        return state, done + 1, write(tokens_BT, state.token_B[:, None]), write(logp_BT, state.logp_B[:, None])

    more = functools.partial(jnp.pad, pad_width=((0, 0), (0, steps)))
    tokens_BT = constrain(more(state.token_B[:, None], constant_values=pad_id), "BL")
    logp_BT = constrain(more(state.logp_B[:, None]), "BL")
    state, _, tokens_BT, logp_BT = jax.lax.while_loop(goes_on, once, (state, jnp.int32(0), tokens_BT, logp_BT))
    return state, tokens_BT, logp_BT


def grow(state: Decoding, slots: int, with_layers: bool) -> Decoding:
    """The same decoding with caches of `slots` sampled tokens, the oldest in the first slot."""
    held = jax.tree.leaves(state.own)[0].shape[-2]

    def pad(x: jax.Array) -> jax.Array:
        x = jnp.roll(x, -jax.lax.rem(state.clock, held), axis=-2)
        return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, slots - held), (0, 0)])

    return state._replace(own=pin(jax.tree.map(pad, state.own), "B", with_layers), clock=jnp.int32(held))
