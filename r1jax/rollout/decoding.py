"""Decoding, pure: prompts are read, tokens are sampled one after another, and the work is cut to what is left of it.

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
from r1jax.models.policy import PolicyModel, apart
from r1jax.rollout.sampling import sample
from r1jax.types import PyTree


class Decoding(NamedTuple):
    """The state of the decode loop."""

    generated: jax.Array  # int32 scalar: tokens sampled by each sequence that is still going
    token_B: jax.Array  # the newest
    done_B: jax.Array
    tokens_BL: jax.Array
    logp_BL: jax.Array
    length_B: jax.Array
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
    slots: int,
    with_layers: bool,
) -> tuple[Prompts, Decoding]:
    """Reads the prompts and samples the first token of each of B = P * G sequences.

    Args:
      slots: sampled tokens that a cache holds.
      with_layers: whether the layers are to be taken apart.
    """
    model: Any = PolicyModel(config)
    batch, group = seed_B.shape[0], seed_B.shape[0] // prompt_PL.shape[0]
    hidden_PD, caches = model.apply(variables, prompt_PL, prompt_length_P, method="prefill")
    if with_layers:
        caches = [jax.tree.map(lambda x: x[i], stack) for stack in caches for i in range(_layers(stack))]  # noqa: B023
    caches = _pin(caches, "P", with_layers)
    layers = apart(config, variables) if with_layers else None
    prompts = Prompts(layers, caches, prompt_length_P, seed_B, stop_ids, temperature)
    own = _pin(jax.tree.map(lambda x: _empty(x, batch, slots, with_layers), caches), "B", with_layers)
    empty = Decoding(
        generated=jnp.zeros((), jnp.int32),
        token_B=jnp.full((batch,), pad_id, jnp.int32),
        done_B=jnp.zeros((batch,), bool),
        tokens_BL=constrain(jnp.full((batch, sampling.max_tokens), pad_id, jnp.int32), "BL"),
        logp_BL=constrain(jnp.zeros((batch, sampling.max_tokens), jnp.float32), "BL"),
        length_B=jnp.zeros((batch,), jnp.int32),
        own=own,
        kept=jax.tree.map(lambda x: x[..., 0, :], own),
    )
    logits_BV = jnp.repeat(model.apply(variables, hidden_PD, method="logits"), group, axis=0)
    return prompts, _record(empty, logits_BV, prompts, sampling, pad_id)


def _layers(stack: PyTree) -> int:
    return int(jax.tree.leaves(stack)[0].shape[0])


def _pin(caches: list[PyTree], letter: str, with_layers: bool) -> list[PyTree]:
    """Caches split by prompts or by sequences, whatever else their axes are."""
    return jax.tree.map(lambda x: constrain(x, letter if with_layers else "N" + letter), caches)


def _empty(prompt: jax.Array, batch: int, slots: int, with_layers: bool) -> jax.Array:
    """A cache for `batch` sequences of `slots` tokens, in the form of the prompts'."""
    first = prompt.shape[:0] if with_layers else prompt.shape[:1]
    return jnp.zeros((*first, batch, *prompt.shape[len(first) + 1 : -2], slots, prompt.shape[-1]), prompt.dtype)


def step(
    config: PolicyConfig, variables: PyTree, prompts: Prompts, state: Decoding, sampling: Sampling, pad_id: int
) -> Decoding:
    """Feeds each sequence's newest token and samples the next."""
    model: Any = PolicyModel(config)
    group = prompts.seed_B.shape[0] // prompts.length_P.shape[0]
    fed = state.generated - 1  # the newest token's number
    where = DecodeStep(jnp.repeat(prompts.length_P, group) + fed, prompts.length_P, fed)

    def write(cache: jax.Array, kept: jax.Array) -> jax.Array:
        """Before the caches are read, and so one token late: written after, XLA would copy them whole."""
        return jax.lax.dynamic_update_slice_in_dim(cache, kept[..., None, :], fed - 1, axis=cache.ndim - 2)

    own = jax.tree.map(write, state.own, state.kept)  # at first there is none, and slot 0 holds nothing for a while
    caches = [LayerCache(*pair) for pair in zip(prompts.caches, own, strict=True)]
    hidden_BD, kept = model.apply(variables, state.token_B, where, caches, prompts.layers, method="decode")
    logits_BV = model.apply(variables, hidden_BD, method="logits")
    return _record(state._replace(own=own, kept=kept), logits_BV, prompts, sampling, pad_id)


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


def advance(
    config: PolicyConfig,
    variables: PyTree,
    prompts: Prompts,
    state: Decoding,
    enough: jax.Array | int,
    sampling: Sampling,
    pad_id: int,
) -> Decoding:
    """Decodes until all tokens are sampled, the caches are full, or no more than `enough` sequences go on."""
    slots = jax.tree.leaves(state.own)[0].shape[-2]
    last = min(sampling.max_tokens, slots + 1)  # the newest token has no slot yet
    return jax.lax.while_loop(
        lambda s: (s.generated < last) & (jnp.sum(~s.done_B) > enough),
        lambda s: step(config, variables, prompts, s, sampling, pad_id),
        state,
    )


def grow(state: Decoding, slots: int, with_layers: bool) -> Decoding:
    """The same decoding with caches of `slots` sampled tokens."""

    def pad(x: jax.Array) -> jax.Array:
        return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, slots - x.shape[-2]), (0, 0)])

    return state._replace(own=_pin(jax.tree.map(pad, state.own), "B", with_layers))


def keep(prompts: Prompts, state: Decoding, row_B: jax.Array, with_layers: bool) -> tuple[Prompts, Decoding]:
    """The same decoding of some of its sequences.

    Each then has a prompt's cache of its own: of a group any number may be left.
    """
    group = prompts.seed_B.shape[0] // prompts.length_P.shape[0]

    def pick(caches: list[PyTree], index: jax.Array) -> list[PyTree]:
        return jax.tree.map(lambda x: jnp.take(x, index, axis=0 if with_layers else 1), caches)

    prompts = prompts._replace(
        caches=_pin(pick(prompts.caches, row_B // group), "P", with_layers),
        length_P=prompts.length_P[row_B // group],
        seed_B=prompts.seed_B[row_B],
    )
    kept = {name: getattr(state, name)[row_B] for name in ("token_B", "done_B", "tokens_BL", "logp_BL", "length_B")}
    own, newest = (_pin(pick(tree, row_B), "B", with_layers) for tree in (state.own, state.kept))
    return prompts, state._replace(own=own, kept=newest, **kept)


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
    """Samples B = P * G completions of at most `max_tokens` tokens in one program, at its largest throughout. Pure.

    Args:
      prompt_PL: int32, padded on the right.
      seed_B: uint32, one a sequence; the token at position t is drawn with fold_in(key(seed), t).
      stop_ids: int32; a sequence ends with the first of these it samples, which is kept.

    Returns:
      (tokens_BL, logp_BL, length_B, finished_B); L = max_tokens, padded on the right.
    """
    prompts, state = begin(
        config, variables, prompt_PL, prompt_length_P, seed_B, stop_ids, temperature, sampling, pad_id,
        slots=sampling.max_tokens, with_layers=False,
    )  # fmt: skip
    state = advance(config, variables, prompts, state, 0, sampling, pad_id)
    return state.tokens_BL, state.logp_BL, state.length_B, state.done_B
