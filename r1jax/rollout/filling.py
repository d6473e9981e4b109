"""How decode slots get their sequences, pure: all at once, some when others have ended, or fewer of them.

`engine.py` jits these and drives them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from r1jax.config import PolicyConfig
from r1jax.mesh import constrain
from r1jax.models.policy import PolicyModel, apart
from r1jax.rollout.decoding import BY_SLOT, Decoding, Prompts, Sampling, advance, cache, draw, empty, pin
from r1jax.types import Array, PyTree


class Read(NamedTuple):
    """Prompts that were read."""

    hidden_PD: jax.Array  # of each one's last token
    caches: list[PyTree]  # a `LayerCache.prompt` a stack, or a layer where they are apart
    length_P: jax.Array


class Turn(NamedTuple):
    """Sequences that take slots over: at most R, the rest with slots that there are not."""

    slot_R: Array
    row_R: Array  # of their prompts among those that were read
    seed_R: Array


def read(config: PolicyConfig, variables: PyTree, prompt_PL: jax.Array, length_P: jax.Array, with_layers: bool) -> Read:
    """Reads prompts, right-padded. `with_layers`: whether the layers are to be taken apart."""
    model: Any = PolicyModel(config)
    hidden_PD, caches = model.apply(variables, prompt_PL, length_P, method="prefill")
    if with_layers:
        caches = [jax.tree.map(lambda x: x[i], stack) for stack in caches for i in range(_layers(stack))]  # noqa: B023
    return Read(hidden_PD, pin(caches, "P", with_layers), length_P)


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
    """Reads the prompts and samples the first token of each of B = P * G sequences, which share their prompts' caches.

    Args:
      slots: sampled tokens that a cache holds.
      with_layers: whether the layers are to be taken apart.
    """
    hidden_PD, caches, _ = read(config, variables, prompt_PL, prompt_length_P, with_layers)
    layers = apart(config, variables) if with_layers else None
    prompts = Prompts(layers, caches, prompt_length_P, seed_B, stop_ids, temperature)
    model: Any = PolicyModel(config)
    logits_PV = model.apply(variables, hidden_PD, method="logits")
    logits_BV = jnp.repeat(logits_PV, seed_B.shape[0] // prompt_PL.shape[0], axis=0)
    state = empty(caches, seed_B.shape[0], slots, pad_id, with_layers)
    return prompts, draw(state, logits_BV, prompts, sampling, pad_id)


def vacant(
    config: PolicyConfig,
    variables: PyTree,
    first: Read,
    stop_ids: jax.Array,
    temperature: jax.Array,
    batch: int,
    pad_id: int,
    slots: int,
    with_layers: bool,
) -> tuple[Prompts, Decoding]:
    """`batch` decode slots for prompts as `first`, all free, each with room for a prompt's cache of its own."""
    layers = apart(config, variables) if with_layers else None
    caches = jax.tree.map(lambda x: cache(x, batch, x.shape[-2], with_layers), first.caches)
    seed_B, length_B = jnp.zeros((batch,), jnp.uint32), jnp.ones((batch,), jnp.int32)
    prompts = Prompts(layers, pin(caches, "P", with_layers), length_B, seed_B, stop_ids, temperature)
    state = empty(caches, batch, slots, pad_id, with_layers)
    return prompts, state._replace(stopped_B=jnp.ones((batch,), bool))


def refill(
    config: PolicyConfig,
    variables: PyTree,
    prompts: Prompts,
    state: Decoding,
    source: Read,
    turn: Turn,
    sampling: Sampling,
    pad_id: int,
    with_layers: bool,
) -> tuple[Prompts, Decoding]:
    """The same decoding with other sequences in some of its slots, their first tokens sampled.

    Their own caches are left as they are: a sequence sees no more slots than it has tokens.
    """
    model: Any = PolicyModel(config)
    logits_RV = model.apply(variables, source.hidden_PD[turn.row_R], method="logits")
    length_R, seed_R = source.length_P[turn.row_R], jnp.asarray(turn.seed_R)
    theirs = prompts._replace(layers=None, caches=[], length_P=length_R, seed_B=seed_R)
    first = draw(empty([], seed_R.shape[0], 0, pad_id, with_layers), logits_RV, theirs, sampling, pad_id)

    def put(whole: jax.Array, part: jax.Array) -> jax.Array:
        return whole.at[turn.slot_R].set(part, mode="drop")

    def put_rows(whole: jax.Array, part: jax.Array) -> jax.Array:
        return constrain(put(whole, part), "B")

    def put_cache(whole: jax.Array, part: jax.Array) -> jax.Array:
        if with_layers:
            return put(whole, part[turn.row_R])
        return whole.at[:, turn.slot_R].set(part[:, turn.row_R], mode="drop")

    prompts = prompts._replace(
        caches=pin(jax.tree.map(put_cache, prompts.caches, source.caches), "P", with_layers),
        length_P=put_rows(prompts.length_P, length_R),
        seed_B=put_rows(prompts.seed_B, seed_R),
    )
    filled: dict[str, Any] = {name: put_rows(getattr(state, name), getattr(first, name)) for name in BY_SLOT}
    return prompts, state._replace(**filled)


def _layers(stack: PyTree) -> int:
    return int(jax.tree.leaves(stack)[0].shape[0])


def keep(prompts: Prompts, state: Decoding, row_B: jax.Array, with_layers: bool) -> tuple[Prompts, Decoding]:
    """The same decoding of some of its sequences.

    Each then has a prompt's cache of its own: of a group any number may be left.
    """
    group = prompts.seed_B.shape[0] // prompts.length_P.shape[0]

    def pick(caches: list[PyTree], index: jax.Array) -> list[PyTree]:
        return jax.tree.map(lambda x: jnp.take(x, index, axis=0 if with_layers else 1), caches)

    prompts = prompts._replace(
        caches=pin(pick(prompts.caches, row_B // group), "P", with_layers),
        length_P=prompts.length_P[row_B // group],
        seed_B=prompts.seed_B[row_B],
    )
    kept = {name: getattr(state, name)[row_B] for name in BY_SLOT}
    own, newest = (pin(pick(tree, row_B), "B", with_layers) for tree in (state.own, state.kept))
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
    state, tokens_BL, logp_BL = advance(
        config, variables, prompts, state, 0, sampling, pad_id, steps=sampling.max_tokens - 1
    )
    return tokens_BL, logp_BL, state.length_B, state.stopped_B
